"""From one camera's score maps to its hazards: searched area, smoothing, mask, regions, places, identity over frames.

Knows no ROS: the node and the replay of a recording interpret with the same lines.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.detector import DEFAULT_MIN_AREA, Detector
from flowclas_ros.detection.drift import Drift, DriftMonitor
from flowclas_ros.detection.geometry import Located
from flowclas_ros.detection.regions import Region, find_regions
from flowclas_ros.detection.smoothing import ScoreSmoother, hysteresis_mask
from flowclas_ros.detection.tracking import HazardTracker, TrackedHazard
from flowclas_ros.errors import FlowclasError

# mask (H,W), score (H,W), regions -> their places: geometry.locate with the frame's depth
Locate = Callable[[npt.NDArray[np.bool_], npt.NDArray[np.float32], Sequence[Region]], Located]
WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Rules:
    """What counts as a hazard.

    min_area: pixels. hysteresis: nats per dimension below the threshold down to which a hazard reaches around its
    pixels above it. region_of_interest: left, top, right, bottom as shares of width and height. smoothing: time
    constant in seconds, 0 for none. confirm_frames, forget_frames: of HazardTracker. drift_window: seconds over which
    the scores are held against the calibration's, 0 for never.
    """

    min_area: int = DEFAULT_MIN_AREA
    hysteresis: float = 0.0
    region_of_interest: tuple[float, ...] = WHOLE_IMAGE
    smoothing: float = 0.0
    confirm_frames: int = 1
    forget_frames: int = 3
    drift_window: float = 10.0


@dataclass(frozen=True, eq=False)
class Judged:
    """What is anomalous in one frame of H x W pixels, before anything is made of it.

    score: (H,W) float32, nats per dimension, smoothed where that is asked for. mask: (H,W) bool, anomalous and
    searched. searched: (H,W) bool, None for every pixel. peak: highest searched score. anomalous_share: of the
    searched pixels, 0..1. seconds: that the judging took. drift: of the raw score over the last frames, all pixels
    counted, searched or not, as in the calibration.
    """

    detector: Detector = field(repr=False)
    score: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    searched: npt.NDArray[np.bool_] | None
    peak: float
    anomalous_share: float
    seconds: float
    drift: Drift

    @cached_property
    def heat(self) -> npt.NDArray[np.float32]:
        """(H,W) float32 in 0..1, 0 where nothing is searched; made when first asked for."""
        heat = self.detector.heat(self.score)
        return heat if self.searched is None else np.where(self.searched, heat, np.float32(0))


@dataclass(frozen=True, eq=False)
class Finding:
    """What one frame holds.

    judged: its pixels. regions: of this frame, highest peak first. hazards: the confirmed ones, seen or held.
    candidates: regions not confirmed yet. located: the regions' places, None without depth. timings: seconds per
    stage. notice: why something began anew with this frame, in one line; empty otherwise.
    """

    judged: Judged
    regions: list[Region]
    hazards: list[TrackedHazard]
    candidates: int
    located: Located | None
    timings: dict[str, float]
    notice: str

    # what detection.overlay draws
    @property
    def heat(self) -> npt.NDArray[np.float32]:
        """(H,W) float32 in 0..1."""
        return self.judged.heat

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """(H,W) bool."""
        return self.judged.mask


class Interpreter:
    """The memory over the frames of one camera. Keep to one thread."""

    def __init__(self, rules: Rules):
        self._smoother: ScoreSmoother | None = None
        self._tracker = HazardTracker(rules.confirm_frames, rules.forget_frames)
        self._drift = DriftMonitor(rules.drift_window)
        self._rules = rules
        self._hidden: npt.NDArray[np.bool_] | None = None  # of the last frame
        self._region: tuple[tuple, npt.NDArray[np.bool_] | None] = ((), None)  # (of what, the pixels inside)
        self.set_rules(rules)

    def set_rules(self, rules: Rules) -> None:
        """Go on by other rules, from the next frame on; known hazards keep their ids."""
        self._rules = rules
        self._tracker.confirm_frames, self._tracker.forget_frames = rules.confirm_frames, rules.forget_frames
        self._drift.window = rules.drift_window
        if rules.smoothing == 0:
            self._smoother = None
        elif self._smoother is None:
            self._smoother = ScoreSmoother(rules.smoothing)
        else:
            self._smoother.time_constant = rules.smoothing

    def reset(self) -> None:
        """Forget the frames so far: a pause, a camera that started anew, a clock that jumped."""
        self._tracker.reset()
        self.model_changed()

    def model_changed(self) -> None:
        """The scores to come are not comparable with those so far; hazards keep their ids."""
        self._drift.reset()
        if self._smoother is not None:
            self._smoother.reset()

    def judge(
        self,
        detector: Detector,
        score: npt.NDArray[np.float32],
        *,
        stamp: int,
        ignore: npt.NDArray[np.bool_] | None = None,
    ) -> Judged:
        """The anomalous pixels of a frame's `score` (H,W), nats per dimension.

        stamp: nanoseconds, 0 for none. ignore: (H,W) bool, pixels that are never a hazard. Raises FlowclasError when
        no pixel is left to search: an empty search must not read as a clear view.
        """
        start = time.perf_counter()
        calibration = detector.calibration
        drift = self._drift.update(score, stamp, None if calibration is None else calibration.drift)
        if self._smoother is not None:
            # What was under the self mask is the robot's: it must not be left behind where the robot moves on.
            score = self._smoother.update(score, stamp, anew=self._hidden)
        self._hidden = ignore
        searched = self._searched(score.shape, ignore)
        count = score.size if searched is None else int(np.count_nonzero(searched))
        if count == 0:
            raise FlowclasError("nothing is left to search: the self mask covers the whole region of interest")
        judged = score if searched is None else np.where(searched, score, np.float32(-np.inf))
        mask = hysteresis_mask(judged, detector.threshold, detector.threshold - self._rules.hysteresis)
        share = float(np.count_nonzero(mask)) / count
        peak = float(judged.max())
        return Judged(detector, score, mask, searched, peak, share, time.perf_counter() - start, drift)

    def interpret(
        self, judged: Judged, stages: dict[str, float], *, stamp: int, locate: Locate | None = None
    ) -> Finding:
        """The frame's hazards. stages: seconds spent on it so far. locate: places the regions, None where no depth is
        asked for.
        """
        start = time.perf_counter()
        # a clear view is the usual one, and labelling its pixels takes milliseconds
        regions = find_regions(judged.mask, judged.score, self._rules.min_area) if judged.anomalous_share else []
        located = None if locate is None else locate(judged.mask, judged.score, regions)
        found = time.perf_counter()
        hazards = self._tracker.update(regions, None if located is None else located.locations, stamp)
        tracked = time.perf_counter()
        timings = {**stages, "judge": judged.seconds, "regions": found - start, "tracking": tracked - found}
        timings["total"] = sum(timings.values())
        return Finding(
            judged=judged,
            regions=regions,
            hazards=hazards,
            candidates=self._tracker.pending,
            located=located,
            timings=timings,
            notice=self._tracker.notice or ("" if self._smoother is None else self._smoother.notice),
        )

    def _searched(self, shape: tuple[int, ...], ignore: np.ndarray | None) -> np.ndarray | None:
        """(H,W) bool, None for every pixel."""
        region = self._rules.region_of_interest
        inside: np.ndarray | None = None
        if tuple(region) != WHOLE_IMAGE:
            if self._region[0] != (shape, region):
                self._region = ((shape, region), _inside(shape, region))
            inside = self._region[1]
        if ignore is None:
            return inside
        return ~ignore if inside is None else inside & ~ignore


def _inside(shape: tuple[int, ...], region: tuple[float, ...]) -> npt.NDArray[np.bool_]:
    """Every pixel that the region touches: at its edge it searches more, not less."""
    height, width = shape
    left, top, right, bottom = region
    inside = np.zeros(shape, dtype=bool)
    inside[
        math.floor(top * height) : math.ceil(bottom * height), math.floor(left * width) : math.ceil(right * width)
    ] = True
    return inside
