"""Rendered scenes for tests, and why there are none."""

from __future__ import annotations

import functools

import pytest

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training import scenes


@functools.cache
def why_not() -> str:
    """Why nothing can be rendered here, empty when it can: a frame is tried."""
    try:
        next(scenes.render("orbit", 0, frames=1, width=32, height=24))
    except FlowclasError as error:
        return str(error)
    return ""


def skip_without_rendering() -> None:
    """Skip the test with the reason."""
    if why_not():
        pytest.skip(why_not())


@functools.cache
def frames(domain: str, seed: int, count: int, anomalies: str, fps: float = 0.5) -> list[scenes.SceneFrame]:
    """Small frames, rendered once a test run."""
    return list(scenes.render(domain, seed, frames=count, width=160, height=120, fps=fps, anomalies=anomalies))
