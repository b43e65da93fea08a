"""What the tests that fit something share: pictures of smooth noise, and discs to paste into them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


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
