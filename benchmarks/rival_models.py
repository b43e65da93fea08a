"""The rivals of rivals.py, each with the same face: fit on frames of the normal world, then score one.

The kit's MobileNetV2 serves all that take a backbone. Those of anomalib (pip install 'flowclas_ros[training,rivals]')
are its networks and losses with its optimisers and settings; what differs is said at each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from flowclas_ros.detection.images import read_image
from flowclas_ros.model.flowclas import FlowCLAS
from flowclas_ros.training.config import FitConfig

Image = npt.NDArray[np.uint8]
BACKBONE = "flowclas_rival_backbone"
BATCH, QUICK_BATCH = 8, 2


class Missing(Exception):
    """A rival that cannot be had here; the text says why."""


class Rival:
    """A method of anomaly segmentation.

    Args:
        config: of our own fit on the same data: it names frames, backbone and working size.
        frames: the training images.
        quick: a few frames and steps, to see whether it runs.
    """

    settings: Mapping[str, Any] = MappingProxyType({})  # what a reader of the table should know

    def __init__(self, config: FitConfig, frames: Sequence[Path], *, quick: bool) -> None:
        small = replace(config, model=replace(config.model, short_side=160))
        self.config, self.quick = small if quick else config, quick
        self.frames = list(frames)[:: max(1, len(frames) // 8)] if quick else list(frames)

    def fit(self, seed: int) -> None:
        """Fit on the frames."""
        raise NotImplementedError

    def score(self, image: Image) -> npt.NDArray[np.float32]:
        """(H, W, 3) uint8 RGB -> (H, W) float32, higher where it is more anomalous."""
        raise NotImplementedError

    def modules(self) -> nn.Module:
        """All that a checkpoint would have to hold."""
        raise NotImplementedError

    def spread(self, count: int) -> list[Path]:
        """At most so many of the frames, evenly spread."""
        chosen = np.unique(np.linspace(0, len(self.frames) - 1, count).round().astype(int))
        return [self.frames[i] for i in chosen]


class NeighbourMemory(FlowCLAS):
    """Our own features, whitened; the score is the mean distance to the nearest cells of a memory of normal ones."""

    memory: Tensor
    neighbours = 5

    def grid_score(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h, w), the mean Euclidean distance to the nearest neighbours in the whitened space."""
        rows = self.latent(features)[0].movedim(1, -1)
        nearest = torch.cdist(rows.flatten(0, 2), self.memory).topk(self.neighbours, dim=1, largest=False).values
        return nearest.mean(dim=1).view(rows.shape[:3])


class Neighbours(Rival):
    """k nearest neighbours over a random subset of the training cells; size and images are drawn as ours are."""

    settings = MappingProxyType({"neighbours": NeighbourMemory.neighbours, "memory_cells": 10_000, "whitened": True})

    def fit(self, seed: int) -> None:
        flow = replace(self.config.model.flow, steps=0, whitening=True, type="glow")
        config = replace(self.config.model, flow=flow, projection_dim=0, margin_weight=0.0)
        self.model = NeighbourMemory(config).eval()
        frames = self.spread(self.config.trainer.init_frames)
        self.model.flow.initialise([(self._features(path), None) for path in track(frames, "features")])
        generator = torch.Generator().manual_seed(seed)
        share = math.ceil(self.settings["memory_cells"] / len(frames))
        drawn = []
        for path in track(frames, "memory"):
            rows = self.model.latent(self._features(path))[0].movedim(1, -1).flatten(0, 2)
            drawn.append(rows[torch.randperm(len(rows), generator=generator)[:share]])
        self.model.register_buffer("memory", torch.cat(drawn))

    def _features(self, path: Path) -> Tensor:
        return self.model.features(_tensor(read_image(path)))

    @torch.inference_mode()
    def score(self, image: Image) -> npt.NDArray[np.float32]:
        return self.model(_tensor(image))[0].numpy()

    def modules(self) -> nn.Module:
        return self.model


