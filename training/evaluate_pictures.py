"""Pictures beside the figures of `flowclas evaluate`: its best and worst frames, and its curves."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.overlay import contact_sheet, heat_image
from flowclas_ros.plots import axes, png

_SHEET_FRAMES = 4  # best and as many worst
_TILE_WIDTH = 300
_LINE, _MARK = "#1d4ed8", "#c2410c"


def curves_png(curves: Mapping[str, Sequence[float]], figures: Mapping[str, Any]) -> bytes:
    """Precision over recall and recall over false-positive rate as a PNG; curves and figures are of PixelMetrics.

    Marks the best F1 where `figures` has it.
    """
    figure, (left, right) = axes(1, 2, 3.8)
    recall, precision = np.array(curves["recall"]), np.array(curves["precision"])
    left.plot(recall, precision, color=_LINE)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=f"AUPRC {figures['auprc']:.3f}")
    if figures.get("f1_max"):
        best = int(np.argmax(recall * precision / (recall + precision)))
        left.plot(recall[best], precision[best], "o", color=_MARK, label=f"best F1 {figures['f1_max']:.3f}")
        left.legend(frameon=False)
    right.plot([0, *curves["false_positive_rate"], 1], [0, *curves["recall"], 1], color=_LINE)
    right.set(xlabel="false-positive rate", ylabel="recall", xlim=(0, 1), ylim=(0, 1.02))
    right.set_title(f"AUROC {figures['auroc']:.3f}, FPR95 {figures['fpr95']:.3f}")
    return png(figure)


class Sheet:
    """Keeps small pictures of the frames with the highest and lowest own AUPRC, as rows of a contact sheet."""

    def __init__(self, table: dict[str, Any] | None) -> None:
        self._calibration = Calibration.from_dict(table) if table else None
        self._best: list[tuple[float, int, Any]] = []
        self._worst: list[tuple[float, int, Any]] = []
        self._count = 0

    def add(
        self,
        row: dict[str, Any],
        image: npt.NDArray[np.uint8],
        mask: npt.NDArray[np.uint8],
        score: npt.NDArray[np.float32],
    ) -> None:
        if row["auprc"] is None:
            return
        self._count += 1
        for heap, key in ((self._best, row["auprc"]), (self._worst, -row["auprc"])):
            if len(heap) < _SHEET_FRAMES or key > heap[0][0]:
                entry = (key, self._count, (row, _small(image), _small(_paint(mask)), _small(score)))
                (heapq.heappushpop if len(heap) == _SHEET_FRAMES else heapq.heappush)(heap, entry)

    def draw(self, result: dict[str, Any]) -> npt.NDArray[np.uint8]:
        best = [entry[2] for entry in sorted(self._best, key=lambda entry: -entry[0])]
        best = best[: (self._count + 1) // 2]  # of a few frames half, or there would be none left to call worst
        shown = {row["name"] for row, *_ in best}
        worst = [entry[2] for entry in sorted(self._worst, key=lambda entry: entry[0])]
        worst = [frame for frame in worst if frame[0]["name"] not in shown]
        scores = [score for *_, score in best + worst]
        span = (min(map(np.min, scores)), max(map(np.max, scores))) if scores else (0.0, 1.0)
        kinds = [("best", best), ("worst", worst)]
        rows = [
            [tile for kind, frames in kinds for tile in self._tiles(kind, frames, place, span)]
            for place in range(max(len(best), len(worst)))
        ]
        figures = f"AUPRC {result['auprc']:.4f}   FPR95 {result['fpr95']:.4f}   AUROC {result['auroc']:.4f}"
        return contact_sheet(rows, tile_width=_TILE_WIDTH, title=f"{figures}   {result['images']} images")

    def _tiles(
        self, kind: str, frames: list[Any], place: int, span: tuple[float, float]
    ) -> list[tuple[str, npt.NDArray[np.uint8]]]:
        """Image, truth and heat of the frame at that place; nothing past the last."""
        if place >= len(frames):
            return []
        row, image, truth, score = frames[place]
        return [
            (f"{kind}: {row['name']}", image),
            ("white anomaly, grey ignored", truth),
            (f"heat, AUPRC {row['auprc']:.3f}", heat_image(self._heat(score, span))),
        ]

    def _heat(self, score: npt.NDArray[np.float32], span: tuple[float, float]) -> npt.NDArray[np.float32]:
        """Calibrated heat; of a checkpoint without a table, the score between the sheet's extremes."""
        if self._calibration is not None:
            return self._calibration.heat(score)
        scaled: npt.NDArray[np.float32] = (score - span[0]) / max(span[1] - span[0], 1e-6)
        return scaled


def _small(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    height = max(1, round(image.shape[0] * _TILE_WIDTH / image.shape[1]))
    return cv2.resize(image, (_TILE_WIDTH, height), interpolation=cv2.INTER_AREA)


def _paint(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    grey = np.zeros(256, np.uint8)
    grey[1], grey[255] = 255, 90
    return np.repeat(grey[mask][..., None], 3, axis=2)
