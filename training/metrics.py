"""Pixel metrics of anomaly segmentation, pooled over every labelled pixel of every image.

AUPRC is the step sum (average precision), AUROC counts ties as half, FPR95 is the false-positive rate at the first
threshold, from above, with a true-positive rate of at least 0.95. Every figure is a fraction.

Own code where libraries do not serve: scikit-learn sorts through an int64 index and holds float64 curves over every
pixel, many times the scores' own memory, for each of its three functions anew, which 210 million pixels do not bear;
torchmetrics sends scores outside 0..1 through a sigmoid, which merges the tail of an NLL into ties. scikit-learn is
the tests' reference.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flowclas_ros.errors import FlowclasError

# Range doubling, once downwards and once upwards, leaves at least a quarter of the bins, 65,536, to the scores.
BINS = 4 * 65536
_TPR = 0.95


@dataclass(frozen=True)
class PixelResult:
    """auprc, auroc, fpr95 as fractions; counts of images, pixels labelled 0 or 1, pixels labelled 1, and 255."""

    auprc: float
    auroc: float
    fpr95: float
    images: int
    pixels: int
    anomaly_pixels: int
    ignored_pixels: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


class PixelMetrics:
    """Collects score maps and masks image by image; `compute` gives the pooled figures.

    streaming=False keeps every score as float32 (4 bytes a pixel) and is exact. streaming=True counts into at least
    65,536 bins over the range seen so far, which doubles when a score falls outside; memory is constant, the
    difference is below 1e-4 for scores without far outliers.
    """

    def __init__(self, *, streaming: bool = False) -> None:
        self.streaming = streaming
        self._images = self._ignored = 0
        self._kept: tuple[list[npt.NDArray[np.float32]], list[npt.NDArray[np.float32]]] = ([], [])
        self._histogram = _Histogram()

    def update(self, score: npt.NDArray[np.floating], mask: npt.NDArray[np.uint8]) -> None:
        """Add a score map (H,W), nats per dimension, with its mask (H,W): 0 normal, 1 anomaly, anything else ignored.

        Raises FlowclasError for unequal shapes and for scores that are not finite at a labelled pixel.
        """
        if score.shape != mask.shape:
            raise FlowclasError(f"score of shape {score.shape} does not fit its mask of shape {mask.shape}")
        classes = [np.asarray(score, dtype=np.float32)[mask == label] for label in (0, 1)]
        if not all(np.isfinite(values).all() for values in classes):
            raise FlowclasError("scores hold values that are not finite: evaluate in fp32, or fit the checkpoint again")
        self._images += 1
        self._ignored += int(score.size - classes[0].size - classes[1].size)
        if self.streaming:
            self._histogram.add(*classes)
            return
        for kept, values in zip(self._kept, classes, strict=True):
            kept.append(values)

    def compute(self) -> PixelResult:
        """The pooled figures. Raises FlowclasError when one of the two classes has no pixel."""
        if self.streaming:
            counts = self._histogram.counts
            normal, anomaly = int(counts[0].sum()), int(counts[1].sum())
        else:
            normal, anomaly = (sum(values.size for values in kept) for kept in self._kept)
        for count, label, name in ((anomaly, 1, "anomaly"), (normal, 0, "normal")):
            if count == 0:
                raise FlowclasError(
                    f"no pixel of the {self._images} mask(s) is labelled {label} ({name}), so no curve exists: "
                    "masks need 0 for normal, 1 for anomaly, 255 for ignore"
                )
        figures = self._from_histogram(counts) if self.streaming else self._from_scores()
        return PixelResult(*figures, self._images, normal + anomaly, anomaly, self._ignored)

    def curves(self, points: int = 400) -> dict[str, list[float]]:
        """recall, precision and false_positive_rate at about `points` falling thresholds, each at a step of the recall.

        For plots. Of streaming=True only; raises FlowclasError as `compute` does.
        """
        self.compute()  # raises
        normal, anomaly = self._histogram.counts[:, ::-1]
        false, true = np.cumsum(normal), np.cumsum(anomaly)
        used = np.flatnonzero(anomaly)
        used = used[np.unique(np.linspace(0, used.size - 1, points).astype(int))]
        return {
            "recall": (true[used] / true[-1]).tolist(),
            "precision": (true[used] / (true[used] + false[used])).tolist(),
            "false_positive_rate": (false[used] / false[-1]).tolist(),
        }

    def _from_scores(self) -> tuple[float, float, float]:
        normal, anomaly = (np.concatenate(kept) for kept in self._kept)
        # Precision and recall change only at the score of an anomaly pixel, so sorting the two classes apart gives
        # all that is needed, in place and without an index array.
        normal.sort()
        anomaly.sort()
        level = np.unique(anomaly)[::-1]
        true = anomaly.size - np.searchsorted(anomaly, level, side="left")
        false = normal.size - np.searchsorted(normal, level, side="left")
        false_above = normal.size - np.searchsorted(normal, level, side="right")
        return _figures(true, false, false_above, anomaly.size, normal.size)

    @staticmethod
    def _from_histogram(counts: npt.NDArray[np.int64]) -> tuple[float, float, float]:
        normal, anomaly = counts[:, ::-1]
        false, true = np.cumsum(normal), np.cumsum(anomaly)
        used = anomaly > 0
        return _figures(true[used], false[used], (false - normal)[used], int(true[-1]), int(false[-1]))


def _figures(
    true: npt.NDArray[np.int64],
    false: npt.NDArray[np.int64],
    false_above: npt.NDArray[np.int64],
    anomaly: int,
    normal: int,
) -> tuple[float, float, float]:
    """AUPRC, AUROC, FPR95 from counts at falling thresholds that each gain at least one anomaly pixel.

    true, false: pixels at or above the threshold. false_above: normal pixels strictly above it.
    """
    gained = np.diff(true, prepend=0)
    auprc = float(np.sum(gained * (true / (true + false)))) / anomaly
    # Mann-Whitney: an anomaly pixel beats the normal pixels below it and half of those it ties with.
    auroc = 1.0 - float(np.sum(gained * ((false + false_above) / 2.0))) / anomaly / normal
    first = int(np.argmax(true / anomaly >= _TPR))
    return auprc, auroc, float(false[first] / normal)


class _Histogram:
    """Counts of normal and anomaly scores in equal bins over a range that grows by doubling."""

    def __init__(self) -> None:
        self.counts = np.zeros((2, BINS), dtype=np.int64)
        self._low = 0.0
        self._width = 0.0  # of one bin, nats per dimension; 0 until the first score came

    def add(self, normal: npt.NDArray[np.float32], anomaly: npt.NDArray[np.float32]) -> None:
        ends = [float(end) for values in (normal, anomaly) if values.size for end in (values.min(), values.max())]
        if not ends:
            return
        low, high = min(ends), max(ends)
        if self._width == 0.0:
            # Twice the first image's range, as doubling later costs more. The smallest width keeps bins apart in
            # float64 however large the scores are.
            self._width = max(2.0 * (high - low) / BINS, math.ulp(max(abs(low), abs(high), 1e-300)) * 4)
            self._low = (low + high) / 2.0 - self._width * BINS / 2.0
        while low < self._low or high > self._low + BINS * self._width:
            self._double(downwards=low < self._low)
        for counts, values in zip(self.counts, (normal, anomaly), strict=True):
            position = (values.astype(np.float64) - self._low) / self._width
            counts += np.bincount(np.clip(position.astype(np.int64), 0, BINS - 1), minlength=BINS)

    def _double(self, *, downwards: bool) -> None:
        """Twice the range in as many bins: neighbours merge, so no count moves to a wrong side of another."""
        merged = self.counts.reshape(2, BINS // 2, 2).sum(axis=2)
        self.counts[:] = 0
        half = slice(BINS // 2, None) if downwards else slice(None, BINS // 2)
        self.counts[:, half] = merged
        if downwards:
            self._low -= BINS * self._width
        self._width *= 2.0
