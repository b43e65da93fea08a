"""Things alone, as RGBA cut-outs on transparent ground."""

from __future__ import annotations

import numpy as np

from flowclas_ros.training.scenes.engine import Renderer
from flowclas_ros.training.scenes.film import SUBFRAMES
from flowclas_ros.training.scenes.mesh import rotation
from flowclas_ros.training.scenes.stage import looking, quaternion, random_rotation
from flowclas_ros.training.scenes.world import Parts, World, centred, parts_size

SIDE = 160  # px of the picture that a thing about fills
FOVY = 30.0  # degrees
APART = 60.0  # metres between things, more than the camera sees
BATCH = 24  # things in a model at a time


def portraits(seed: int, things: list[Parts], rng: np.random.Generator, *, upright: bool) -> list[np.ndarray]:
    """(h, w, 4) uint8 each, cropped to the thing; upright: seen from a little above, else from anywhere."""
    found: list[np.ndarray] = []
    for start in range(0, len(things), BATCH):
        found += _batch(seed + start, things[start : start + BATCH], rng, upright)
    return found


def _batch(seed: int, things: list[Parts], rng: np.random.Generator, upright: bool) -> list[np.ndarray]:
    world = World(seed % 2**31, (SIDE, SIDE), gravity=0.0, extent=5.0, shadow=1024)
    for number, parts in enumerate(things):
        world.body(f"thing {number}", centred(parts))
    world.sun(np.array([0.0, 0.0, -1.0]), (1.0, 1.0, 0.96), reach=8.0)
    world.fill((0, 0, 1), (0.3, 0.3, 0.33), ambient=(0.2, 0.2, 0.21))
    model, data = world.compile()
    renderer = Renderer(model, SIDE, SIDE, FOVY, 0.2, 40.0)
    try:
        for number in range(len(things)):
            data.mocap_pos[number] = (APART * number, 0, 0)
            turn = rotation("z", rng.uniform(0, 360)) if upright else random_rotation(rng)
            data.mocap_quat[number] = quaternion(turn)
        world.mj.mj_forward(model, data)
        return [
            _portrait(renderer, data, number, parts_size(parts), rng, upright) for number, parts in enumerate(things)
        ]
    finally:
        renderer.close()


def _portrait(
    renderer: Renderer, data: object, number: int, size: float, rng: np.random.Generator, upright: bool
) -> np.ndarray:
    middle = np.array([APART * number, 0, 0])
    tilt = np.deg2rad(rng.uniform(5, 25) if upright else 20)
    distance = 0.72 * size / np.tan(np.deg2rad(FOVY / 2))
    pose = looking(middle + distance * np.array([0, -np.cos(tilt), np.sin(tilt)]), middle)
    sun = np.array([rng.uniform(-0.9, 0.9), rng.uniform(0.4, 1.2), -rng.uniform(0.3, 1.2)])
    total, cover = np.zeros((SIDE, SIDE, 3), np.float32), np.zeros((SIDE, SIDE), np.float32)
    for _, right, down in SUBFRAMES:
        renderer.update(data, pose, (right, down))
        renderer.aim_light(0, sun, middle, 8.0)
        colour, there = renderer.colour()
        total += colour
        cover += there
    colour = total / np.maximum(cover, 1)[..., None] * rng.uniform(0.85, 1.15)
    alpha = cover * (255 / len(SUBFRAMES))
    rgba = np.clip(np.dstack([colour, alpha]) + 0.5, 0, 255).astype(np.uint8)
    rows, columns = np.flatnonzero(cover.any(1)), np.flatnonzero(cover.any(0))
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
