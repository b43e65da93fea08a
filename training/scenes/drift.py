"""Foreign things adrift: let go so that each crosses the picture at its time, tumbling, with nothing in its way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flowclas_ros.training.scenes.film import camera_matrix
from flowclas_ros.training.scenes.stage import Foreign, Scene, Stage, random_rotation
from flowclas_ros.training.scenes.world import Parts, centred, parts_size

Kinds = dict[str, Callable[[np.random.Generator], Parts]]
EVERY = 2.5  # seconds from one thing's crossing to the next one's, about
SHARES = (0.09, 0.38)  # of the picture's height that a thing's longest side takes
SPEEDS = (0.04, 0.16)  # of the picture's height a second, across it
CLEARANCE = 0.6  # metres to what lies behind
TRIES = 40


def adrift(scene: Scene, kinds: Kinds, seed: int, size: tuple[int, int], seconds: float) -> list[Foreign]:
    """Bodies added to the scene's world, which is not to be compiled before, and how they are let go."""
    rng = np.random.default_rng([seed, 4])
    empty = Stage(scene, 0.0)
    found: list[Foreign] = []
    order: list[str] = []
    time = rng.uniform(0.2, 1.2)
    while time < seconds:
        order = order or list(rng.permutation(sorted(kinds)))
        parts = centred(kinds[order.pop()](rng))
        empty.advance(time)
        way = _way(scene, empty, time, parts_size(parts), size, rng)
        if way is not None:
            name = f"foreign {len(found)}"
            scene.world.body(name, parts, kind="free")
            position, velocity = way
            spin = rng.normal(size=3) * rng.uniform(0.2, 0.9)
            # let go long before the first frame, so that it is on its way wherever the film begins
            found.append(Foreign(name, -1.0, position - velocity * (time + 1.0), random_rotation(rng), velocity, spin))
        time += EVERY * rng.uniform(0.7, 1.4)
    return found


def _way(
    scene: Scene, stage: Stage, time: float, length: float, size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """Where a thing of this length is at `time` and how fast it goes, None where all is in the way."""
    width, height = size
    matrix = camera_matrix(width, height, scene.fovy)
    pose = scene.camera(time)
    for _ in range(TRIES):
        share = np.exp(rng.uniform(*np.log(SHARES)))
        depth = max(length * matrix[0, 0] / (share * height), 0.9)
        pixel = np.array([rng.uniform(0.15, 0.85) * width, rng.uniform(0.15, 0.85) * height, 1.0])
        ray = pose[:3, :3] @ np.linalg.solve(matrix, pixel)
        angle = rng.uniform(0, 2 * np.pi)
        across = np.array([np.cos(angle), np.sin(angle), rng.normal(0, 0.3)])
        velocity = pose[:3, :3] @ across * rng.uniform(*SPEEDS) * height * depth / matrix[0, 0]
        position = pose[:3, 3] + depth * ray
        if _free(stage, pose[:3, 3], position, length) and all(
            _free(stage, position, position + s * 2.5 * velocity, length) for s in (-1, 1)
        ):
            return position, velocity
    return None


def _free(stage: Stage, start: np.ndarray, end: np.ndarray, length: float) -> bool:
    """Whether nothing is met from start to end, nor half the thing's length and some beyond it."""
    mj = stage.scene.world.mj
    way = end - start
    distance = float(np.linalg.norm(way))
    met = mj.mj_ray(stage.model, stage.data, start, way / distance, None, 1, -1, np.zeros(1, np.int32))
    return bool(met < 0 or met > distance + length / 2 + CLEARANCE)
