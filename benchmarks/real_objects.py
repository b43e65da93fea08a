"""Real objects as anomalies: the bicyclists of the kit's street scenes, for fits that never saw one.

    python benchmarks/real_objects.py runs/real_objects --seeds 0

Pasted cut-outs resemble what the fits are exposed to, down to their edges; these are where they belong, and resemble
nothing that was pasted. The fits are of kit_road.yaml and its baselines, on those frames of camvid/train that hold no
bicyclist, as many steps as ever; the figures are of the frames of camvid/val (to choose by) and camvid/test that hold
some. Scenes and fits stay in the folder. Writes benchmarks/results/real_objects.json, .md and .png, and goes on where
a stopped call left off.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from fit_grid import Grid, report
from fit_rows import Run, complete, measure
from record import ROOT, kit_folder

from flowclas_ros.detection.images import list_images, read_labels, write_png

BICYCLIST, VOID = 10, 11  # of the kit's CamVid labels
ENOUGH = 100  # px of bicyclists, below which a frame is left out
SPLITS = ("val", "test")
ROWS = ("gaussian", "nll only", "with contrastive")


def main(argv: list[str] | None = None) -> None:
    """Write the scenes, do the fits that are missing, write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of scenes and fits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    arguments = parser.parse_args(argv)
    kit, folder = kit_folder(), arguments.folder.resolve()
    known, all_frames = write_normal_scenes(kit / "camvid", folder / "train")
    tests = {f"bicyclists_{split}": write_labelled_scenes(kit / "camvid", split, folder / split) for split in SPLITS}
    kit_road = Grid.read(ROOT / "benchmarks" / "grids" / "kit_road.yaml")
    places = {test: str(images.parent) for test, (images, _) in tests.items()}
    grid = replace(kit_road, rows={row: kit_road.rows[row] for row in ROWS}, tests=places)
    settings = yaml.safe_load((ROOT / grid.config).read_text(encoding="utf-8"))
    epochs = round(settings["trainer"]["max_epochs"] * all_frames / known)  # fewer frames, as many steps

    def measure_row(row: str, seed: int) -> Run:
        data = ["--data.train", f"[{folder / 'train'}]", "--data.val", "[]", "--data.val_share", "0.1"]
        trainer = ["--trainer.max_epochs", str(epochs), "--trainer.val_every", str(epochs)]
        switches = [*grid.switches(row, quick=False), *data, *trainer, "--trainer.max_minutes", "60"]
        return measure(ROOT / grid.config, switches, seed, tests, kit, folder / row / str(seed))

    report("real_objects", grid, *complete("real_objects", arguments.rows, arguments.seeds, measure_row))


def write_normal_scenes(camvid: Path, folder: Path) -> tuple[int, int]:
    """Links to the frames of camvid/train without any bicyclist; how many they are, and of how many."""
    images = list_images(camvid / "images" / "train")
    normal = [path for path in images if not (_classes(camvid, "train", path) == BICYCLIST).any()]
    _link(normal, folder)
    return len(normal), len(images)


def write_labelled_scenes(camvid: Path, split: str, folder: Path) -> tuple[Path, Path]:
    """Links to a split's frames with bicyclists, and their masks: 1 bicyclist, 255 void, 0 any other class."""
    images, masks = folder / "images", folder / "masks"
    masks.mkdir(parents=True, exist_ok=True)
    for path in list_images(camvid / "images" / split):
        classes = _classes(camvid, split, path)
        if (classes == BICYCLIST).sum() >= ENOUGH:
            _link([path], images)
            mask = np.select([classes == BICYCLIST, classes == VOID], [1, 255]).astype(np.uint8)
            write_png(masks / f"{path.stem}.png", mask)
    return images, masks


def _link(paths: Sequence[Path], folder: Path) -> None:
    """A link to each in the folder, unless an earlier call left it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if not (folder / path.name).is_symlink():
            (folder / path.name).symlink_to(path.resolve())


def _classes(camvid: Path, split: str, image: Path) -> np.ndarray:
    return read_labels(camvid / "labels" / split / f"{image.stem}.png")


if __name__ == "__main__":
    main()
