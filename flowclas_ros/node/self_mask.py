"""Where a camera sees the robot itself: a mask from a file or a topic, fitted to the frames, and never to be guessed.

A pixel that is masked cannot be a hazard, so in doubt nothing is masked, and a remark says so: a false alarm on the
robot's own arm is seen at once, a person behind a mask that does not belong there never.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.tracking import BACKWARD_TOLERANCE
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.conversion import BrokenImageError, check_layout, header_ns

ASPECT_TOLERANCE = 0.01  # relative: a mask of another aspect ratio shows another view
MOST_KEPT = 600  # live masks: 20 seconds of 30 Hz

Mask = npt.NDArray[np.bool_]


def mask_file(setting: str, camera: str) -> Path:
    """The file that the parameter self_mask names for a camera."""
    return Path(setting.replace("{camera}", camera))


@dataclass(frozen=True, eq=False)
class _Kept:
    """A mask, the file's or from the topic. bits: its pixels, eight in a byte: of live ones many are kept. problem: why
    it has none.
    """

    size: tuple[int, int] = (0, 0)
    bits: npt.NDArray[np.uint8] | None = None
    stamp: int = 0  # nanoseconds, 0 for none
    arrived: float = 0.0  # monotonic seconds
    problem: str = ""

    @classmethod
    def of(cls, pixels: Mask, **when: Any) -> _Kept:
        """Of pixels (h, w)."""
        return cls((pixels.shape[0], pixels.shape[1]), np.packbits(pixels), **when)

    def seconds_from(self, stamp: int, received: float) -> float:
        """How far off a frame's it is, by the stamps where both have one, else by the times of receipt."""
        return abs(self.stamp - stamp) * 1e-9 if self.stamp and stamp else abs(self.arrived - received)

    def pixels(self) -> Mask:
        """(h, w) bool; of one that has some."""
        assert self.bits is not None
        height, width = self.size
        return np.unpackbits(self.bits, count=height * width).reshape(height, width).view(bool)


class SelfMask:
    """One camera's. The executor's thread brings messages (`update`), the worker's asks (`of`)."""

    def __init__(self, pixels: Mask | None = None, live: bool = False):
        self._lock = threading.Lock()
        self.live = live  # it comes by a topic
        self._file = None if pixels is None else _Kept.of(pixels)
        self._received: deque[_Kept] = deque(maxlen=MOST_KEPT)
        self._keep = 2.0  # seconds
        self._fitted: tuple[_Kept, Mask] | None = None  # of what, and to the size asked for last

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

    def update(self, message: Any, now: float) -> None:
        """Take a mono8 sensor_msgs/Image, received at `now` (monotonic seconds)."""
        stamp = header_ns(message)
        try:
            if message.encoding not in ("mono8", "8UC1"):
                raise BrokenImageError(f"encoding '{message.encoding}' is not mono8")
            check_layout(message, 1)
            size = (message.height, message.width)
            pixels = np.ndarray(size, np.uint8, message.data, strides=(message.step, 1)) != 0
            received = _Kept.of(pixels, stamp=stamp, arrived=now)
        except BrokenImageError as error:
            problem = f"self mask is not readable, nothing is masked: {error}"
            received = _Kept(stamp=stamp, arrived=now, problem=problem)
        with self._lock:
            if self._received and self._received[-1].stamp - stamp > BACKWARD_TOLERANCE:
                self._received.clear()  # time has stepped back: those are of another run
            self._received.append(received)
            while now - self._received[0].arrived > self._keep:
                self._received.popleft()

    def of(
        self, shape: tuple[int, ...], stale_after: float, *, stamp: int = 0, received: float = 0.0
    ) -> tuple[Mask | None, str]:
        """The mask for a frame of `shape` (H, W), (H,W) bool, and a remark for people.

        stamp: the frame's, nanoseconds, 0 for none. received: when it came, monotonic seconds. Of live masks the one
        nearest in time counts, not the newest: the arm has moved on since the frame that is searched. None, and the
        remark says why, where there is none, where it is more than `stale_after` seconds off, and where its aspect
        ratio is another than the frame's. Of another size, it is resized.
        """
        if self._file is not None:
            return self._fit(self._file, shape)
        with self._lock:
            self._keep = 2 * stale_after  # no search takes longer and counts
            newest_first = list(reversed(self._received))
        if not newest_first:
            return None, "no self mask has come, nothing is masked"
        nearest = min(newest_first, key=lambda one: one.seconds_from(stamp, received))
        off = nearest.seconds_from(stamp, received)
        if off > stale_after:
            return None, f"self mask is {off:.1f} s off the frame (stale, or of another clock), nothing is masked"
        if nearest.bits is None:
            return None, nearest.problem
        return self._fit(nearest, shape)

    def _fit(self, kept: _Kept, shape: tuple[int, ...]) -> tuple[Mask | None, str]:
        height, width = kept.size
        if abs(width * shape[0] / (height * shape[1]) - 1) > ASPECT_TOLERANCE:
            return None, (
                f"self mask of {width}x{height} pixels and image of {shape[1]}x{shape[0]} differ in aspect, "
                "nothing is masked"
            )
        if self._fitted is None or self._fitted[0] is not kept or self._fitted[1].shape != tuple(shape[:2]):
            self._fitted = (kept, _resized(kept.pixels(), shape))
        return self._fitted[1], ""


def _resized(pixels: Mask, shape: tuple[int, ...]) -> Mask:
    """At an edge only what is wholly the robot stays masked."""
    height, width = shape[:2]
    if pixels.shape == (height, width):
        return pixels
    share = cv2.resize(pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(share >= 1.0 - 1e-6, dtype=bool)
