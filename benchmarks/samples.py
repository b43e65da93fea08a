"""The checkpoints that ship, on rendered sequences of seeds and kinds of objects that nothing was fitted on.

    python benchmarks/samples.py            # -> benchmarks/results/samples.json; some five minutes on two cores

Pixel figures are pooled over the sequences. Ground truth is what is there, and of an object in the dark that cannot be
told from the dark behind it too; `visible` has the figures without such pixels, found by rendering the same scene
without its objects. An object is in view from the first frame in which more than 400 of its pixels are there, and
found in the first in which a listed hazard holds one of them. The false-alarm rate is that of the same scenes without
their objects, as the calibration's are; beside objects more is flagged, since a cell of the grid is 8 pixels wide. Bars
(issue 3): orbit AUPRC >= 0.90 and FPR95 <= 0.03, road AUPRC >= 0.80, every object found within 5 frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from record import write_result
from rich.console import Console
from rich.table import Table

from flowclas_ros import samples
from flowclas_ros.detection.detector import Detector
from flowclas_ros.detection.images import through_jpeg, write_png
from flowclas_ros.detection.interpreter import Finding, Interpreter, Rules
from flowclas_ros.detection.overlay import contact_sheet, heat_image, overlay
from flowclas_ros.progress import progress_bar
from flowclas_ros.training import scenes
from flowclas_ros.training.metrics import PixelMetrics

SEEDS = (2001, 2002, 2003)  # the bags that ship are of seed 2000, and fits use none from 2000 to 2999
FRAMES, FPS = 60, 5.0  # of a sequence
QUALITY = 80  # of the JPEG that the frames are judged through once more, for the pixel figures alone
HIDDEN = 4  # of 255: a pixel whose channels all change by no more through an object shows nothing of it
LARGE = 400  # pixels
IN_TIME = 5  # frames
SHOWN = 3  # worst frames of a sequence, for the sheet


class Shot(NamedTuple):
    """A frame, and what is known of it; bare: its scene without the objects."""

    image: np.ndarray
    mask: np.ndarray
    objects: np.ndarray
    hidden: np.ndarray
    bare: np.ndarray


def shots(domain: str, seed: int) -> list[Shot]:
    """A sequence, in a process of its own."""
    film = scenes.render(domain, seed, frames=FRAMES, fps=FPS, anomalies="test")
    bare = scenes.render(domain, seed, frames=FRAMES, fps=FPS, anomalies="none")
    pairs = zip(film, bare, strict=True)
    return [Shot(one.image, one.mask, one.objects, hidden(one, other), other.image) for one, other in pairs]


def hidden(frame: scenes.SceneFrame, bare: scenes.SceneFrame) -> np.ndarray:
    """(H, W) bool: anomalous pixels that look like the same scene without its objects."""
    change = np.abs(frame.image.astype(np.int16) - bare.image).max(axis=-1)
    return (frame.mask == 1) & (change <= HIDDEN)


class Objects:
    """When each object of a sequence came into view, and when it was found."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.found: dict[int, int] = {}

    def add(self, index: int, objects: np.ndarray, mask: np.ndarray, finding: Finding) -> None:
        """Frame number `index`; objects (H, W) numbers, mask (H, W) truth."""
        listed = np.zeros(objects.shape, bool)
        for hazard in finding.hazards:
            if not hazard.missed:
                x, y, width, height = hazard.region.bbox
                listed[y : y + height, x : x + width] = True
        listed &= finding.judged.mask
        areas = np.bincount(objects.ravel())
        for number in np.flatnonzero(areas > LARGE).tolist():
            if number:
                self.seen.setdefault(number, index)
                if (listed & (objects == number)).any():
                    self.found.setdefault(number, index)

    def waits(self) -> list[int | None]:
        """Frames from in view to found, both counted, of every object; None for one that never was."""
        return [self.found[n] - first + 1 if n in self.found else None for n, first in self.seen.items()]


class Pooled:
    """Pixel figures over all sequences: as rendered, without what is hidden, and of the frames through a JPEG."""

    def __init__(self) -> None:
        self.all, self.visible, self.jpeg = (PixelMetrics(streaming=True) for _ in range(3))
        self.anomalous = self.hidden = 0

    def add(self, score: np.ndarray, mask: np.ndarray, hidden: np.ndarray) -> None:
        """A frame as rendered."""
        self.all.update(score, mask)
        self.visible.update(score, np.where(hidden, 255, mask).astype(np.uint8))
        self.anomalous, self.hidden = self.anomalous + int((mask == 1).sum()), self.hidden + int(hidden.sum())