class AnomalibRival(Rival):
    """One of anomalib's networks at our working size, brought to whole multiples of 32 px."""

    normalise = True  # mean and deviation of the backbone; a rival without one takes RGB in 0..1
    steps = 0

    def build(self, size: tuple[int, int]) -> nn.Module:
        """The network for inputs of size (height, width) in pixels."""
        raise NotImplementedError

    def optimiser(self) -> torch.optim.Optimizer:
        """As anomalib sets it."""
        raise NotImplementedError

    def loss(self, images: Tensor) -> Tensor:
        """Of a batch (B, 3, H, W)."""
        raise NotImplementedError

    def fit(self, seed: int) -> None:
        _anomalib()
        torch.manual_seed(seed)
        first = read_image(self.frames[0])
        self.size = self._working_size(first.shape[0], first.shape[1])
        self.model = self.build(self.size)
        self.settings = {**self.settings, "input": list(self.size)}
        self.train_network(seed)
        self.model.eval()

    def train_network(self, seed: int) -> None:
        """Fit by gradient; every step a new batch of the shuffled frames."""
        steps = 2 if self.quick else self.steps
        self.settings = {**self.settings, "steps": steps, "batch": QUICK_BATCH if self.quick else BATCH}
        batches, optimiser = self.batches(seed), self.optimiser()
        self.model.train()
        for _ in track(range(steps), "fit"):
            loss = self.loss(next(batches))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def batches(self, seed: int) -> Iterator[Tensor]:
        """Batches without end, mirrored at random as ours are."""
        rng = np.random.default_rng(seed)
        order: list[Path] = []
        count = QUICK_BATCH if self.quick else BATCH
        while True:
            while len(order) < count:
                order += [self.frames[i] for i in rng.permutation(len(self.frames))]
            images = [read_image(path) for path in order[:count]]
            order = order[count:]
            images = [image[:, ::-1] if rng.random() < self.config.data.flip else image for image in images]
            yield torch.cat([self.prepare(np.ascontiguousarray(image)) for image in images])

    def prepare(self, image: Image) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, *size)."""
        x = F.interpolate(_tensor(image), size=self.size, mode="bilinear", antialias=True)
        if not self.normalise:
            return x
        backbone = self.config.model.backbone
        return (x - torch.tensor(backbone.mean).view(1, 3, 1, 1)) / torch.tensor(backbone.std).view(1, 3, 1, 1)

    @torch.inference_mode()
    def score(self, image: Image) -> npt.NDArray[np.float32]:
        result = self.model(self.prepare(image)).anomaly_map.float()
        result = result.view(1, 1, *result.shape[-2:])
        return F.interpolate(result, size=image.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()

    def modules(self) -> nn.Module:
        return self.model

    def _working_size(self, height: int, width: int) -> tuple[int, int]:
        factor = (self.config.model.short_side or min(height, width)) / min(height, width)
        if self.quick:
            return 64, 96
        return max(64, round(height * factor / 32) * 32), max(64, round(width * factor / 32) * 32)

    def _register_backbone(self) -> None:
        """Let timm make the kit's backbone by a name of its own, which is all that anomalib lets one choose by."""
        backbone = self.config.model.backbone

        def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
            for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
                kwargs.pop(key, None)
            overlay = {"file": backbone.weights}
            return timm.create_model(
                backbone.name, pretrained=True, pretrained_cfg_overlay=overlay, **backbone.kwargs, **kwargs
            )

        entry.__name__ = BACKBONE
        entry.__module__ = __name__
        if BACKBONE not in timm.list_models():
            timm.models.register_model(entry)


class FastFlowRival(AnomalibRival):
    """anomalib's FastFlow blocks on the kit's backbone; its own constructor knows ResNets and transformers only."""

    steps = 400
    settings = MappingProxyType({"flow_steps": 8, "hidden_ratio": 1.0})

    def build(self, size: tuple[int, int]) -> nn.Module:
        from anomalib.models.image.fastflow.anomaly_map import AnomalyMapGenerator
        from anomalib.models.image.fastflow.loss import FastflowLoss
        from anomalib.models.image.fastflow.torch_model import FastflowModel, create_fast_flow_block

        self._register_backbone()
        layers = self.config.model.backbone.layers
        model = FastflowModel.__new__(FastflowModel)
        nn.Module.__init__(model)
        model.input_size = size
        model.feature_extractor = timm.create_model(BACKBONE, features_only=True, out_indices=layers)
        model.feature_extractor.requires_grad_(False)
        info = model.feature_extractor.feature_info
        shapes = [[c, size[0] // s, size[1] // s] for c, s in zip(info.channels(), info.reduction(), strict=True)]
        model.norms = nn.ModuleList(nn.LayerNorm(shape, elementwise_affine=True) for shape in shapes)
        model.fast_flow_blocks = nn.ModuleList(
            create_fast_flow_block(shape, conv3x3_only=False, hidden_ratio=1.0, flow_steps=8) for shape in shapes
        )
        model.anomaly_map_generator = AnomalyMapGenerator(input_size=size)
        self.criterion = FastflowLoss()
        return model

    def optimiser(self) -> torch.optim.Optimizer:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=1e-3, weight_decay=1e-5)

    def loss(self, images: Tensor) -> Tensor:
        return self.criterion(*self.model(images))


class UFlowRival(AnomalibRival):
    """anomalib's U-Flow on the kit's backbone, by the class that it uses for ResNets."""

    steps = 400
    settings = MappingProxyType({"flow_steps": 4})

    def build(self, size: tuple[int, int]) -> nn.Module:
        from anomalib.models.image.uflow.anomaly_map import AnomalyMapGenerator
        from anomalib.models.image.uflow.feature_extraction import LayerNormFeatureExtractor
        from anomalib.models.image.uflow.loss import UFlowLoss
        from anomalib.models.image.uflow.torch_model import UflowModel

        self._register_backbone()
        model = UflowModel.__new__(UflowModel)
        nn.Module.__init__(model)
        model.input_size, model.affine_clamp = size, 2.0
        model.affine_subnet_channels_ratio, model.permute_soft = 1.0, False
        model.feature_extractor = LayerNormFeatureExtractor(BACKBONE, size, layers=self.config.model.backbone.layers)
        model.flow = model.build_flow(4)
        model.anomaly_map_generator = AnomalyMapGenerator(size)
        self.criterion = UFlowLoss()
        return model

    def optimiser(self) -> torch.optim.Optimizer:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=1e-3, weight_decay=1e-5)

    def loss(self, images: Tensor) -> Tensor:
        return self.criterion(*self.model(images))


