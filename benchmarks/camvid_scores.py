"""Scores of the kit's CamVid frames by scene, kept on disk so that a second look takes seconds."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from fit_rows import run_flowclas
from record import ROOT, kit_folder

from flowclas_ros.detection.images import read_image
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.progress import progress_bar
from flowclas_ros.training.corruptions import corrupt
from flowclas_ros.training.data import list_frames
from flowclas_ros.training.data_config import DataConfig

# as config/training/kit_road.yaml: ten consecutive frames of a drive are a scene
SCENES = DataConfig(train=("",), sequence_regex="^([^_]+)_", scene_block=10)
SEVERITY = 3
CORRUPTED = 1  # frames of each scene that are seen corrupted: a window of a single frame, the hardest for drift

Scenes = dict[str, list[np.ndarray]]  # a scene's name: its frames' scores, float32


def fit_gaussian(cache: Path) -> Path:
    """The Gaussian of kit_road.yaml, fitted unless `cache` holds it."""
    path = cache / "gaussian" / "model.safetensors"
    if not path.is_file():
        config = ROOT / "config" / "training" / "kit_road.yaml"
        fit = ["fit", "--config", str(config), "--method", "gaussian", "--output", str(path.parent)]
        run_flowclas(fit, kit_folder())
    return path


def scores_of(scorer: Scorer, cache: Path, split: str, corruption: str = "") -> Scenes:
    """Samples of the scores of a CamVid split's frames by scene; under a corruption, of some frames of each."""
    path = cache / f"{split}{'_' if corruption else ''}{corruption}.npz"
    frames = list_frames([str(kit_folder() / "camvid" / "images" / split)], SCENES)
    chosen = [(scene, list(members)) for scene, members in itertools.groupby(frames, key=lambda frame: frame.scene)]
    if corruption:
        chosen = [(scene, members[:: -(-len(members) // CORRUPTED)]) for scene, members in chosen]
    if not path.is_file():
        maps = []
        with progress_bar(path.stem, sum(len(members) for _, members in chosen), "frames") as advance:
            for number, frame in enumerate(frame for _, members in chosen for frame in members):
                image = read_image(frame.path)
                image = corrupt(image, corruption, SEVERITY, number) if corruption else image
                maps.append(scorer.score_batch([image])[0][0][::2, ::2])  # a quarter of the pixels: they are smooth
                advance()
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, *maps)
    with np.load(path) as kept:
        maps = iter([kept[name] for name in kept.files])
    return {Path(scene).name: [next(maps) for _ in members] for scene, members in chosen}