def judge(detector: Detector, film: list[Shot], pooled: Pooled, rows: list[Any]) -> dict[str, Any]:
    """One sequence's figures; `pooled` gets its scores, `rows` its worst frames."""
    own, objects, interpreter = PixelMetrics(streaming=True), Objects(), Interpreter(Rules())
    normal = flagged = beside = 0
    shown: list[tuple[float, int, Any]] = []
    for index, (image, mask, numbers, unseen, bare) in enumerate(film):
        scores, stages = detector.score_batch([image])
        stamp = round(index / FPS * 1e9)
        finding = interpreter.interpret(interpreter.judge(detector, scores[0], stamp=stamp), stages, stamp=stamp)
        own.update(finding.judged.score, mask)
        pooled.add(finding.judged.score, mask, unseen)
        pooled.jpeg.update(detector.score_batch([through_jpeg(image, QUALITY)])[0][0], mask)
        objects.add(index, numbers, mask, finding)
        wrong = finding.judged.mask & (mask == 0)
        normal, beside = normal + int((mask == 0).sum()), beside + int(wrong.sum())
        flagged += int((detector.score_batch([bare])[0][0] > detector.threshold).sum())
        missed = ~finding.judged.mask & (mask == 1)
        shown.append((float(wrong.sum() + missed.sum()), index, (image, mask, finding)))
    for _, index, (image, mask, finding) in sorted(shown, key=lambda one: -one[0])[: SHOWN * 8 : 8]:
        truth = image // 3
        truth[mask == 1] = (255, 120, 0)
        tiles = [("ground truth", truth), ("heat", heat_image(finding.heat)), ("overlay", overlay(image, finding))]
        rows.append([(f"frame {index}", image), *tiles])
    result, waits = own.compute(), objects.waits()
    return {
        "auprc": round(result.auprc, 4),
        "fpr95": round(result.fpr95, 4),
        "false_alarm_rate": flagged / sum(shot.bare[..., 0].size for shot in film),
        "false_alarm_rate_beside_objects": beside / normal,
        "objects": len(waits),
        "found": sum(wait is not None for wait in waits),
        "found_in_time": sum(wait is not None and wait <= IN_TIME for wait in waits),
        "frames_until_found": waits,
    }


def measure(domain: str, films: Iterator[list[Shot]], seeds: tuple[int, ...], sheet: Path | None) -> dict[str, Any]:
    """A domain's figures: pooled, and of every sequence."""
    detector = Detector(samples.sample(domain).checkpoint, device="cpu")
    pooled = Pooled()
    sequences: dict[int, dict[str, Any]] = {}
    rows: list[Any] = []
    with progress_bar(domain, len(seeds), "sequences") as advance:
        for seed, film in zip(seeds, films, strict=True):
            sequences[seed] = judge(detector, film, pooled, rows)
            advance()
    result, visible, after = (metrics.compute() for metrics in (pooled.all, pooled.visible, pooled.jpeg))
    totals = {key: sum(one[key] for one in sequences.values()) for key in ("objects", "found", "found_in_time")}
    waits = [wait for one in sequences.values() for wait in one["frames_until_found"] if wait is not None]
    figures = {"auprc": round(result.auprc, 4), "fpr95": round(result.fpr95, 4), "auroc": round(result.auroc, 4)}
    if sheet is not None:
        title = f"{domain}: AUPRC {result.auprc:.3f}, FPR95 {result.fpr95:.3f}"
        write_png(sheet / f"{domain}.png", contact_sheet(rows, tile_width=320, title=title))
    return {
        **figures,
        "visible": {
            "auprc": round(visible.auprc, 4),
            "fpr95": round(visible.fpr95, 4),
            "hidden_share": round(pooled.hidden / max(pooled.anomalous, 1), 4),
        },
        f"jpeg_{QUALITY}": {"auprc": round(after.auprc, 4), "fpr95": round(after.fpr95, 4)},
        **totals,
        "frames_until_found_max": max(waits, default=None),
        "frames": FRAMES * len(seeds),
        "checkpoint_sha256": detector.header["sha256"],
        "false_alarm_rate_asked": detector.false_alarm_rate,
        "sequences": sequences,
    }


def main() -> None:
    """Measure both domains, write the result file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", nargs="+", choices=samples.DOMAINS, default=samples.DOMAINS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--sheet", type=Path, metavar="DIR", help="write the frames with most errors as DIR/DOMAIN.png")
    arguments = parser.parse_args()
    seeds, figures = tuple(arguments.seeds), {}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        films = {d: pool.map(shots, [d] * len(seeds), seeds) for d in arguments.domains}
        for domain in arguments.domains:
            figures[domain] = measure(domain, films[domain], seeds, arguments.sheet)
    whole = set(arguments.domains) == set(samples.DOMAINS) and seeds == tuple(SEEDS)
    print(f"-> {write_result('samples' if whole else 'samples_some', figures, seed=list(seeds))}")
    table = Table("", "AUPRC", "FPR95", "objects found", f"within {IN_TIME} frames")
    for domain, one in figures.items():
        found = f"{one['found']} of {one['objects']}"
        table.add_row(domain, f"{one['auprc']:.3f}", f"{one['fpr95']:.3f}", found, str(one["found_in_time"]))
    Console().print(table)


if __name__ == "__main__":
    main()
