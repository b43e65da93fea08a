"""A tree that looks like the kit and is fitted in a second, for the tests of benchmarks that fit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cv2
import numpy as np

from flowclas_ros import cli

FIT = """
model: {backbone: {name: mobilenetv2_100, weights: random, layers: [1], stride: 8}, flow: {steps: 1}, projection_dim: 8}
data: {train: [ROOT/images], val: [ROOT/images], scene_block: 2, outliers: {cutouts: ROOT/cut}, batch_size: 4,
       x_out_size: [64, 64]}
paste: {min_size: 0.3, max_size: 0.8}
loss: {samples: 32}
trainer: {device: cpu}
"""


def write_tiny_kit(folder: Path) -> None:
    """README.md, images/, masks/ (a box of 1), cut/ (RGBA), and fit.yaml, a configuration on them."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks", "cut"):
        (folder / name).mkdir()
    for i in range(4):
        image = cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (96, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), image)
        mask = np.zeros((64, 96), np.uint8)
        mask[20:40, 20:50] = 1
        cv2.imwrite(str(folder / "masks" / f"{i}.png"), mask)
        rgba = np.zeros((40, 40, 4), np.uint8)
        cv2.circle(rgba, (20, 20), 15, (*rng.integers(255, size=3).tolist(), 255), -1)
        cv2.imwrite(str(folder / "cut" / f"{i}.png"), rgba)
    (folder / "README.md").write_text("a kit")
    (folder / "fit.yaml").write_text(FIT.replace("ROOT", str(folder)))


def in_this_process(arguments: list[str], kit: Path) -> None:
    """In place of fit_rows.run_flowclas: the commands themselves, without a new interpreter for each."""
    if code := cli.main(arguments):
        raise subprocess.CalledProcessError(code, arguments)
