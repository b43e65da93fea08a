"""What the detector says about itself: counts, level and the line for people, kept safe between two threads.

Needs no ROS except to build a message. Times are seconds on time.monotonic(): a stopped or jumping /clock must not
hide a camera that has stopped.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowclas_ros.detection.detector import Detection


class Level(IntEnum):
    """The levels of flowclas_ros/DetectorState."""

    CLEAR = 0
    CAUTION = 1
    HAZARD = 2
    STALE = 3
    FAULT = 4


@dataclass(frozen=True)
class Scene:
    """The newest frame that was searched. latency: seconds, NaN for a frame without a stamp."""

    header: Any
    regions: int
    anomalous_share: float
    peak_score: float
    latency: float
    timings: dict[str, float]

    @property
    def level(self) -> Level:
        """HAZARD with any region, CAUTION with pixels above the threshold in regions below min_area, else CLEAR."""
        if self.regions:
            return Level.HAZARD
        return Level.CAUTION if self.anomalous_share > 0 else Level.CLEAR

    @property
    def text(self) -> str:
        """What was seen, in one line."""
        if self.regions:
            return (
                f"{self.regions} hazard{'s' if self.regions > 1 else ''}, "
                f"peak score {self.peak_score:.2f} nats per dimension"
            )
        if self.anomalous_share > 0:
            return f"{self.anomalous_share:.2%} of the pixels above the threshold, no region as large as min_area"
        return "nothing above the threshold"


@dataclass(frozen=True)
class Counts:
    """Frames since activation: received = processed + dropped + in hand (at most 2)."""

    received: int = 0
    processed: int = 0
    dropped: int = 0  # for whatever reason: replaced, too old or broken
    broken: int = 0  # of the dropped, those that could not be searched


class Status:
    """Kept by the executor's thread (received, replaced) and the worker's (processed, too_old, failed)."""

    def __init__(self, now: float):
        self._lock = threading.Lock()
        self._received = self._processed = self._replaced = self._old = self._broken = 0
        self._last_received = self._last_result = -math.inf
        self._since = now
        self._fault = self._late = ""
        self._mismatches: dict[str, str] = {}
        self.scene: Scene | None = None

    def received(self, now: float) -> None:
        """A frame has come."""
        with self._lock:
            self._received += 1
            self._last_received = now

    def replaced(self) -> None:
        """A parked frame gave way to a newer one, or was let go at deactivation."""
        with self._lock:
            self._replaced += 1

    def too_old(self, age: float, max_age: float) -> None:
        """A frame was dropped for its age (seconds by its stamp)."""
        with self._lock:
            self._old += 1
            self._late = f"frames come {age:.2f} s after their stamp (max_age {max_age:g} s)"

    def failed(self, reason: str) -> None:
        """A frame could not be searched; FAULT until one is."""
        with self._lock:
            self._broken += 1
            self._fault = reason

    def processed(self, now: float, header: Any, detection: Detection, latency: float) -> None:
        """A frame was searched."""
        scene = Scene(
            header,
            len(detection.regions),
            float(detection.mask.mean()),
            float(detection.score.max()),
            latency,
            detection.timings,
        )
        with self._lock:
            self._processed += 1
            self._last_result = now
            self._fault = self._late = ""
            self.scene = scene

    def mismatch(self, topic: str, text: str) -> None:
        """A peer on `topic` and this node cannot talk; an empty text takes it back."""
        with self._lock:
            self._mismatches[topic] = text

    @property
    def counts(self) -> Counts:
        """The counts now."""
        with self._lock:
            dropped = self._replaced + self._old + self._broken
            return Counts(self._received, self._processed, dropped, self._broken)

    @property
    def mismatches(self) -> str:
        """The incompatible-QoS events so far, in one line."""
        with self._lock:
            return "; ".join(text for text in self._mismatches.values() if text)

    def silent(self, now: float, stale_after: float) -> bool:
        """Whether no frame has come for `stale_after` seconds, or none at all yet."""
        return now - self._last_received > stale_after

    def verdict(self, now: float, stale_after: float) -> tuple[Level, str]:
        """Level and line. A silent camera goes before a fault, a fault before a late result, that before the scene."""
        mismatches = self.mismatches
        with self._lock:
            fault, late, scene = self._fault, self._late, self.scene
            since_frame, since_result = now - self._last_received, now - self._last_result
            waited = now - self._since
        if since_frame > stale_after:
            text = "no frame yet" if math.isinf(since_frame) else f"no frame for {since_frame:.1f} s"
            level, text = Level.STALE, "; ".join(part for part in (text, fault) if part)
        elif fault:
            level, text = Level.FAULT, fault
        elif scene is None or since_result > stale_after:
            text = f"frames arrive, no result for {min(since_result, waited):.1f} s"
            level, text = Level.STALE, "; ".join(part for part in (text, late) if part)
        else:
            level, text = scene.level, scene.text
        return level, "; ".join(part for part in (text, mismatches) if part)
