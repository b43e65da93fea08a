"""Fit a small checkpoint on the demo's drawn road in about a minute: `flowclas fit` in miniature.

The same parts as the real thing: pseudo-outliers pasted afresh into every frame, the FlowCLAS objective, calibration
on roads held out. Only the data loader and the trainer are missing, since a minute needs neither.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.backbone import BackboneConfig
from flowclas_ros.model.checkpoint import save_checkpoint
from flowclas_ros.model.flow import FlowConfig
from flowclas_ros.model.flowclas import FlowCLAS, FlowCLASConfig
from flowclas_ros.node.demo_scenes import scenes
from flowclas_ros.node.demo_sprites import patch
from flowclas_ros.training.losses import LossConfig, flowclas_loss, labels_to_grid
from flowclas_ros.training.pseudo_outliers import PasteConfig, draw_count, paste

BUDGET = 45.0  # seconds of training; a slow machine takes fewer steps, not more time
MAX_STEPS = 250
BATCH = 2  # scenes
LEARNING_RATE = 3e-4
FIT_ROADS, FIT_VIEWS = 10, 6
CALIBRATION_ROADS, CALIBRATION_VIEWS = 8, 4
CALIBRATION_SEED = 500  # apart from the fit's seeds, 1 on, and from the stream's, 1000 on

BACKBONE = BackboneConfig("mobilenetv2_100", layers=(1, 2, 3), stride=8)  # 152 channels, a cell every 8 pixels
# deep features of random weights say little, but its first stages are filters all the same
RANDOM_BACKBONE = BackboneConfig("mobilenetv2_100", weights="random", layers=(0, 1), stride=8)
PASTE = PasteConfig(min_objects=1, max_objects=4, min_size=0.04, max_size=0.35, exposure=0.4)
LOSS = LossConfig(alpha=1.0, samples=384, auxiliary=False)

Say = Callable[[str], None]


def fit(path: Path, say: Say, seed: int = 0) -> None:
    """Write a calibrated checkpoint, backbone embedded, to `path`; `say` gets a line at each stage."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = FlowCLAS(FlowCLASConfig(backbone(say), FlowConfig(steps=4), projection_dim=64))
    say(f"drawing {FIT_ROADS * FIT_VIEWS} normal scenes of {FIT_ROADS} roads")
    pictures = [view for road in scenes(1, FIT_ROADS, FIT_VIEWS) for view in road]
    model.flow.initialise(Features(model, pictures))
    steps = train(model, pictures, rng, say)
    say(f"calibrating on {CALIBRATION_ROADS} other roads")
    model.eval()
    with torch.inference_mode():
        held_out = scenes(CALIBRATION_SEED, CALIBRATION_ROADS, CALIBRATION_VIEWS)
        table = Calibration.fit(model(tensor(road)).numpy() for road in held_out)
    provenance = {"data": "drawn by flowclas demo", "seed": seed, "steps": steps}
    save_checkpoint(path, model, calibration=table.to_dict(), provenance=provenance, embed_backbone=True)


def train(model: FlowCLAS, pictures: list[np.ndarray], rng: np.random.Generator, say: Say) -> int:
    """Train until BUDGET or MAX_STEPS is used up; the number of steps taken."""
    say(f"fitting for at most {BUDGET:.0f} s")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=1e-5)
    end, step = time.monotonic() + BUDGET, 0
    while step < MAX_STEPS and time.monotonic() < end:
        images, labels = mixed(pictures, rng)
        features = model.features(images)
        size = tuple(images.shape[-2:])
        grid = labels_to_grid(labels, size, tuple(features.shape[-2:]), model.backbone.stride)  # type: ignore[arg-type]
        losses = flowclas_loss(model, features, grid, None, None, LOSS)
        optimiser.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        step += 1
    say(f"{step} steps: NLL {losses['nll']:.2f} on normal, {losses['nll_outlier']:.2f} on pasted (nats per dimension)")
    return step


def mixed(pictures: list[np.ndarray], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """BATCH scenes with fresh pseudo-outliers: (B, 3, H, W) in 0..1 and labels (B, H, W) uint8."""
    images, labels = [], []
    for index in rng.integers(len(pictures), size=BATCH):
        scene = pictures[index][:, ::-1] if rng.random() < 0.5 else pictures[index]
        image, label = paste(scene, [patch(rng) for _ in range(draw_count(PASTE, rng))], PASTE, rng)
        images.append(image)
        labels.append(label)
    return tensor(images), torch.from_numpy(np.stack(labels))


def tensor(pictures: list[np.ndarray]) -> torch.Tensor:
    """(H, W, 3) uint8 RGB pictures as (B, 3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


class Features:
    """The pictures' features in batches, as often as iterated over, without keeping them."""

    def __init__(self, model: FlowCLAS, pictures: list[np.ndarray]):
        self._model, self._pictures = model, pictures

    def __iter__(self) -> Iterator[tuple[torch.Tensor, None]]:
        # every sixth picture starts a batch, so that a batch (ActNorm's start) spans several roads
        for first in range(FIT_VIEWS):
            yield self._model.features(tensor(self._pictures[first::FIT_VIEWS])), None


def backbone(say: Say) -> BackboneConfig:
    """MobileNetV2 with the kit's weights, else timm's hub's, else random ones; `say` tells which."""
    folder = Path(os.environ.get("FLOWCLAS_KIT") or Path(__file__).resolve().parents[2].parent / "shared" / "kit")
    file = folder / "backbone" / "mobilenetv2_100.tf_in1k.safetensors"
    if file.is_file():
        say("backbone: MobileNetV2, weights from the kit")
        return replace(BACKBONE, weights=str(file), mean=(0.5,) * 3, std=(0.5,) * 3, kwargs={"pad_type": "same"})
    try:
        FlowCLAS(FlowCLASConfig(BACKBONE, FlowConfig(steps=0), projection_dim=0))
    except FlowclasError as error:
        say(f"backbone: MobileNetV2 with RANDOM weights, so expect less: {str(error).split(';')[0]}")
        return RANDOM_BACKBONE
    say("backbone: MobileNetV2, weights from timm's hub")
    return BACKBONE


def main() -> int:
    """`python -m flowclas_ros.node.demo_fit OUT`: a process of its own, so that the demo can end it at any moment."""
    logging.getLogger("timm").setLevel(logging.ERROR)  # its warning about the kit's folded weights helps nobody here
    try:
        fit(Path(sys.argv[1]), lambda line: print(line, flush=True))
    except FlowclasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
