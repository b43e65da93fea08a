"""Figures of whole images: which images hold an anomaly at all, and pixel figures averaged image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flowclas_ros.training.metrics import levels
from flowclas_ros.training.metrics.pixels import PixelMetrics

_AVERAGED = {
    "auprc": levels.average_precision,
    "auroc": levels.area_under_roc,
    "fpr95": levels.fpr_at_95,
    "f1_max": lambda counts: levels.best_f1(counts)[0],
    "fpr95_nearest": levels.fpr_nearest_95,
}


class ImageMetrics:
    """Collects score maps and masks image by image, keeping a few numbers of each.

    An image's score is the highest of its labelled pixels; it is anomalous when any of them is.
    """

    def __init__(self) -> None:
        self._scores: list[float] = []
        self._anomalous: list[int] = []
        self._own: list[list[float]] = []

    def update(self, score: npt.NDArray[np.floating], mask: npt.NDArray[np.uint8]) -> dict[str, float] | None:
        """Add a score map (H,W) with its mask (H,W): 0 normal, 1 anomaly, anything else ignored.

        Returns the image's own auprc, auroc, fpr95, f1_max and fpr95_nearest (`levels.fpr_nearest_95`), or None where
        it holds one class only.
        """
        labelled = mask <= 1
        if not labelled.any():
            return None
        self._scores.append(float(score[labelled].max()))
        self._anomalous.append(int((mask == 1).any()))
        if not self._anomalous[-1] or not (mask == 0).any():
            return None
        pixels = PixelMetrics()
        pixels.update(score, mask)
        counts = pixels.levels()
        self._own.append([figure(counts) for figure in _AVERAGED.values()])
        return dict(zip(_AVERAGED, self._own[-1], strict=True))

    def compute(self) -> dict[str, Any]:
        """image_auroc over all images (None where all are of one kind), mean_per_image of those with both classes."""
        image_auroc = None
        if 0 < sum(self._anomalous) < len(self._anomalous):
            whole = PixelMetrics()
            whole.update(np.array(self._scores), np.array(self._anomalous, dtype=np.uint8))
            image_auroc = whole.compute().auroc
        means = [float(value) for value in np.mean(self._own, axis=0)] if self._own else [None] * len(_AVERAGED)
        return {
            "image_auroc": image_auroc,
            "mean_per_image": {**dict(zip(_AVERAGED, means, strict=True)), "images": len(self._own)},
        }
