"""Ours and its rivals on the kit's images, one table: accuracy, time to fit, time a frame, size.

    python benchmarks/rivals.py road                             # or: space; every row that the result file lacks
    python benchmarks/rivals.py road --rows "k nearest neighbours"

Each row is fitted on the normal training frames, and measured on the test sets, of benchmarks/grids/kit_<domain>.yaml,
at the frames' own size. Component F1* as SegmentMeIfYouCan's Obstacle track has it, at the threshold of the best
pixel F1. Milliseconds are the median over test frames, from the image in memory to the score map, on two threads. Rows
that a stopped run has finished are kept; a row that cannot be had is kept with the reason, and tried again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fit_grid import Grid
from fit_rows import run_flowclas
from record import RESULTS, ROOT, kit_folder, write_result
from rich.console import Console
from rich.table import Table
from rival_base import Missing
from rival_models import RIVALS

from flowclas_ros.detection.images import read_image, read_mask
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.progress import progress_bar
from flowclas_ros.training.benchmarks import pair_folders
from flowclas_ros.training.config_file import load_config
from flowclas_ros.training.data import list_frames
from flowclas_ros.training.metrics import PixelMetrics, component_metrics

# Rows of our own: switches of `flowclas fit` on the domain's configuration.
OURS = {
    "Gaussian": ["--method", "gaussian"],
    "ours, without the contrastive term": ["--loss.contrastive", "none"],
    "ours": [],
}
THREADS = 2
TIMED, WARM_UP = 20, 3  # frames
Score = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def main(argv: list[str] | None = None) -> None:
    """Fit and measure every row that the result file lacks; print the table."""
    names = [*OURS, *RIVALS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", choices=["road", "space"])
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="ROW", help=", ".join(names))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny fits in a result of their own: does it run?")
    arguments = parser.parse_args(argv)
    grid = Grid.read(ROOT / "benchmarks" / "grids" / f"kit_{arguments.domain}.yaml")
    kit = kit_folder()
    os.environ["FLOWCLAS_KIT"] = str(kit)
    torch.set_num_threads(THREADS)
    name = f"rivals_{arguments.domain}" + ("_quick" if arguments.quick else "")
    path = Path(os.environ.get("OUT") or RESULTS) / f"{name}.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.is_file() else {}
    for row in arguments.rows:
        if row in rows and "missing" not in rows[row]:
            continue
        try:
            rows[row] = _measure(row, grid, kit, arguments.seed, arguments.quick)
        except Missing as reason:
            rows[row] = {"missing": str(reason)}
        except subprocess.CalledProcessError:
            sys.exit(f"error: row '{row}' failed; what was measured before it is kept")
        rows = {key: rows[key] for key in names if key in rows}
        write_result(name, {"threads": THREADS, "rows": rows}, seed=arguments.seed)
    _print(rows, list(grid.tests))
    print(f"-> {path}")


def _measure(row: str, grid: Grid, kit: Path, seed: int, quick: bool) -> dict[str, Any]:
    """Fit, then time and test."""
    path = ROOT / grid.config
    config = load_config(path)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        settings: dict[str, Any]
        if row in OURS:
            checkpoint, score = _fit_ours(path, OURS[row], seed, quick, kit, Path(folder))
            size, settings = checkpoint.stat().st_size, {"switches": OURS[row]}
        else:
            frames = [frame.path for frame in list_frames(config.data.train, config.data)]
            rival = RIVALS[row](config, frames, quick=quick)
            rival.fit(seed)
            size, score, settings = _saved_size(rival.model, Path(folder)), rival.score, rival.settings
        minutes = (time.perf_counter() - start) / 60
        result: dict[str, Any] = {"fit_minutes": round(minutes, 2), "checkpoint_mb": round(size / 1e6, 1), **settings}
        for test, place in grid.tests.items():
            result[test] = _test(score, kit / place, quick)
        first = next(iter(grid.tests.values()))
        result["ms_per_frame"] = _milliseconds(score, kit / first, quick)
        # Other work on the machine makes times long: the load says how far to trust them.
        result["load_average"] = round(os.getloadavg()[0], 1)
    return result


def _fit_ours(config: Path, switches: list[str], seed: int, quick: bool, kit: Path, folder: Path) -> tuple[Path, Score]:
    tiny = ["--model.short_side", "96", "--trainer.max_minutes", "0.01", "--trainer.init_frames", "60"]
    arguments = ["fit", "--config", str(config), "--seed", str(seed), "--output", str(folder), *switches]
    run_flowclas([*arguments, *(tiny if quick else [])], kit)
    scorer = Scorer(folder / "model.safetensors", device="cpu")
    return folder / "model.safetensors", lambda image: scorer.score_batch([image])[0][0]


def _saved_size(modules: torch.nn.Module, folder: Path) -> int:
    """Bytes of the file that its weights take, as torch saves them."""
    path = folder / "weights.pt"
    torch.save(modules.state_dict(), path)
    return path.stat().st_size


def _test(score: Score, place: Path, quick: bool) -> dict[str, float | None]:
    """Pixel and component figures of a test set."""
    pairs = pair_folders(place / "images", place / "masks")
    if quick:
        pairs = pairs[:: max(1, len(pairs) // 3)]
    metrics, scores, masks = PixelMetrics(), [], []
    with progress_bar(place.name, len(pairs), "images") as advance:
        for pair in pairs:
            image = read_image(pair.image)
            masks.append(read_mask(pair.mask, size_of=image, image_name=str(pair.image)))
            scores.append(score(image))
            metrics.update(scores[-1], masks[-1])
            advance()
    pixels = metrics.compute()
    parts = component_metrics(scores, masks, threshold=pixels.f1_threshold, min_predicted=50, min_truth=10)
    figures = {"auprc": pixels.auprc, "fpr95": pixels.fpr95, "auroc": pixels.auroc, "f1_star": parts["f1_star"]}
    return {key: None if value is None else round(value, 4) for key, value in figures.items()}


def _milliseconds(score: Score, place: Path, quick: bool) -> float:
    """Median time of a frame on ``THREADS`` threads."""
    torch.set_num_threads(THREADS)
    pairs = pair_folders(place / "images", place / "masks")[: WARM_UP + (1 if quick else TIMED)]
    times = []
    for pair in pairs:
        image = read_image(pair.image)
        start = time.perf_counter()
        score(image)
        times.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(times[WARM_UP:]), 1)


def _print(rows: dict[str, Any], tests: list[str]) -> None:
    table = Table("", *[f"{t}: AUPRC  FPR95  AUROC  F1*" for t in tests], "fit, min", "ms a frame", "MB")
    for row, figures in rows.items():
        if "missing" in figures:
            table.add_row(row, "missing: see below")
            continue
        cells = ["  ".join("-" if v is None else f"{v:.3f}" for v in figures[test].values()) for test in tests]
        table.add_row(row, *cells, *(str(figures[key]) for key in ("fit_minutes", "ms_per_frame", "checkpoint_mb")))
    Console().print(table)
    for row, figures in rows.items():
        if "missing" in figures:
            print(f"missing: {row}: {figures['missing']}")


if __name__ == "__main__":
    main()
