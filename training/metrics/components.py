"""Component metrics of SegmentMeIfYouCan: are the objects found, each whole, and is what is found an object?

Chan et al., SegmentMeIfYouCan, NeurIPS Datasets and Benchmarks 2021, section 3.2 and appendix; the benchmark's own
toolkit decides where the paper is silent.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.errors import FlowclasError

TAUS = np.arange(25, 80, 5) / 100  # 0.25 to 0.75


class ComponentMetrics:
    """Collects frames; `compute` gives the figures over all their components.

    A pixel is predicted where its score is at or above `threshold` (the benchmark's is that of the best pixel F1), and
    components have 8 neighbours. Predicted ones under `min_predicted` pixels are dropped, true ones under `min_truth`
    become ignored (Anomaly track 500 and 100, Obstacle track 50 and 10). A prediction is cut at ignored pixels before
    components are formed.
    """

    def __init__(self, threshold: float, *, min_predicted: int, min_truth: int) -> None:
        self.threshold = threshold
        self.min_predicted, self.min_truth = min_predicted, min_truth
        self._siou: list[npt.NDArray[np.float64]] = []
        self._ppv: list[npt.NDArray[np.float64]] = []

    def update(self, score: npt.NDArray[np.floating], label: npt.NDArray[np.uint8]) -> None:
        """Add a score map (H,W) with its labels (H,W): 0 normal, 1 anomaly, anything else ignored.

        Raises FlowclasError for unequal shapes.
        """
        if score.shape != label.shape:
            raise FlowclasError(f"score of shape {score.shape} does not fit its mask of shape {label.shape}")
        truth = _components(label == 1, self.min_truth)
        predicted = _components((score >= self.threshold) & (label <= 1), self.min_predicted)
        inside = (label == 0) | (truth > 0)
        siou, ppv = _overlaps(truth[inside], predicted[inside])
        self._siou.append(siou)
        self._ppv.append(ppv)

    def compute(self) -> dict[str, Any]:
        """The figures, as fractions; None for one that has nothing to be taken of.

        siou: mean adjusted intersection over union of the true components (0 of a missed one). ppv: mean precision of
        the predicted ones. f1_star: mean over tau = 0.25, 0.30 ... 0.75 of 2 TP / (2 TP + FN + FP), where a true
        component counts as found at siou >= tau and a predicted one as false at ppv < tau. f1 at 0.25, 0.50, 0.75.
        """
        siou, ppv = (np.concatenate(kept) if kept else np.zeros(0) for kept in (self._siou, self._ppv))
        hits = [int(np.count_nonzero(siou >= tau)) for tau in TAUS]
        false = [int(np.count_nonzero(ppv < tau)) for tau in TAUS]
        counts = [2 * hit + (siou.size - hit) + wrong for hit, wrong in zip(hits, false, strict=True)]
        f1 = [2 * hit / count if count else None for hit, count in zip(hits, counts, strict=True)]
        f1_star = None if None in f1 else float(np.mean([value for value in f1 if value is not None]))
        at = {f"f1_{round(100 * tau)}": f1[int(np.argmin(abs(TAUS - tau)))] for tau in (0.25, 0.5, 0.75)}
        return {
            "siou": float(siou.mean()) if siou.size else None,
            "ppv": float(ppv.mean()) if ppv.size else None,
            "f1_star": f1_star,
            **at,
            "threshold": float(self.threshold),
            "true_components": int(siou.size),
            "predicted_components": int(ppv.size),
            "frames": len(self._siou),
        }


def _components(mask: npt.NDArray[np.bool_], smallest: int) -> npt.NDArray[np.int32]:
    """Numbers (H,W), from 1 on, of the connected components of at least `smallest` pixels; 0 elsewhere."""
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False  # the background
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[numbers]


def _overlaps(
    truth: npt.NDArray[np.int32], predicted: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """sIoU of every true component and PPV of every predicted one, from their numbers (N,) at the pixels that count."""
    rows, columns = int(truth.max(initial=0)) + 1, int(predicted.max(initial=0)) + 1
    table = np.bincount(truth.astype(np.int64) * columns + predicted, minlength=rows * columns).reshape(rows, columns)
    both = table[1:, 1:]  # pixels of each true component in each predicted one
    true_size, predicted_size = table[1:].sum(axis=1), table[:, 1:].sum(axis=0)
    hit = both.sum(axis=1)
    # The union is with all predictions that touch the component, less what of these lies on other true components:
    # one prediction over two objects side by side is held against neither.
    touching = (both > 0).astype(np.int64)
    union = true_size + touching @ predicted_size - hit - (touching @ both.sum(axis=0) - hit)
    present = predicted_size > 0  # a prediction that lay on ignored small objects alone is gone
    return hit / union, both.sum(axis=0)[present] / predicted_size[present]
