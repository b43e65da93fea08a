"""Where a camera sees the robot itself: a mask from a file or a topic, fitted to the frames, and never to be guessed.

A pixel that is masked cannot be a hazard, so in doubt nothing is masked, and a remark says so: a false alarm on the
robot's own arm is seen at once, a person behind a mask that does not belong there never.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.conversion import BrokenImageError, check_layout

ASPECT_TOLERANCE = 0.01  # relative: a mask of another aspect ratio shows another view

Mask = npt.NDArray[np.bool_]


def mask_file(setting: str, camera: str) -> Path:
    """The file that the parameter self_mask names for a camera."""
    return Path(setting.replace("{camera}", camera))


class SelfMask:
    """One camera's. The executor's thread brings messages (`update`), the worker's asks (`of`)."""

    def __init__(self, pixels: Mask | None = None, live: bool = False):
        self._lock = threading.Lock()
        self._live = live
        self._pixels = pixels  # (h, w), as it came
        self._arrived = 0.0
        self._broken = ""
        self._fitted: Mask | None = None

    @classmethod
    def from_setting(cls, setting: str, camera: str) -> SelfMask | None:
        """Of the parameter self_mask: None for "", a live one for "topic", else the file's. Raises FlowclasError."""
        if setting in ("", "topic"):
            return cls(live=True) if setting else None
        from flowclas_ros.detection.images import read_image, read_labels

        path = mask_file(setting, camera)
        if path.suffix.lower() in (".jpg", ".jpeg"):  # some pixels around what was drawn, where a hazard could be
            raise FlowclasError(
                f"self mask {path} is a JPEG, in which the robot's surroundings are not quite 0: save it as PNG"
            )
        try:
            pixels = read_labels(path) != 0
        except FlowclasError:  # of several channels, or not readable at all
            pixels = read_image(path).any(axis=2)
        return cls(np.asarray(pixels, dtype=bool))

    @property
    def live(self) -> bool:
        """Whether it comes by a topic."""
        return self._live

    def update(self, message: Any, now: float) -> None:
        """Take a mono8 sensor_msgs/Image, received at `now` (monotonic seconds)."""
        try:
            if message.encoding not in ("mono8", "8UC1"):
                raise BrokenImageError(f"encoding '{message.encoding}' is not mono8")
            check_layout(message, 1)
            size = (message.height, message.width)
            pixels = np.ndarray(size, np.uint8, message.data, strides=(message.step, 1)) != 0
            broken = ""
        except BrokenImageError as error:
            pixels, broken = None, f"self mask is not readable, nothing is masked: {error}"
        with self._lock:
            self._pixels, self._broken, self._arrived, self._fitted = pixels, broken, now, None

    def of(self, shape: tuple[int, ...], now: float, stale_after: float) -> tuple[Mask | None, str]:
        """The mask for a frame of `shape` (H, W), (H,W) bool, and a remark for people.

        None, and the remark says why, where there is none, where it came more than `stale_after` seconds ago (a
        moving arm is somewhere else by now), and where its aspect ratio is another than the frame's. Of another size,
        it is resized.
        """
        with self._lock:
            pixels, broken, arrived, fitted = self._pixels, self._broken, self._arrived, self._fitted
        if broken:
            return None, broken
        if pixels is None:
            return None, "no self mask has come, nothing is masked"
        if self._live and now - arrived > stale_after:
            return None, f"no self mask for {now - arrived:.1f} s, nothing is masked"
        height, width = pixels.shape
        if abs(width * shape[0] / (height * shape[1]) - 1) > ASPECT_TOLERANCE:
            return None, (
                f"self mask of {width}x{height} pixels and image of {shape[1]}x{shape[0]} differ in aspect, "
                "nothing is masked"
            )
        if fitted is None or fitted.shape != tuple(shape[:2]):
            fitted = _resized(pixels, shape)
            with self._lock:
                if self._pixels is pixels:  # else a newer one has come meanwhile
                    self._fitted = fitted
        return fitted, ""


def _resized(pixels: Mask, shape: tuple[int, ...]) -> Mask:
    """At an edge only what is wholly the robot stays masked."""
    height, width = shape[:2]
    if pixels.shape == (height, width):
        return pixels
    share = cv2.resize(pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(share >= 1.0 - 1e-6, dtype=bool)
