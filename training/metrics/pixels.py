"""Pixel metrics of anomaly segmentation, pooled over every labelled pixel of every image.

AUPRC is the step sum (average precision), AUROC counts ties as half, FPR95 is the false-positive rate at the first
threshold, from above, with a true-positive rate of at least 0.95, F1 the best of all thresholds, AUPRO the per-region
overlap up to a false-positive rate of 0.3. Every figure is a fraction.

Own code where libraries do not serve: scikit-learn sorts through an int64 index and holds float64 curves over every
pixel, many times the scores' own memory, for each of its three functions anew, which 210 million pixels do not bear;
torchmetrics sends scores outside 0..1 through a sigmoid, which merges the tail of an NLL into ties. scikit-learn is
the tests' reference.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.metrics import levels as figures
from flowclas_ros.training.metrics.histogram import Histogram
from flowclas_ros.training.metrics.levels import Levels


@dataclass(frozen=True)
class PixelResult:
    """Fractions; thresholds in the scores' unit; None where not asked for; counts of images and pixels.

    recall and false_alarm_rate are the shares of anomalous and of normal pixels above the given threshold. images are
    those with a labelled pixel (Lost and Found has others, which its 1043 do not count), pixels those labelled 0 or 1,
    anomaly_pixels those labelled 1, ignored_pixels all others.
    """

    auprc: float
    auroc: float
    fpr95: float
    f1_max: float
    f1_threshold: float
    aupro: float | None
    threshold: float | None
    recall: float | None
    false_alarm_rate: float | None
    images: int
    pixels: int
    anomaly_pixels: int
    ignored_pixels: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


class PixelMetrics:
    """Collects score maps and masks image by image; `compute` gives the pooled figures.

    streaming=False keeps every score as float32 (4 bytes a pixel) and is exact. streaming=True counts into bins (see
    `histogram`), at least 65,536 for every factor of two in the distance from the typical score: memory is constant,
    the difference below 1e-4. regions=True adds AUPRO; masks must then be single images (H,W). threshold, nats per
    dimension, adds the shares above it, exact in both modes.
    """

    def __init__(self, *, streaming: bool = False, regions: bool = False, threshold: float | None = None) -> None:
        self.streaming, self.regions, self.threshold = streaming, regions, threshold
        self._found = self._false = 0  # anomalous and normal pixels above the threshold
        self._images = self._labelled = self._ignored = 0
        self._kept: tuple[list[npt.NDArray[Any]], ...] = ([], [], [])  # normal, anomaly, weights of anomaly
        self._histogram = Histogram() if streaming else None

    def update(self, score: npt.NDArray[np.floating], mask: npt.NDArray[np.uint8]) -> None:
        """Add a score map (H,W), nats per dimension, with its mask (H,W): 0 normal, 1 anomaly, anything else ignored.

        Raises FlowclasError for unequal shapes and for scores that are not finite at a labelled pixel.
        """
        if score.shape != mask.shape:
            raise FlowclasError(f"score of shape {score.shape} does not fit its mask of shape {mask.shape}")
        is_anomaly = mask == 1
        normal, anomaly = (np.asarray(score, dtype=np.float32)[chosen] for chosen in (mask == 0, is_anomaly))
        if not (np.isfinite(normal).all() and np.isfinite(anomaly).all()):
            raise FlowclasError("scores hold values that are not finite: evaluate in fp32, or fit the checkpoint again")
        weights = _region_weights(is_anomaly) if self.regions else None
        self._images += 1
        self._labelled += bool(normal.size or anomaly.size)
        self._ignored += int(score.size - normal.size - anomaly.size)
        if self.threshold is not None:
            self._found += int(np.count_nonzero(anomaly > self.threshold))
            self._false += int(np.count_nonzero(normal > self.threshold))
        if self._histogram is not None:
            self._histogram.add(normal, anomaly, weights)
            return
        for kept, values in zip(self._kept, (normal, anomaly, weights), strict=True):
            if values is not None:
                kept.append(values)

    def compute(self) -> PixelResult:
        """The pooled figures. Raises FlowclasError when one of the two classes has no pixel."""
        levels = self.levels()
        f1, threshold = figures.best_f1(levels)
        return PixelResult(
            auprc=figures.average_precision(levels),
            auroc=figures.area_under_roc(levels),
            fpr95=figures.fpr_at_95(levels),
            f1_max=f1,
            f1_threshold=threshold,
            aupro=figures.area_under_pro(levels),
            **self.at_threshold(),
            images=self._labelled,
            pixels=levels.normal + levels.anomaly,
            anomaly_pixels=levels.anomaly,
            ignored_pixels=self._ignored,
        )

    def at_threshold(self) -> dict[str, float | None]:
        """threshold, recall and false_alarm_rate as in PixelResult; None for the share of a class without a pixel."""
        normal, anomaly = self._sizes()
        return {
            "threshold": self.threshold,
            "recall": None if self.threshold is None or not anomaly else self._found / anomaly,
            "false_alarm_rate": None if self.threshold is None or not normal else self._false / normal,
        }

    def curves(self, points: int = 400) -> dict[str, list[float]]:
        """recall, precision and false_positive_rate at about `points` falling thresholds, each at a step of the recall.

        For plots. Raises FlowclasError as `compute` does.
        """
        levels = self.levels()
        # As many points along the recall as along the false-positive rate: either may have its bend where the other
        # hardly moves.
        chosen = [
            np.searchsorted(counts, np.linspace(counts[0], counts[-1], points // 2))
            for counts in (levels.true, levels.false)
        ]
        used = np.unique(np.concatenate(chosen))
        true, false = levels.true[used], levels.false[used]
        return {
            "recall": (true / levels.anomaly).tolist(),
            "precision": (true / (true + false)).tolist(),
            "false_positive_rate": (false / levels.normal).tolist(),
        }

    def _sizes(self) -> tuple[int, int]:
        """How many normal and anomaly pixels there are."""
        if self._histogram is not None:
            return self._histogram.sizes()
        normal, anomaly = (sum(values.size for values in kept) for kept in self._kept[:2])
        return normal, anomaly

    def levels(self) -> Levels:
        """The counts that all figures come from. Raises FlowclasError as `compute` does."""
        normal, anomaly = self._sizes()
        require_both_classes(normal, anomaly, self._images)
        return self._exact_levels() if self._histogram is None else self._histogram.levels()

    def _exact_levels(self) -> Levels:
        # The two classes sorted apart: in place and without an index array over all pixels.
        normal, anomaly = (_merged(kept) for kept in self._kept[:2])
        normal.sort()
        weights = None
        if self.regions:
            order, weights = np.argsort(anomaly), _merged(self._kept[2])
            anomaly[:], weights[:] = anomaly[order], weights[order]
        else:
            anomaly.sort()
        first = np.flatnonzero(np.append(True, anomaly[1:] != anomaly[:-1]))
        gained = None if weights is None else np.add.reduceat(weights, first)[::-1]
        level = anomaly[first][::-1]
        true = anomaly.size - first[::-1]
        false = normal.size - np.searchsorted(normal, level, side="left")
        false_above = normal.size - np.searchsorted(normal, level, side="right")
        return Levels(level, true, false, false_above, normal.size, gained)


def require_both_classes(normal: int, anomaly: int, images: int) -> None:
    """Raise FlowclasError where so many masks hold no pixel of one of the two classes."""
    for count, label, name in ((anomaly, 1, "anomaly"), (normal, 0, "normal")):
        if count == 0:
            raise FlowclasError(
                f"no pixel of the {images} mask(s) is labelled {label} ({name}), so no curve exists: "
                "masks need 0 for normal, 1 for anomaly, 255 for ignore"
            )


def _merged(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """All parts one after the other, in the list in their place, freed one by one: there are never two copies."""
    if len(parts) == 1:
        return parts[0]
    whole = np.empty(sum(part.size for part in parts), parts[0].dtype)
    end = whole.size
    while parts:
        part = parts.pop()
        whole[end - part.size : end] = part
        end -= part.size
    parts.append(whole)
    return whole


def _region_weights(anomaly: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Of every anomaly pixel, one over the size of its connected component (8 neighbours), in the mask's order."""
    if not anomaly.any():
        return np.zeros(0)
    _, components = cv2.connectedComponents(anomaly.astype(np.uint8), connectivity=8)
    own = components[anomaly]
    return 1.0 / np.bincount(own)[own]
