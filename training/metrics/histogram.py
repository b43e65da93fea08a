"""Counts of scores in bins that are fixed by the first image and fine wherever the later ones fall."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flowclas_ros.training.metrics.levels import Levels

# Bins are float32 numbers cut short: 1 + |score - centre| / scale, of which the exponent and the first 15 bits of the
# mantissa count. Each doubling of the distance from the centre has 32,768 bins on either side of it, so that a bin is
# never wider than 1/32768 of its distance, and neither a far outlier nor an unusual first image costs resolution.
_MANTISSA = 15
_OCTAVES = 64
_HALF = _OCTAVES << _MANTISSA
BINS = 2 * _HALF
_ONE = 127 << _MANTISSA  # the bits of 1.0
_CUT = 23 - _MANTISSA
_SCALE = 1 / 64  # of the first image's interquartile range: there the bins are equally wide


class Histogram:
    """Counts per bin of normal scores, anomaly scores, and the anomaly pixels' weights."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, BINS), dtype=np.int64)
        self._weights: npt.NDArray[np.float64] | None = None
        self._centre = np.float32(0)
        self._scale = np.float32(0)  # 0 until the first scores came

    def add(
        self,
        normal: npt.NDArray[np.float32],
        anomaly: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Scores (N,) of the two classes, and the anomaly pixels' weights where regions are wanted."""
        if not normal.size + anomaly.size:
            return
        if not self._scale:
            self._settle(np.concatenate([normal, anomaly]))
        self._counts[0] += np.bincount(self._positions(normal), minlength=BINS)
        positions = self._positions(anomaly)
        self._counts[1] += np.bincount(positions, minlength=BINS)
        if weights is not None:
            added = np.bincount(positions, weights, minlength=BINS).astype(np.float64, copy=False)
            self._weights = added if self._weights is None else self._weights + added

    def sizes(self) -> tuple[int, int]:
        """How many normal and anomaly scores there are."""
        normal, anomaly = self._counts.sum(axis=1)
        return int(normal), int(anomaly)

    def levels(self) -> Levels:
        """The counts at falling bins that hold an anomaly score."""
        normal, anomaly = self._counts[:, ::-1]
        false, true = np.cumsum(normal), np.cumsum(anomaly)
        used = np.flatnonzero(anomaly)
        gained = None if self._weights is None else self._weights[::-1][used]
        threshold = self._lower_edge(BINS - 1 - used)
        return Levels(threshold, true[used], false[used], (false - normal)[used], int(false[-1]), gained)

    def _settle(self, scores: npt.NDArray[np.float32]) -> None:
        low, centre, high = np.quantile(scores, (0.25, 0.5, 0.75))
        self._centre = np.float32(centre)
        # An image of one value, or nearly so, says nothing of the scale: then a small one, at which ordinary scores
        # lie within the octaves there are.
        usual = (float(high) - float(low)) * _SCALE or 2.0**-20
        self._scale = np.float32(max(usual, float(np.spacing(np.abs(self._centre)))))

    def _positions(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        with np.errstate(over="ignore"):  # an infinite distance joins the last bin
            distance = (scores - self._centre) / self._scale
        key = ((np.abs(distance) + np.float32(1)).view(np.int32) >> _CUT) - _ONE
        np.minimum(key, _HALF - 1, out=key)
        return np.where(distance < 0, _HALF - 1 - key, _HALF + key)

    def _lower_edge(self, position: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The lowest score of a bin, up to rounding."""
        above = position >= _HALF
        key = np.where(above, position - _HALF, _HALF - position)
        distance = ((key + _ONE) << _CUT).astype(np.int32).view(np.float32) - np.float32(1)
        with np.errstate(over="ignore"):
            edge = self._centre + np.where(above, distance, -distance) * self._scale
        # Below the centre a bin holds its upper edge and not its lower one.
        return np.where(above, edge, np.nextafter(edge, np.float32(np.inf)))
