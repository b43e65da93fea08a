"""A calmer mask: the score smoothed over time, and two thresholds in place of one."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.errors import FlowclasError

Score = npt.NDArray[np.float32]


class ScoreSmoother:
    """Exponential smoothing of the score map with a time constant in seconds: s += (1 - exp(-dt / tau)) (x - s).

    Seconds, not a weight per frame: frames are dropped under load, and the delay must not grow with that. A change
    has arrived to 63 % after `time_constant`, so a hazard is seen later by about that: keep it at a frame or two. After
    a long gap the new frame counts in full by itself. A frame without a stamp, with a stamp that does not go on from
    the last one, or of another size begins anew and comes back as it is; `notice` then says why, in one line.
    One smoother per camera, one thread. Raises FlowclasError for a time constant that is not above 0.
    """

    def __init__(self, time_constant: float) -> None:
        if not (time_constant > 0 and math.isfinite(time_constant)):
            raise FlowclasError(f"smoothing time constant {time_constant:g} s is not above 0: leave it out for none")
        self.time_constant = time_constant
        self.notice = ""
        self._smooth: Score | None = None
        self._stamp: int | None = None

    def reset(self) -> None:
        """Begin anew with the next frame."""
        self._smooth = self._stamp = None

    def update(self, score: Score, stamp: int | None, anew: npt.NDArray[np.bool_] | None = None) -> Score:
        """The smoothed score (H,W) after `score` (H,W): a new array, or `score` itself.

        stamp: ns, 0 for none. anew: pixels, of the last frame's size, whose past does not count.
        """
        self.notice = self._broken_off(score, stamp)
        if self.notice:
            self.reset()
        if self._smooth is None or self._stamp is None or not stamp:
            self._smooth = score
        else:
            weight = -math.expm1(-(stamp - self._stamp) * 1e-9 / self.time_constant)
            past = self._smooth if anew is None else np.where(anew, score, self._smooth)
            # a new array each time: whoever holds the last frame's keeps it
            self._smooth = np.asarray(cv2.addWeighted(score, weight, past, 1.0 - weight, 0.0), np.float32)
        self._stamp = stamp or None
        return self._smooth

    def _broken_off(self, score: Score, stamp: int | None) -> str:
        if self._smooth is None:
            return ""
        if self._smooth.shape != score.shape:
            (h, w), (rows, columns) = self._smooth.shape, score.shape
            return f"frames changed from {w}x{h} to {columns}x{rows} pixels: smoothing begins anew"
        if not stamp:
            return "a frame without a stamp: it cannot be smoothed over time"
        if self._stamp is not None and stamp <= self._stamp:
            return f"time stepped back by {(self._stamp - stamp) * 1e-9:.2f} s: smoothing begins anew"
        return ""


def hysteresis_mask(score: Score, high: float, low: float) -> npt.NDArray[np.bool_]:
    """(H,W) bool: the 8-connected regions of score > low that hold a pixel of score > high.

    A region is then listed on the evidence of its strongest pixel and drawn to its edge; with low = high this is
    score > high. The share of false-alarm pixels that the threshold `high` was asked for does not cover the pixels
    between the two; that something is listed on a normal scene does not become more frequent. Hysteresis in time is
    the tracker's (confirm_frames, forget_frames). Raises FlowclasError when low is above high.
    """
    if not low <= high:
        raise FlowclasError(f"low threshold {low:g} is above the high one {high:g} (nats per dimension): exchange them")
    sure = score > np.float32(high)
    if low == high or not sure.any():
        return sure
    count, labels = cv2.connectedComponents((score > np.float32(low)).view(np.uint8), connectivity=8)
    kept = np.zeros(count, dtype=bool)
    kept[labels[sure]] = True
    return kept[labels]
