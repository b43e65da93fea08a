"""Every threshold figure of a score, from counts at its falling levels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_TPR = 0.95
PRO_LIMIT = 0.3  # false-positive rate that AUPRO is integrated to (Bergmann et al. 2020)

Counts = npt.NDArray[np.int64]


class Levels(NamedTuple):
    """Counts at N falling thresholds that each gain at least one anomaly pixel.

    All figures can be had from these alone: precision and recall change only at the score of an anomaly pixel.
    threshold: (N,) float32. true, false: (N,) anomaly and normal pixels at or above it. false_above: (N,) normal
    pixels strictly above it. normal: all normal pixels. gained: (N,) weight that the threshold gains, of a total of
    one for each region, or None.
    """

    threshold: npt.NDArray[np.float32]
    true: Counts
    false: Counts
    false_above: Counts
    normal: int
    gained: npt.NDArray[np.float64] | None

    @property
    def anomaly(self) -> int:
        """All anomaly pixels."""
        return int(self.true[-1])


def average_precision(levels: Levels) -> float:
    """The step sum of precision over recall."""
    gained = np.diff(levels.true, prepend=0)
    return float(np.sum(gained * (levels.true / (levels.true + levels.false)))) / levels.anomaly


def area_under_roc(levels: Levels) -> float:
    """Mann-Whitney: an anomaly pixel beats the normal pixels below it and half of those it ties with."""
    gained = np.diff(levels.true, prepend=0)
    return 1.0 - float(np.sum(gained * ((levels.false + levels.false_above) / 2.0))) / levels.anomaly / levels.normal


def fpr_at_95(levels: Levels) -> float:
    """False-positive rate at the first threshold with a true-positive rate of at least 0.95."""
    first = int(np.argmax(levels.true / levels.anomaly >= _TPR))
    return float(levels.false[first] / levels.normal)


def fpr_nearest_95(levels: Levels) -> float:
    """False-positive rate at the true-positive rate nearest to 0.95, at the lowest threshold that gives it: the FPR95
    of StreetHazards (Hendrycks et al., anomaly-seg, `fpr_and_fdr_at_recall`).
    """
    rising = np.abs(levels.true / levels.anomaly - _TPR)[::-1]  # thresholds; of two as near, the lower one
    nearest = len(rising) - 1 - int(np.argmin(rising))
    lowest = np.append(levels.false_above[1:], levels.false[-1])  # down to where the next anomaly pixel joins
    return float(lowest[nearest] / levels.normal)


def best_f1(levels: Levels) -> tuple[float, float]:
    """The largest F1, and the threshold (score at or above it is an anomaly) that gives it."""
    f1 = 2 * levels.true / (levels.true + levels.false + levels.anomaly)
    best = int(np.argmax(f1))
    return float(f1[best]), float(levels.threshold[best])


def area_under_pro(levels: Levels) -> float | None:
    """Area under per-region overlap over false-positive rate, up to PRO_LIMIT and divided by it; None without regions.

    Per-region overlap is the mean over the ground truth's connected components of the share of each that is found
    (Bergmann et al., Uninformed Students, CVPR 2020): a true-positive rate in which every region weighs the same.
    """
    if levels.gained is None:
        return None
    overlap = np.cumsum(levels.gained) / levels.gained.sum()
    # Between two levels only normal pixels come in; within one, both classes do, along a straight line.
    x = np.stack([levels.false_above, levels.false], axis=1).ravel() / levels.normal
    y = np.stack([np.concatenate([[0.0], overlap[:-1]]), overlap], axis=1).ravel()
    x, y = np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, [1.0]])
    inside = x < PRO_LIMIT
    end = float(np.interp(PRO_LIMIT, x, y))
    x, y = np.append(x[inside], PRO_LIMIT), np.append(y[inside], end)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)) / PRO_LIMIT
