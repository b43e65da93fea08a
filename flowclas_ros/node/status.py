"""What the detector says about itself: counts, level and the line for people, kept safe between two threads.

Needs no ROS except to build a message. Times are seconds on time.monotonic(): a stopped or jumping /clock must not
hide a camera that has stopped.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Level(IntEnum):
    """The levels of flowclas_ros/DetectorState."""

    CLEAR = 0
    CAUTION = 1
    HAZARD = 2
    STALE = 3
    FAULT = 4


@dataclass(frozen=True)
class Scene:
    """The newest frame that was searched.

    hazards: confirmed ones. candidates: regions of min_area that no confirmed hazard stands for (yet). peak_score:
    nats per dimension, of the searched pixels. nearest_range: metres, NaN when unknown. latency: seconds, NaN for a
    frame without a stamp. drift: 0..1, of the frames up to this one, NaN when unknown.
    """

    header: Any
    hazards: int
    candidates: int
    anomalous_share: float
    peak_score: float
    nearest_range: float
    latency: float
    timings: dict[str, float]
    drift: float = math.nan
    drifted: bool = False

    @property
    def model_time(self) -> float:
        """Seconds from the picture to its scores, as one camera's share of its batch."""
        return sum(self.timings.get(stage, 0.0) for stage in ("preprocess", "infer", "download"))

    @property
    def level(self) -> Level:
        """HAZARD with any confirmed hazard, CAUTION with any other pixel above the threshold, else CLEAR."""
        if self.hazards:
            return Level.HAZARD
        return Level.CAUTION if self.anomalous_share > 0 or self.candidates else Level.CLEAR

    @property
    def text(self) -> str:
        """What was seen, in one line."""
        if self.hazards:
            near = "" if math.isnan(self.nearest_range) else f", nearest at {self.nearest_range:.2f} m"
            return (
                f"{self.hazards} hazard{'s' if self.hazards > 1 else ''}{near}, "
                f"peak score {self.peak_score:.2f} nats per dimension"
            )
        if self.candidates:
            return f"{self.candidates} region{'s' if self.candidates > 1 else ''} not yet confirmed as a hazard"
        if self.anomalous_share > 0:
            return f"{self.anomalous_share:.2%} of the pixels above the threshold, no region as large as min_area"
        return "nothing above the threshold"


@dataclass(frozen=True)
class Counts:
    """Frames since activation: received = processed + dropped + in hand (2, and those held for their depth)."""

    received: int = 0
    processed: int = 0
    dropped: int = 0  # for whatever reason: replaced, too old, broken, or come while paused
    broken: int = 0  # of the dropped, those that could not be searched


class Status:
    """Kept by the executor's thread (received, replaced, resumed) and the worker's (taken, processed, too_old, failed).

    Attributes:
        lock: held from a verdict to its publication, it keeps the level and the scene that it is about together, and
            what is said in order.
        scene: the newest frame searched.
    """

    def __init__(self, now: float):
        self.lock = threading.RLock()
        self._received = self._processed = self._replaced = self._old = self._broken = 0
        self._last_received = self._last_result = -math.inf
        self._taken, self._took = math.inf, 0.0  # when the frame in hand was taken up, and how long the last one took
        self._since = now
        self._fault = self._late = ""
        self._remarks: dict[str, str] = {}
        self.scene: Scene | None = None

    def received(self, now: float) -> None:
        """A frame has come."""
        with self.lock:
            self._received += 1
            self._last_received = now

    def replaced(self) -> None:
        """A parked frame gave way to a newer one, or was let go at deactivation or while paused."""
        with self.lock:
            self._replaced += 1

    def taken(self, now: float) -> None:
        """The search of a frame begins."""
        with self.lock:
            self._taken = now

    def too_old(self, age: float, max_age: float) -> None:
        """A frame was dropped for its age (seconds by its stamp)."""
        with self.lock:
            self._old += 1
            self._late = f"frames come {age:.2f} s after their stamp (max_age {max_age:g} s)"

    def failed(self, reason: str) -> None:
        """A frame could not be searched; FAULT until one is."""
        with self.lock:
            self._broken += 1
            self._fault = reason

    def processed(self, now: float, scene: Scene) -> None:
        """A frame was searched."""
        with self.lock:
            self._processed += 1
            self._last_result, self._took = now, now - self._taken
            self._fault = self._late = ""
            self.scene = scene

    def resumed(self, now: float) -> None:
        """Frames are searched again after a pause: what was seen before it is no answer any more."""
        with self.lock:
            self._since, self._last_result = now, -math.inf

    def remark(self, about: str, text: str) -> None:
        """Something about `about` (a topic, say) that limits the detector and people should know; "" takes it back."""
        with self.lock:
            if text:
                self._remarks[about] = text
            else:
                self._remarks.pop(about, None)

    @property
    def counts(self) -> Counts:
        """The counts now."""
        with self.lock:
            dropped = self._replaced + self._old + self._broken
            return Counts(self._received, self._processed, dropped, self._broken)

    @property
    def remarks(self) -> str:
        """All that stands, in one line."""
        with self.lock:
            return "; ".join(self._remarks.values())

    def silent(self, now: float, stale_after: float) -> bool:
        """Whether no frame has come for `stale_after` seconds, or none at all yet."""
        return now - self._last_received > stale_after

    def verdict(self, now: float, stale_after: float, absence: str = "") -> tuple[Level, str]:
        """Level and line. A silent camera goes before a fault, a fault before a late result, that before the scene.

        A view without a hazard when a search of more than `stale_after` began, on a device that stalled say, is STALE
        now. What was found in it is still told.

        absence: where a silent camera's frames fail to come from, as the end of a sentence.
        """
        remarks = self.remarks
        with self.lock:
            fault, late, scene = self._fault, self._late, self.scene
            since_frame, since_result = now - self._last_received, now - self._last_result
            waited, took = now - self._since, self._took
        if since_frame > stale_after:
            text = "no frame yet" if math.isinf(since_frame) else f"no frame for {since_frame:.1f} s"
            text += absence
            level, text = Level.STALE, "; ".join(part for part in (text, fault) if part)
        elif fault:
            level, text = Level.FAULT, fault
        elif scene is None or since_result > stale_after:
            text = f"frames arrive, no result for {min(since_result, waited):.1f} s"
            level, text = Level.STALE, "; ".join(part for part in (text, late) if part)
        elif scene.level < Level.HAZARD and took > stale_after:
            level, text = Level.STALE, f"{scene.text}, but the search took {took:.1f} s (stale_after {stale_after:g} s)"
        else:
            level, text = scene.level, scene.text
        return level, "; ".join(part for part in (text, remarks) if part)
