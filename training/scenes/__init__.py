"""Rendered worlds with exact ground truth: a space station's outside and a street, each a function of its seed.

    for frame in scenes.render("orbit", seed=3, frames=100, anomalies="test"): frame.image, frame.mask

Objects of the kinds "fit" may be used in fitting, as `cutouts`; those of the kinds "val" to choose by, and those of the
kinds "test" for neither, so that a detector is chosen and tested on what it has not seen. MuJoCo renders (extra `sim`),
without a display through EGL or OSMesa.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from flowclas_ros.errors import FlowclasError

if TYPE_CHECKING:
    from flowclas_ros.training.scenes.film import SceneFrame

DOMAINS = ("orbit", "road")
ANOMALIES = ("none", "fit", "val", "test")
SIZES = (16, 4096)  # px, least and most of a side


def __getattr__(name: str) -> object:
    if name == "SceneFrame":  # OpenCV comes with it, which importing this package must not cost
        from flowclas_ros.training.scenes.film import SceneFrame

        return SceneFrame
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def render(
    domain: str,
    seed: int,
    *,
    frames: int,
    width: int = 320,
    height: int = 240,
    fps: float = 10.0,
    anomalies: str = "none",
) -> Iterator[SceneFrame]:
    """A camera's way through the scene of a seed. The same arguments give the same pixels on the same machine.

    Every 20 seconds a new scene of the same domain begins, as a function of the seed too, so that neither memory nor
    the time for a frame grows with the length; camera poses leap there, stamps go on.

    Raises FlowclasError for an argument out of range, and where MuJoCo or what it renders with is missing.
    """
    _check(
        domain, seed, frames, anomalies in ANOMALIES, f"anomalies '{anomalies}' is not one of {', '.join(ANOMALIES)}"
    )
    if not (SIZES[0] <= width <= SIZES[1] and SIZES[0] <= height <= SIZES[1]):
        raise FlowclasError(f"a picture of {width}x{height} pixels: each side must be {SIZES[0]} to {SIZES[1]}")
    if not 0.1 <= fps <= 1000:
        raise FlowclasError(f"{fps} frames a second: give 0.1 to 1000")
    from flowclas_ros.training.scenes.episodes import play

    return play(domain, seed, frames, (width, height), fps, anomalies)


def cutouts(domain: str, seed: int, count: int, *, kinds: str) -> list[np.ndarray]:
    """Objects of the domain's "fit", "val" or "test" kinds, each alone in its own light: (h, w, 4) uint8 RGBA.

    Raises FlowclasError as `render` does.
    """
    _check(domain, seed, count, kinds in ANOMALIES[1:], f"kinds '{kinds}' is not one of fit, val, test")
    from flowclas_ros.training.scenes.episodes import cut_out

    return cut_out(domain, seed, count, kinds)


def _check(domain: str, seed: int, count: int, known: bool, otherwise: str) -> None:
    if domain not in DOMAINS:
        raise FlowclasError(f"scene '{domain}' is not one of {', '.join(DOMAINS)}")
    if not known:
        raise FlowclasError(otherwise)
    if not 0 <= seed < 2**31:
        raise FlowclasError(f"seed {seed} is not from 0 to 2^31 - 1")
    if count < 1:
        raise FlowclasError(f"{count} frames or objects: give 1 or more")
