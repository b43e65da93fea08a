"""Has the world changed since calibration? The inlier scores over a window against those of the held-out scenes.

A frame's profile is the distribution function of its scores at fixed edges, the quantiles of the calibration frames.
Hazards are strange pixels, a minority, at the top of the distribution: the frame's pixels above the highest edge are
left out, up to a fifth of all, and the rest counts as the whole. The statistic is Kolmogorov and Smirnov's, the largest
difference between the mean profile of a window and that of the calibration; what is not left out of a hazard moves
it by no more than the hazard's share of the pixels.

It watches what the threshold hangs on, the scores, and no more. Fog, night, wrong exposure and, for a model fitted in
bad weather, frost, sandstorm and noise move the scores of normal pixels little: the false-alarm rate is kept, and the
statistic often stays below its limit, as it should (benchmarks/calibration_check.py). That a hazard is harder to see
then, it does not tell.

Frames of a scene are far from independent, so the scene is the unit, as in calibration.py. A scene's statistic is that
of its worst frame against the other scenes. The statistic of a mean profile is no higher than the highest of its
frames', so a window inside a new, exchangeable scene, however long, lies above the k-th highest of n scenes'
statistics with a probability of about k / (n + 1) at most (conformal, leave-one-out).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flowclas_ros.errors import FlowclasError

ALARM_RATE = 0.05
"""Share of normal scenes that may raise an alarm at some moment; 1 / (scenes + 1) where there are fewer than 19."""

_TOP = 0.05  # share of the calibration's pixels above the highest edge
_LEFT_OUT = 0.2  # largest share of a frame's pixels that may be hazards
_EDGES = 32
_SAMPLE = 4096  # pixels looked at in a frame, on a grid; four times as many at most
_MOST_FRAMES = 2000  # in a window, whatever its seconds: half a megabyte

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DriftReference:
    """What the inlier scores of normal scenes look like, and how far one of them may be from the others.

    edges: (k,) float64, rising, nats per dimension. profile: (k,) float64, mean over the scenes of the share of pixels
    at or below each edge, those above the last left out. limit: of the statistic, 0..1. alarm_rate: share of normal
    scenes that exceed the limit at some moment.
    """

    edges: FloatArray
    profile: FloatArray
    limit: float
    alarm_rate: float

    @classmethod
    def fit(cls, scenes: Sequence[Sequence[npt.NDArray[np.float32]]]) -> DriftReference | None:
        """Of the samples (see `sample`) of each scene's frames; None for a single scene, which has no others.

        Raises FlowclasError for a scene without frames.
        """
        if len(scenes) < 2:
            return None
        if not all(len(frames) for frames in scenes):
            raise FlowclasError("a calibration scene holds no frame: leave it out")
        shares = np.linspace(0, 1 - _TOP, _EDGES + 1)[1:]
        # the mean of each scene's quantiles would flatten their spread: pooled, with the same weight for every scene
        pooled = np.concatenate([np.concatenate(list(frames)) for frames in scenes])
        weights = np.concatenate([np.full(s, 1 / s) for s in (sum(map(len, frames)) for frames in scenes)])
        order = np.argsort(pooled, kind="stable")
        mass = np.cumsum(weights[order]) / len(scenes)
        edges = np.unique(pooled[order][np.searchsorted(mass, shares).clip(max=pooled.size - 1)]).astype(np.float64)
        profiles = [np.array([profile(frame, edges) for frame in frames]) for frames in scenes]
        means = np.array([frames.mean(axis=0) for frames in profiles])
        total = means.sum(axis=0)
        worst = [
            float(np.abs(frames - (total - mean) / (len(scenes) - 1)).max())
            for frames, mean in zip(profiles, means, strict=True)
        ]
        above = max(math.floor(ALARM_RATE * (len(scenes) + 1) + 1e-9), 1)  # k of the k-th highest
        limit = sorted(worst)[-above]
        return cls(edges, total / len(scenes), limit, above / (len(scenes) + 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, a kilobyte."""
        return {
            "edges": self.edges.tolist(),  # to the last bit: no pixel that lies on one must change its side
            "profile": [round(float(share), 6) for share in self.profile],
            "limit": round(self.limit, 6),
            "alarm_rate": self.alarm_rate,
        }

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> DriftReference:
        """Read a table back. Raises FlowclasError when it is not one that `to_dict` wrote."""
        try:
            edges = np.asarray(table["edges"], dtype=np.float64)
            shares = np.asarray(table["profile"], dtype=np.float64)
            reference = cls(edges, shares, float(table["limit"]), float(table["alarm_rate"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FlowclasError(f"the calibration's drift table is unreadable ({error!r}): calibrate again") from error
        if edges.ndim != 1 or edges.shape != shares.shape or not edges.size or (np.diff(edges) < 0).any():
            raise FlowclasError("the calibration's drift table is no rising curve: calibrate again")
        return reference


def sample(score: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scores on a regular grid over a score map (H, W), 4096 of them or more where the map has as many, flat."""
    step = max(1, math.isqrt(score.size // _SAMPLE))
    return np.ascontiguousarray(score[::step, ::step]).ravel()


def profile(scores: npt.NDArray[np.float32], edges: FloatArray) -> FloatArray:
    """Share (k,) of one frame's `scores` (m,) at or below each edge, once what may be hazards is left out."""
    counts = np.bincount(np.searchsorted(edges.astype(np.float32), scores, side="left"), minlength=edges.size + 1)
    share = np.cumsum(counts[:-1]) / scores.size
    return np.asarray(share / (1 - min(1 - share[-1], _LEFT_OUT)))


@dataclass(frozen=True)
class Drift:
    """statistic: 0..1, NaN when not known. drifted: whether it is above the reference's limit."""

    statistic: float = math.nan
    drifted: bool = False
    limit: float = math.nan

    @property
    def text(self) -> str:
        """What it means, for people; empty while all is well or unknown."""
        if not self.drifted:
            return ""
        return (
            f"the scores have drifted from the calibration's ({self.statistic:.2f}, normal up to {self.limit:.2f}): "
            "the false-alarm rate need not hold here; calibrate for this weather, place or camera"
        )


class DriftMonitor:
    """The window over one camera's frames; one thread. window: seconds, 0 for no monitoring."""

    def __init__(self, window: float) -> None:
        self.window = window
        self._frames: deque[tuple[int, FloatArray]] = deque(maxlen=_MOST_FRAMES)

    def reset(self) -> None:
        """Begin anew: another model, another scene."""
        self._frames.clear()

    def update(self, score: npt.NDArray[np.float32], stamp: int, reference: DriftReference | None) -> Drift:
        """The drift with one more frame's score map (H, W), nats per dimension; stamp: nanoseconds, 0 for none.

        A frame without a stamp stands for itself alone, and a stamp that goes back begins anew.
        """
        if reference is None or self.window == 0:
            return Drift()
        if not stamp or (self._frames and stamp < self._frames[-1][0]):
            self._frames.clear()
        self._frames.append((stamp, profile(sample(score), reference.edges)))
        while stamp - self._frames[0][0] > self.window * 1e9:
            self._frames.popleft()
        mean = np.mean([shares for _, shares in self._frames], axis=0)
        statistic = float(np.abs(mean - reference.profile).max())
        return Drift(statistic, statistic > reference.limit, reference.limit)
