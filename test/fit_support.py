"""What the tests that fit something share: pictures of smooth noise, discs to paste, and a tiny kit of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cv2
import numpy as np

from flowclas_ros import cli

FIT = """
model: {backbone: {name: mobilenetv2_100, weights: random, layers: [1], stride: 8}, flow: {steps: 1}, projection_dim: 8}
data: {train: [ROOT/images], val: [ROOT/val], scene_block: 2, outliers: {cutouts: ROOT/cut}, batch_size: 4,
       x_out_size: [64, 64]}
paste: {min_size: 0.3, max_size: 0.8}
loss: {samples: 32}
trainer: {device: cpu, margin_scenes: 8}
"""


def write_noise(folder: Path, count: int, rng: np.random.Generator) -> None:
    """`count` pictures of 96x64 pixels, 000.png and on, in a new folder."""
    folder.mkdir()
    for i in range(count):
        image = cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (96, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i:03d}.png"), image)


def write_discs(folder: Path, rng: np.random.Generator) -> None:
    """Four RGBA cut-outs, discs of one colour each, in a new folder."""
    folder.mkdir()
    for i in range(4):
        rgba = np.zeros((40, 40, 4), np.uint8)
        cv2.circle(rgba, (20, 20), 15, (*rng.integers(255, size=3).tolist(), 255), -1)
        cv2.imwrite(str(folder / f"{i}.png"), rgba)


def write_tiny_kit(folder: Path) -> None:
    """README.md, images/, val/, masks/ (a box of 1), cut/ (RGBA), and fit.yaml, which is fitted on them in a second."""
    rng = np.random.default_rng(0)
    for split in ("images", "val"):
        write_noise(folder / split, 4, rng)
    write_discs(folder / "cut", rng)
    (folder / "masks").mkdir()
    for i in range(4):
        mask = np.zeros((64, 96), np.uint8)
        mask[20:40, 20:50] = 1
        cv2.imwrite(str(folder / "masks" / f"{i:03d}.png"), mask)
    (folder / "README.md").write_text("a kit")
    (folder / "fit.yaml").write_text(FIT.replace("ROOT", str(folder)))


def in_this_process(arguments: list[str], kit: Path) -> None:
    """In place of fit_rows.run_flowclas: the commands themselves, without a new interpreter for each."""
    if code := cli.main(arguments):
        raise subprocess.CalledProcessError(code, arguments)
