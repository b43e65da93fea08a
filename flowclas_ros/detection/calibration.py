"""From raw scores to a threshold with a promised false-alarm rate, and to heat: the scores of held-out normal scenes.

The false-alarm share of scene s at threshold t is F_s(t), the share of its pixels that score above t. Pixels of one
scene are far from independent, so the scene is the unit: only the mean curve F(t) = mean_s F_s(t) and the number of
scenes n are needed for the bound, and only they are kept.

Conformal risk control with a loss bounded by 1 (Angelopoulos et al., arXiv 2208.02814, theorem 1): the smallest t with
(n F(t) + 1) / (n + 1) <= rate has an expected false-alarm share of at most `rate` on a new, exchangeable scene. At
rate = 1 / (n + 1) only the highest score of all fulfils that, and below it nothing does, while the empirical quantile,
F(t) <= rate, hardly feels n. Changing from one to the other there would give a lower threshold to whoever asks for
fewer false alarms. So the bound is kept down to rate = 2 / (n + 1), where it asks for F(t) <= 1 / n, and the empirical
quantile goes on from that very t: no rate gives a lower threshold than a higher one. `guaranteed` says which it is.

All compactions (a frame's scores -> its knots, all frames -> the scene's, all scenes -> the table) only ever overstate
F, so every threshold from the table is at or above the exact one, and the bound survives them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.drift import DriftReference, sample
from flowclas_ros.errors import FlowclasError

HEAT_DECADES = 6.0
"""Heat 1 is a score that one normal pixel in 10**6 exceeds; heat 1/6 is one in ten, 1/3 one in a hundred."""

_SCENE_KNOTS = 4096  # log-spaced shares kept of one frame, and of one scene: 0.4 % apart over seven decades
_HELD = 256  # curves of a scene at once
_TABLE_KNOTS = 1024  # log-spaced shares kept of the mean curve: 1.6 % apart, some 30 kB of JSON
_HEAT_BINS = 65536
_HEAT_SPREADS = 1024  # times the distance of the quartiles that the bins reach; scores beyond are looked up one by one
_DRIFT_FRAMES = 64  # of a scene are looked at for the drift's reference, evenly spread; up to twice as many

FloatArray = npt.NDArray[np.float64]
Curve = tuple[FloatArray, FloatArray]  # knots (score, share of pixels above it); score rising, last share 0


@dataclass(frozen=True, eq=False)
class Calibration:
    """The mean false-alarm curve of held-out normal scenes.

    rates: (k,) float64, strictly falling, an upper bound on F at the threshold of the same index; the last is 0.
    thresholds: (k,) float64, rising, nats per dimension.
    scenes, pixels: how many scenes and pixels the curve rests on.
    drift: what the same scenes' scores look like, for telling when the world has changed; None for a single scene, and
    in checkpoints from before there was drift.
    """

    rates: FloatArray
    thresholds: FloatArray
    scenes: int
    pixels: int
    drift: DriftReference | None = None

    @classmethod
    def fit(cls, scene_scores: Iterable[npt.NDArray[Any] | Iterable[npt.NDArray[Any]]]) -> Calibration:
        """Build the table from the scores (nats per dimension) of every held-out normal scene.

        A scene is one array of any shape, or its frames' arrays one by one. Scenes and frames are read once and
        compacted one by one, so generators keep the memory at one frame however long a scene is.
        Raises FlowclasError when there is no scene, or one is empty or holds a non-finite score.
        """
        curves, pixels = [], 0
        for index, scene in enumerate(scene_scores):
            curve, size = _scene_curve([scene] if isinstance(scene, np.ndarray) else scene, index)
            curves.append(curve)
            pixels += size
        if not curves:
            raise FlowclasError("calibration got 0 scenes: give at least one held-out normal image")
        level, share = _mean_curve(curves, [1] * len(curves))
        rates, thresholds = _thin(share, level, _TABLE_KNOTS)
        return cls(rates=rates, thresholds=thresholds, scenes=len(curves), pixels=pixels)

    @classmethod
    def fit_with_drift(cls, scene_scores: Iterable[Iterable[npt.NDArray[np.float32]]]) -> Calibration:
        """As `fit`, of the score maps (H, W) of every scene's frames; `drift` is fitted on them too, in a long scene on
        some of them.
        """
        samples: list[list[npt.NDArray[np.float32]]] = []

        def sampled(scene: Iterable[npt.NDArray[np.float32]]) -> Iterator[npt.NDArray[np.float32]]:
            kept: list[npt.NDArray[np.float32]] = []
            every = 1
            samples.append(kept)
            for number, score in enumerate(scene):
                if number % every == 0:
                    kept.append(sample(score))
                if len(kept) == 2 * _DRIFT_FRAMES:
                    del kept[1::2]
                    every *= 2
                yield score

        table = cls.fit(sampled(scene) for scene in scene_scores)
        return replace(table, drift=DriftReference.fit(samples))

    @property
    def lowest_guaranteed(self) -> float:
        """The smallest false-alarm rate that the conformal bound is kept for; 1, so none, with a single scene."""
        return 2.0 / (self.scenes + 1)

    def guaranteed(self, false_alarm_rate: float) -> bool:
        """Whether there are scenes enough for the conformal bound at this rate."""
        return false_alarm_rate >= self.lowest_guaranteed * (1.0 - 1e-9)

    def threshold(self, false_alarm_rate: float) -> float:
        """The score above which a pixel is called an anomaly, nats per dimension, for a rate in (0, 1).

        Where `guaranteed` holds: expected share of false alarms on a new normal scene <= rate. Elsewhere: share seen
        on the calibration scenes <= rate, without a promise. A lower rate never has a lower threshold. Raises
        FlowclasError for a rate outside (0, 1).
        """
        if not 0.0 < false_alarm_rate < 1.0:
            raise FlowclasError(
                f"false_alarm_rate {false_alarm_rate:g} is not a share between 0 and 1: "
                "0.001 asks for one false pixel in 1000 on normal scenes"
            )
        conformal = (false_alarm_rate * (self.scenes + 1) - 1.0) / self.scenes
        # Both rise with the rate, so their maximum does; they meet at lowest_guaranteed, the first is the larger above.
        allowed = max(conformal, min(false_alarm_rate, 1.0 / self.scenes))
        # First knot whose (falling) rate is within what is allowed; the last, rate 0, always is.
        return float(self.thresholds[int(np.argmax(self.rates <= allowed))])

    def share_above(self, threshold: float) -> float:
        """The mean share of the scenes' pixels that score above `threshold` (nats per dimension), or a little more."""
        below = int(np.searchsorted(self.thresholds, threshold, side="right"))
        return float(self.rates[below - 1]) if below else 1.0

    def heat(self, score: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Place of each score in the normal scenes' distribution, 0..1, same shape, float32.

        heat = -log10(share of normal pixels that score higher) / 6: every sixth is a further factor of ten rarer, so
        the tail, where anomalies live, takes most of the range. Anything above the highest normal score is 1.
        """
        lowest, highest, per_nat, table = self._heat_table
        index = (score.astype(np.float32, copy=False) - np.float32(lowest)) * np.float32(per_nat)
        # uint16 keeps the look-up at a few ms for a 1080p frame, where interpolation takes 150.
        taken: npt.NDArray[np.float32] = table[np.clip(index, 0, _HEAT_BINS - 1).astype(np.uint16)]
        if highest < self.thresholds[-1]:
            beyond = score > highest
            taken[beyond] = np.interp(score[beyond], self.thresholds, self._heat_knots)
        return taken

    @cached_property
    def _heat_table(self) -> tuple[float, float, float, npt.NDArray[np.float32]]:
        """Heat on a uniform grid of scores: (lowest and highest score, bins per nat, (65536,) float32)."""
        lowest, highest = float(self.thresholds[0]), float(self.thresholds[-1])
        quarter, three_quarters = np.interp([-0.75, -0.25], -self.rates, self.thresholds)
        usual = float(three_quarters - quarter)
        if usual > 0:  # one score far from all others would take the bins away from these
            highest = min(highest, lowest + _HEAT_SPREADS * usual)
        per_nat = (_HEAT_BINS - 1) / max(highest - lowest, 1e-6)
        grid = lowest + np.arange(_HEAT_BINS) / per_nat
        table = np.interp(grid, self.thresholds, self._heat_knots).astype(np.float32)
        table[0] = 0.0  # below everything seen
        if highest == self.thresholds[-1]:
            table[-1] = 1.0  # above it
        return lowest, highest, per_nat, table

    @cached_property
    def _heat_knots(self) -> FloatArray:
        """Heat at the thresholds."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.minimum(-np.log10(self.rates) / HEAT_DECADES, 1.0))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for the checkpoint's header, some 30 kB."""
        # Rates are rounded up and thresholds are float32 scores already: rounding must not break the bound.
        rates = [min(math.ceil(rate * 1e10) / 1e10, 1.0) for rate in self.rates.tolist()]
        return {
            "kind": "mean_scene_exceedance",
            "scenes": self.scenes,
            "pixels": self.pixels,
            "rates": rates,
            "thresholds": [float(np.format_float_positional(np.float32(t), unique=True)) for t in self.thresholds],
            **({} if self.drift is None else {"drift": self.drift.to_dict()}),
        }

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Calibration:
        """Read a table back. Raises FlowclasError when it is not one that `to_dict` wrote."""
        try:
            rates = np.asarray(table["rates"], dtype=np.float64)
            thresholds = np.asarray(table["thresholds"], dtype=np.float32).astype(np.float64)
            drift = DriftReference.from_dict(table["drift"]) if table.get("drift") else None
            calibration = cls(rates, thresholds, int(table["scenes"]), int(table["pixels"]), drift)
        except (KeyError, TypeError, ValueError) as error:
            raise FlowclasError(f"calibration table is unreadable ({error!r}): calibrate again") from error
        shapes_fit = rates.ndim == 1 and rates.shape == thresholds.shape and rates.size > 0 and calibration.scenes > 0
        if not (shapes_fit and rates[-1] == 0 and (np.diff(rates) <= 0).all() and (np.diff(thresholds) >= 0).all()):
            raise FlowclasError("calibration table is no falling curve that ends at 0: calibrate again")
        return calibration


def _scene_curve(frames: Iterable[npt.NDArray[Any]], index: int) -> tuple[Curve, int]:
    """The curve of all pixels of a scene's frames, and how many they are."""
    # Of frames, of as many of those together, and so on: few are held, and each is thinned only a few times.
    levels: list[list[tuple[Curve, int]]] = []
    for scores in frames:
        values = np.sort(np.asarray(scores, dtype=np.float32), axis=None)
        if values.size == 0:
            continue
        if not np.isfinite(values[[0, -1]]).all():  # NaN sorts last, so both ends tell
            raise FlowclasError(
                f"calibration scene {index} holds a non-finite score: fit with a lower learning rate or in fp32"
            )
        held = (_frame_curve(values), values.size)
        for level in itertools.count():
            if level == len(levels):
                levels.append([])
            levels[level].append(held)
            if len(levels[level]) < _HELD:
                break
            held, levels[level] = _together(levels[level]), []
    if not levels:
        raise FlowclasError(f"calibration scene {index} holds no pixel: leave it out, or check its mask")
    return _together([held for level in levels for held in level])


def _together(parts: Sequence[tuple[Curve, int]]) -> tuple[Curve, int]:
    """One curve of several with their pixels."""
    if len(parts) == 1:
        return parts[0]
    curves, sizes = zip(*parts, strict=True)
    level, share = _mean_curve(curves, sizes)
    share, level = _thin(share, level, _SCENE_KNOTS)
    return (level, share), sum(sizes)


def _frame_curve(values: npt.NDArray[np.float32]) -> Curve:
    """The curve of sorted scores."""
    count = values.size
    wanted = np.geomspace(1.0, 1.0 / count, _SCENE_KNOTS)
    above = np.append(np.unique(np.floor(wanted * count).astype(np.int64))[::-1], 0)
    above = above[above < count]
    level = np.unique(values[count - 1 - above])
    share = (count - np.searchsorted(values, level, side="right")) / count  # exact, ties included
    return level.astype(np.float64), share


def _mean_curve(curves: Sequence[Curve], weights: Sequence[int]) -> Curve:
    """The weighted mean of curves."""
    level = np.concatenate([levels for levels, _ in curves])
    drop = np.concatenate([-w * np.diff(share, prepend=1.0) for w, (_, share) in zip(weights, curves, strict=True)])
    order = np.argsort(level, kind="stable")
    level = level[order]
    share = np.clip(1.0 - np.cumsum(drop[order]) / sum(weights), 0.0, 1.0)
    last_of_ties = np.append(level[1:] != level[:-1], True)
    level, share = level[last_of_ties], share[last_of_ties]
    # Rounding may leave 1e-16 where every share is 0; it must not understate anything before that.
    return level, np.where(level >= level[-1], 0.0, np.minimum(share + 1e-12, 1.0))


def _thin(share: FloatArray, level: FloatArray, knots: int) -> tuple[FloatArray, FloatArray]:
    """At most `knots` points of a falling step curve, log-spaced in share; dropping points can only overstate it."""
    positive = share[share > 0]
    if positive.size == 0:
        return np.zeros(1), level[-1:]
    wanted = np.geomspace(positive[0], positive[-1], knots - 1)
    first_within = np.searchsorted(-share, -wanted, side="left")
    index = np.unique(np.append(np.minimum(first_within, share.size - 1), share.size - 1))
    return share[index], level[index]
