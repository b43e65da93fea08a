"""From fitted weights to the checkpoint that a robot runs: calibration on normal scenes, provenance, pictures."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

import flowclas_ros
from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.images import read_image, write_json, write_png
from flowclas_ros.detection.overlay import contact_sheet, heat_image
from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.checkpoint import save_checkpoint
from flowclas_ros.model.flowclas import FlowCLAS
from flowclas_ros.training.config import FitConfig
from flowclas_ros.training.data import FitData, Frame, validation_set
from flowclas_ros.training.losses import OUTLIER

CHECKPOINT = "model.safetensors"
SHEET_ROWS = 6


def calibrate(model: FlowCLAS, frames: Sequence[Frame], device: torch.device) -> Calibration:
    """The calibration table of held-out inlier frames, nothing pasted, blocked by scene; with the drift reference.

    Raises:
        FlowclasError: a frame cannot be read, or a score is not finite.
    """
    model = model.to(device).eval()
    shown = track(sorted(frames, key=lambda f: (f.scene, f.path)), description="calibrating")
    scenes = groupby(shown, key=lambda f: f.scene)
    return Calibration.fit_with_drift(_scores(model, members, device) for _, members in scenes)


def _scores(model: FlowCLAS, frames: Iterable[Frame], device: torch.device) -> Iterator[np.ndarray]:
    for frame in frames:
        values = score_image(model, read_image(frame.path), device)
        if not np.isfinite(values).all():
            raise FlowclasError(
                f"'{frame.path}' (scene {frame.scene}) has scores that are not finite: the fit diverged; "
                "lower optimiser.lr or raise loss.alpha"
            )
        yield values


@torch.inference_mode()
def score_image(model: FlowCLAS, image: np.ndarray, device: torch.device) -> np.ndarray:
    """Score (H, W) float32, nats per dimension, of one RGB image (H, W, 3) uint8."""
    x = torch.from_numpy(image).to(device).permute(2, 0, 1).unsqueeze(0).float() / 255
    return model(x)[0].cpu().numpy()


def export(
    output: Path,
    model: FlowCLAS,
    config: FitConfig,
    data: FitData,
    metrics: dict[str, Any],
    device: torch.device,
) -> Path:
    """Calibrate, then write model.safetensors and metrics.json into ``output``; the checkpoint's path."""
    calibration = calibrate(model, data.val, device)
    about = provenance(config, data, metrics)
    path = output / CHECKPOINT
    try:
        save_checkpoint(
            path,
            model,
            calibration=calibration.to_dict(),
            provenance=about,
            embed_backbone=config.embed_backbone or config.model.backbone.weights == "random",
        )
    except OSError as error:
        text = f"'{path}' could not be written: {error.strerror}" if error.strerror else str(error)
        raise FlowclasError(f"{text}; make room, then --resume") from error
    write_json(output / "metrics.json", {"track": model.config.track, **metrics, "provenance": about})
    write_png(output / "val_contact_sheet.png", _sheet(model, config, data, calibration, metrics, device))
    return path


def _sheet(
    model: FlowCLAS,
    config: FitConfig,
    data: FitData,
    calibration: Calibration,
    metrics: dict[str, Any],
    device: torch.device,
) -> np.ndarray:
    """Some validation scenes: as the model saw them, what is foreign in them, and the calibrated heat."""
    scenes = validation_set(config, data)
    rows = []
    for index in np.unique(np.linspace(0, len(scenes) - 1, SHEET_ROWS).round().astype(int)):
        item = scenes[int(index)]
        image, label = item["image"].permute(1, 2, 0).numpy(), item["label"].numpy()
        foreign = np.where((label == OUTLIER)[..., None], (255, 120, 0), image // 2).astype(np.uint8)
        heat = heat_image(calibration.heat(score_image(model, np.ascontiguousarray(image), device)))
        rows.append([(scenes.name(int(index)), image), ("foreign", foreign), ("heat", heat)])
    title = (
        f"{model.config.track} track, validation: AUPRC {metrics['val/auprc']:.3f}, FPR95 {metrics['val/fpr95']:.3f}"
    )
    return contact_sheet(rows, title=title)


def provenance(config: FitConfig, data: FitData, metrics: dict[str, Any]) -> dict[str, Any]:
    """Where a checkpoint comes from: code, data, settings, versions, metrics, date."""
    return {
        **software(),
        "seed": config.seed,
        "config": json.loads(json.dumps(asdict(config))),
        "metrics": metrics,
        "data": {
            "train": describe(data.train),
            "val": describe(data.val),
            "outliers": _describe_names([data.outliers.origin(i) for i in range(len(data.outliers))]),
            "outliers_val": _describe_names([data.outliers_val.origin(i) for i in range(len(data.outliers_val))]),
        },
    }


def software() -> dict[str, Any]:
    """What made a file, and when: this package, its commit, the libraries."""
    import lightning
    import timm

    return {
        "flowclas_ros": flowclas_ros.__version__,
        "git": _git_hash(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "lightning": lightning.__version__,
            "numpy": np.__version__,
        },
    }


def describe(frames: Sequence[Frame]) -> dict[str, Any]:
    """Folders, counts, and a digest over the files' paths and sizes, which tells one set of images from another."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(f"{frame.path.name}\0{frame.path.stat().st_size}\n".encode())
    return {
        "folders": sorted({str(frame.path.parent) for frame in frames}),
        "frames": len(frames),
        "scenes": len({frame.scene for frame in frames}),
        "sha256_of_names_and_sizes": digest.hexdigest(),
    }


def _describe_names(names: Sequence[str]) -> dict[str, Any]:
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return {"objects": len(names), "photos": len(set(names)), "sha256_of_names": digest}


def _git_hash() -> str | None:
    root = Path(flowclas_ros.__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None  # installed from a package, not a checkout
    return done.stdout.strip()
