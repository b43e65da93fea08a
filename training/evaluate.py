"""`flowclas evaluate`: pixel metrics of a checkpoint on labelled images, and a sheet of its best and worst frames."""

from __future__ import annotations

import argparse
import datetime
import heapq
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

import flowclas_ros
from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.images import list_images, read_image, read_mask, write_json, write_png
from flowclas_ros.detection.overlay import contact_sheet, heat_image
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.errors import FlowclasError
from flowclas_ros.progress import progress_bar
from flowclas_ros.training.evaluate_corruptions import add_arguments as add_corruption_arguments
from flowclas_ros.training.evaluate_corruptions import asked_corruptions, evaluate_corruptions
from flowclas_ros.training.metrics import PixelMetrics

_SHEET_FRAMES = 4  # best and as many worst
_TILE_WIDTH = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options, beside those that name the checkpoint and the device."""
    parser.add_argument("--images", required=True, type=Path, help="folder of images")
    parser.add_argument("--masks", required=True, type=Path, help="folder of masks named like the images: 0, 1, 255")
    parser.add_argument("--json", required=True, type=Path, help="where the figures go; the sheet lies beside it")
    parser.add_argument("--streaming", action="store_true", help="constant memory: bins instead of every score")
    add_corruption_arguments(parser)


@dataclass(frozen=True)
class Pair:
    """An image and its mask; name is the image's path below its folder, without suffix."""

    name: str
    image: Path
    mask: Path


def run(arguments: argparse.Namespace) -> int:
    """Evaluate as asked, write the JSON and the sheet, print the figures; the exit status 0.

    Raises FlowclasError for images or masks that are missing, broken or do not fit, and for masks of one class only.
    """
    corruptions = asked_corruptions(arguments)
    pairs = find_pairs(arguments.images, arguments.masks)
    scorer = Scorer(
        arguments.checkpoint,
        device=arguments.device,
        precision=arguments.precision,
        backbone_weights=arguments.backbone_weights,
    )
    metrics = PixelMetrics(streaming=arguments.streaming)
    sheet = _Sheet(scorer.header.get("calibration"))
    rows: list[dict[str, Any]] = []
    with progress_bar("evaluate", len(pairs), "images") as advance:
        for pair in pairs:
            image, mask, score = _score_pair(pair, scorer)
            metrics.update(score, mask)
            rows.append(_row(pair.name, score, mask, arguments.streaming))
            sheet.add(rows[-1], image, mask, score)
            advance()
    pooled = metrics.compute()
    result = pooled.to_dict()
    if corruptions:
        result["corruptions"] = evaluate_corruptions(
            corruptions, arguments.severity, pairs, scorer, pooled, arguments.json
        )
    track = scorer.header["track"]
    write_png(sheet_path(arguments.json), sheet.draw(result))
    write_json(
        arguments.json, {"track": track, **result, "provenance": _provenance(arguments, scorer), "per_image": rows}
    )
    figures = f"{track} track  " + "  ".join(f"{name} {result[name]:.4f}" for name in ("auprc", "auroc", "fpr95"))
    print(f"{figures}  over {result['images']} images, {result['pixels']} pixels -> {arguments.json}")
    return 0


def sheet_path(json_path: Path) -> Path:
    """Where the contact sheet of `--json F` goes: beside it, `<stem>_sheet.png`."""
    return json_path.with_name(f"{json_path.stem}_sheet.png")


def find_pairs(images: Path, masks: Path) -> list[Pair]:
    """Images with their masks by equal relative path without suffix.

    Raises FlowclasError when a folder is missing or empty, or an image has no mask or several.
    """
    by_name: dict[str, list[Path]] = {}
    for path in list_images(masks):
        by_name.setdefault(path.relative_to(masks).with_suffix("").as_posix(), []).append(path)
    pairs = []
    for image in list_images(images):
        name = image.relative_to(images).with_suffix("").as_posix()
        found = by_name.get(name, [])
        if len(found) != 1:
            what = f"{len(found)} masks" if found else "no mask"
            raise FlowclasError(f"image {image} has {what} in {masks}: there must be one, named {name}.png")
        pairs.append(Pair(name, image, found[0]))
    return pairs


def _score_pair(
    pair: Pair, scorer: Scorer
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    image = read_image(pair.image)
    mask = read_mask(pair.mask, size_of=image, image_name=str(pair.image))
    scores, _ = scorer.score_batch([image])
    return image, mask, scores[0]


def _row(name: str, score: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], streaming: bool) -> dict[str, Any]:
    """One image's figures; its own AUPRC is None where it holds one class only."""
    own = PixelMetrics(streaming=streaming)
    own.update(score, mask)
    both = bool((mask == 0).any() and (mask == 1).any())
    normal = score[mask == 0]
    return {
        "name": name,
        "auprc": round(own.compute().auprc, 5) if both else None,
        "anomaly_pixels": int((mask == 1).sum()),
        "mean_normal_score": round(float(normal.mean()), 4) if normal.size else None,
    }


class _Sheet:
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


def _provenance(arguments: argparse.Namespace, scorer: Scorer) -> dict[str, Any]:
    import torch

    return {
        "checkpoint": str(arguments.checkpoint),
        "checkpoint_sha256": scorer.header["sha256"],
        "images": str(arguments.images),
        "masks": str(arguments.masks),
        "mode": "streaming" if arguments.streaming else "exact",
        "device": str(scorer.device),
        "precision": scorer.precision,
        "versions": {
            "flowclas_ros": flowclas_ros.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": platform.machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
    }
