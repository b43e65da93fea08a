"""Procedural textures: (h, w, 3) uint8, tileable unless said otherwise, each a function of a generator alone."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Texture = np.ndarray
Colour = tuple[float, float, float]


def noise(
    rng: np.random.Generator, height: int, width: int, cells: int, octaves: int = 4, gain: float = 0.5
) -> np.ndarray:
    """(height, width) float32 tileable fractal noise about 0, deviation 1; `cells` across the width at first."""
    total, weight = np.zeros((height, width), np.float32), 1.0
    for octave in range(octaves):
        columns = min(cells * 2**octave, width)
        rows = max(1, min(round(columns * height / width), height))
        grid = np.pad(rng.normal(size=(rows, columns)).astype(np.float32), 2, mode="wrap")
        zoomed = cv2.resize(
            grid, (width * (columns + 4) // columns, height * (rows + 4) // rows), interpolation=cv2.INTER_CUBIC
        )
        top, left = 2 * height // rows, 2 * width // columns
        total += weight * zoomed[top : top + height, left : left + width]
        weight *= gain
    return total / max(float(total.std()), 1e-6)


def finish(colour: np.ndarray) -> Texture:
    """Float 0..255 to uint8."""
    return np.clip(colour + 0.5, 0, 255).astype(np.uint8)


def tinted(grey: np.ndarray, colour: Colour, spread: float) -> np.ndarray:
    """(h, w, 3) float: `colour`, brighter and darker by the noise `grey` times `spread`."""
    return np.asarray(colour, np.float32) * (1 + spread * grey[..., None])


def mottled(colour: Colour, spread: float = 0.08, cells: int = 8) -> Callable[..., Texture]:
    """Any even material with stains and grain."""

    def make(rng: np.random.Generator) -> Texture:
        return finish(tinted(noise(rng, 128, 128, cells, 5, 0.65), colour, spread))

    return make


def hull(colour: Colour, rows: int = 4, columns: int = 8) -> Callable[..., Texture]:
    """A spacecraft's skin: plates of slightly different tone, seams, rivets, a few hatches and stripes."""

    def make(rng: np.random.Generator) -> Texture:
        h, w = 512, 1024
        tone = np.repeat(np.repeat(rng.normal(0, 0.06, (rows, columns)), h // rows, 0), w // columns, 1)
        picture = tinted(tone + 0.03 * noise(rng, h, w, 12, 5), colour, 1.0)
        for _ in range(rows * columns // 3):  # smaller plates upon the plates
            y, x = int(rng.integers(0, h - 60)), int(rng.integers(0, w - 90))
            high, wide = int(rng.integers(20, 60)), int(rng.integers(25, 90))
            picture[y : y + high, x : x + wide] *= rng.uniform(0.72, 1.08)
            cv2.rectangle(picture, (x, y), (x + wide, y + high), [c * 0.45 for c in colour], 2)
        for row in range(rows):
            cv2.line(picture, (0, row * h // rows), (w, row * h // rows), [c * 0.35 for c in colour], 3)
            picture[row * h // rows + 3 : row * h // rows + 5] *= 1.15
        for column in range(columns):
            x = column * w // columns
            cv2.line(picture, (x, 0), (x, h), [c * 0.35 for c in colour], 3)
            for y in range(8, h, 24):
                cv2.circle(picture, (x + 10, y), 2, [c * 0.55 for c in colour], -1)
        band = int(rng.integers(rows)) * h // rows + 30
        if rng.random() < 0.6:
            picture[band : band + 14] = rng.choice([(178, 60, 40), (50, 80, 150), (40, 40, 44)])
        streaks = cv2.GaussianBlur(noise(rng, h, w, 64, 2), (0, 0), sigmaX=1, sigmaY=25)
        return finish(picture * (1 + 0.12 * streaks[..., None]))

    return make


def foil(colour: Colour) -> Callable[..., Texture]:
    """Crinkled multi-layer insulation."""

    def make(rng: np.random.Generator) -> Texture:
        size = 256
        ridge = 1 - np.abs(noise(rng, size, size, 6, 4, 0.7))
        glint = np.clip(ridge, -1, 1) ** 3
        picture = tinted(glint, colour, 0.38)
        for i in range(0, size, 64):  # the quilting
            picture[i : i + 2] *= 0.6
            picture[:, i : i + 2] *= 0.6
        return finish(picture)

    return make


def solar_cells(rng: np.random.Generator) -> Texture:
    """Dark blue cells with silver lines."""
    size, cell = 256, 64
    picture = np.empty((size, size, 3), np.float32)
    for y in range(0, size, cell):
        for x in range(0, size, cell):
            picture[y : y + cell, x : x + cell] = np.array([22, 30, 74]) * rng.uniform(0.75, 1.25) + rng.uniform(0, 8)
    picture *= 1 + 0.06 * noise(rng, size, size, 16)[..., None]
    picture[::8] = picture[::8] * 0.8 + 12
    picture[::cell] = picture[1::cell] = (150, 150, 140)
    picture[:, ::cell] = picture[:, 1::cell] = (150, 150, 140)
    return finish(picture)


def hazard_stripes(rng: np.random.Generator) -> Texture:
    """Yellow and black, slanted."""
    y, x = np.mgrid[0:128, 0:128]
    stripe = (((x + y) // 16) % 2)[..., None]
    picture = np.where(stripe, (214, 168, 24), (28, 28, 28)).astype(np.float32)
    return finish(picture * (1 + 0.08 * noise(rng, 128, 128, 8)[..., None]))


def planks(colour: Colour) -> Callable[..., Texture]:
    """Boards with grain, gaps and nails."""

    def make(rng: np.random.Generator) -> Texture:
        size, boards = 256, 4
        grain: np.ndarray = np.asarray(cv2.GaussianBlur(noise(rng, size, size, 64, 2), (0, 0), sigmaX=14, sigmaY=0.6))
        grain = grain / max(float(grain.std()), 1e-6)
        tone = np.repeat(rng.normal(0, 0.1, boards), size // boards)[:, None]
        picture = tinted(0.11 * grain + tone, colour, 1.0)
        for board in range(boards):
            y = board * size // boards
            picture[y : y + 4] *= 0.3
            for x in (12, size - 12):
                cv2.circle(picture, (x, y + 16), 2, (50, 46, 42), -1)
        return finish(picture)

    return make


def fabric(colour: Colour, second: Colour) -> Callable[..., Texture]:
    """Cloth in a coarse check."""

    def make(rng: np.random.Generator) -> Texture:
        size = 128
        y, x = np.mgrid[0:size, 0:size]
        check = ((((x // 16) % 2) + ((y // 16) % 2)) / 2)[..., None]
        picture = np.asarray(colour) * (1 - 0.7 * check) + np.asarray(second) * 0.7 * check
        weave = 1 + 0.08 * np.sign(np.sin(x * 1.6) * np.sin(y * 1.6))[..., None]
        return finish(picture * weave * (1 + 0.06 * noise(rng, size, size, 6)[..., None]))

    return make


def fur(colour: Colour, patch: Colour) -> Callable[..., Texture]:
    """A coat with patches and hairs along v."""

    def make(rng: np.random.Generator) -> Texture:
        size = 128
        share = np.clip(noise(rng, size, size, 3, 3) * 1.5 - 0.8, 0, 1)[..., None]
        hairs = cv2.GaussianBlur(noise(rng, size, size, 64, 1), (0, 0), sigmaX=0.5, sigmaY=3)
        picture = np.asarray(colour) * (1 - share) + np.asarray(patch) * share
        return finish(picture * (1 + 0.3 * hairs[..., None]))

    return make


def ribs(colour: Colour, count: int = 12, depth: float = 0.35) -> Callable[..., Texture]:
    """Stripes of light and dark along u: corrugation, cooling fins, coils, tyre treads."""

    def make(rng: np.random.Generator) -> Texture:
        size = 128
        wave = np.sin(np.linspace(0, 2 * np.pi * count, size, endpoint=False))[None, :].repeat(size, 0)
        return finish(tinted(depth * wave + 0.06 * noise(rng, size, size, 8), colour, 1.0))

    return make


def label(colour: Colour, ink: Colour) -> Callable[..., Texture]:
    """A painted or printed surface with a framed sign and lines of writing."""

    def make(rng: np.random.Generator) -> Texture:
        size = 256
        picture = tinted(0.06 * noise(rng, size, size, 6, 5), colour, 1.0)
        cv2.rectangle(picture, (48, 56), (208, 120), ink, 5)
        cv2.line(picture, (60, 88), (int(rng.integers(120, 196)), 88), ink, 10)
        for y in range(146, 220, 18):
            cv2.line(picture, (50, y), (int(rng.integers(110, 206)), y), ink, 5)
        return finish(picture)

    return make
