"""Scenes one after another, with foreign things let go in them, and the things alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from flowclas_ros.training.scenes import lone
from flowclas_ros.training.scenes.film import SceneFrame, shoot

EPISODE = 20.0  # seconds of one scene


def play(
    domain: str, seed: int, frames: int, size: tuple[int, int], fps: float, anomalies: str
) -> Iterator[SceneFrame]:
    """See `render`."""
    module = _module(domain)
    kinds = None if anomalies == "none" else _kinds(domain, anomalies)
    each, known = frames_per_scene(fps), 0
    for start in range(0, frames, each):
        count = min(each, frames - start)
        own = int(np.random.default_rng([seed, start // each, 5]).integers(2**31)) if start else seed
        scene = module.build(own, size, EPISODE, kinds)
        yield from shoot(scene, own, count, *size, fps, first=start, known=known)
        known += len(scene.foreign)


def frames_per_scene(fps: float) -> int:
    """After how many frames a new scene begins."""
    return max(1, round(EPISODE * fps))


def cut_out(domain: str, seed: int, count: int, kinds: str) -> list[np.ndarray]:
    """See `cutouts`; the kinds take turns, in an order of the seed's."""
    rng = np.random.default_rng([seed, 6])
    makers = list(_kinds(domain, kinds).values())
    order = [i for _ in range(-(-count // len(makers))) for i in rng.permutation(len(makers))][:count]
    return lone.portraits(seed, [makers[i](rng) for i in order], rng, upright=domain == "road")


def _module(domain: str) -> ModuleType:
    return importlib.import_module(f"flowclas_ros.training.scenes.{domain}")


def _kinds(domain: str, which: str) -> dict:
    objects = importlib.import_module(f"flowclas_ros.training.scenes.{domain}_objects")
    return dict(getattr(objects, which.upper()))