class PatchCoreRival(AnomalibRival):
    """anomalib's PatchCore on the kit's backbone; frames and coreset bounded, as its search is quadratic."""

    settings = MappingProxyType({"frames": 40, "coreset_ratio": 0.02, "neighbours": 9})

    def build(self, size: tuple[int, int]) -> nn.Module:
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        self._register_backbone()
        # Without our finest layer: PatchCore's grid is its first layer's, and at stride 8 search and memory would be
        # four times as large. Fine to coarse, which is the order that timm answers in, whatever it is asked for.
        layers = self.config.model.backbone.layers[1:]
        return PatchcoreModel(layers=layers, backbone=BACKBONE, num_neighbors=9)

    def train_network(self, seed: int) -> None:
        self.model.train()
        for path in track(self.spread(3 if self.quick else self.settings["frames"]), "features"):
            self.model(self.prepare(read_image(path)))
        self.model.subsample_embedding(self.settings["coreset_ratio"])


class DraemRival(AnomalibRival):
    """anomalib's DRAEM: no backbone. Our pseudo-outliers are its anomaly source, where it would download textures."""

    normalise = False
    steps = 200

    def build(self, size: tuple[int, int]) -> nn.Module:
        from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
        from anomalib.models.image.draem.loss import DraemLoss
        from anomalib.models.image.draem.torch_model import DraemModel

        source = self.config.data.outliers.cutouts
        self.augmenter = PerlinAnomalyGenerator(anomaly_source_path=source, blend_factor=(0.1, 1.0))
        self.criterion = DraemLoss()
        return DraemModel(sspcab=False)

    def optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=1e-4)

    def loss(self, images: Tensor) -> Tensor:
        augmented, mask = self.augmenter(images)
        reconstruction, prediction = self.model(augmented)
        return self.criterion(images, reconstruction, mask, prediction)


class EfficientAdRival(AnomalibRival):
    """EfficientAD distils a teacher that was pretrained on ImageNet; without it there is nothing to distil."""

    def fit(self, seed: int) -> None:
        raise Missing(
            "EfficientAD needs its pretrained teacher (efficientad_pretrained_weights.zip of anomalib's GitHub "
            "releases) and ImageNette photos (s3.amazonaws.com/fast-ai-imageclas), which cannot be reached from here; "
            "neither is in the kit, and a random teacher would be another method"
        )


RIVALS: dict[str, Callable[..., Rival]] = {
    "k nearest neighbours": Neighbours,
    "FastFlow (anomalib)": FastFlowRival,
    "U-Flow (anomalib)": UFlowRival,
    "PatchCore (anomalib)": PatchCoreRival,
    "DRAEM (anomalib)": DraemRival,
    "EfficientAD (anomalib)": EfficientAdRival,
}


def _anomalib() -> None:
    try:
        import anomalib  # noqa: F401
    except ImportError as error:
        raise Missing(
            f"anomalib is not installed ({error.name}): pip install 'flowclas_ros[training,rivals]'"
        ) from error


def _tensor(image: Image) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
