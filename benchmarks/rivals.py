"""Ours and its rivals on the kit's images, one table: accuracy, time to fit, time a frame, size.

    python benchmarks/rivals.py road                             # or: space; every row that the result file lacks
    python benchmarks/rivals.py road --rows "k nearest neighbours"
    python benchmarks/rivals.py road --retime                    # the milliseconds again, on a quiet machine
    python benchmarks/rivals.py road --rows ours --fitted DIR    # in place of a fit, one that `fit_grid.py --keep` left

Each row is fitted on the normal training frames, and measured on the test sets, of benchmarks/grids/kit_<domain>.yaml,
at the frames' own size. What is fitted by gradient has rival_base.MINUTES of processor time for its steps, ours what
its configuration says; fit_minutes is the time on the clock, with loading, statistics and what else the machine did.
Component F1* as SegmentMeIfYouCan's Obstacle track has it, at the threshold of the best pixel F1. Milliseconds are the
median over test frames, from the image in memory to the score map, on two threads. Rows that a stopped run has
finished are kept; a row that cannot be had is kept with the reason, and tried again.
"""

from __future__ import annotations

import argparse
import datetime
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
from fit_rows import RUN_FILE, run_flowclas
from record import RESULTS, ROOT, kit_folder, markdown_table, write_result
from rival_base import MINUTES, Missing
from rival_models import RIVALS

from flowclas_ros.detection.images import read_image, read_mask
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.progress import progress_bar
from flowclas_ros.training.benchmarks import pair_folders
from flowclas_ros.training.config_file import load_config
from flowclas_ros.training.data import list_frames
from flowclas_ros.training.metrics import ComponentMetrics, PixelMetrics

# Rows of our own, and those of the domain's grid whose options they have.
OURS = {"Gaussian": "gaussian", "ours, without the contrastive term": "nll only", "ours": "with contrastive"}
THREADS = 2
DISTURBED = THREADS + 0.25  # load average, in which the row's own threads are, above which other work ran
TIMED, WARM_UP = 20, 3  # frames
Score = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
Settings = dict[str, Any]


def main(argv: list[str] | None = None) -> None:
    """Fit and measure every row that the result file lacks; print the table."""
    names = [*OURS, *RIVALS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", choices=["road", "space"])
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="ROW", help=", ".join(names))
    parser.add_argument("--seed", type=int, default=0, help="another than 0: another result file")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="another budget: another result file")
    parser.add_argument("--quick", action="store_true", help="tiny fits in a result of their own: does it run?")
    parser.add_argument("--retime", action="store_true", help="milliseconds of measured rows alone, by a token fit")
    parser.add_argument("--fitted", type=Path, help="kept fit of the one row named, one of ours")
    arguments = parser.parse_args(argv)
    if arguments.fitted and (len(arguments.rows) != 1 or arguments.rows[0] not in OURS):
        parser.error(f"--fitted needs --rows with one of: {', '.join(OURS)}")
    grid = Grid.read(ROOT / "benchmarks" / "grids" / f"kit_{arguments.domain}.yaml")
    kit = kit_folder()
    os.environ["FLOWCLAS_KIT"] = str(kit)
    budget = "" if arguments.minutes == MINUTES else f"_{arguments.minutes:g}min"
    seed = f"_seed{arguments.seed}" if arguments.seed else ""
    name = f"rivals_{arguments.domain}{budget}{seed}" + ("_quick" if arguments.quick else "")
    path = Path(os.environ.get("OUT") or RESULTS) / f"{name}.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.is_file() else {}
    for row in arguments.rows:
        measured = "missing" not in rows.get(row, {"missing": "so far"})
        if measured != arguments.retime:
            continue
        try:
            known = {key: value for key, value in rows.get(row, {}).items() if key != "missing"}
            rows[row] = {**known, **_measure(row, grid, kit, arguments)}
        except Missing as reason:
            rows[row] = {"missing": str(reason)}
        except subprocess.CalledProcessError:
            sys.exit(f"error: row '{row}' failed; what was measured before it is kept")
        rows = {key: rows[key] for key in names if key in rows}
        write_result(name, {"threads": THREADS, "rows": rows}, seed=arguments.seed)
    table = _markdown(rows, list(grid.tests))
    path.with_suffix(".md").write_text(table, encoding="utf-8")
    _plot(rows, list(grid.tests), path.with_suffix(".png"))
    print(f"{table}\n-> {path}, .md, .png")


def _measure(row: str, grid: Grid, kit: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit, then test and time; with --retime time alone."""
    places = {test: kit / place for test, place in grid.tests.items()}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        fit = _fit_ours if row in OURS else _fit_rival
        score, settings = fit(row, grid, kit, Path(folder), arguments)
        minutes = (time.perf_counter() - start) / 60
        result: dict[str, Any] = {}
        if not arguments.retime:
            result = {"seed": arguments.seed, "measured": datetime.date.today().isoformat()}
            result |= {"fit_minutes": round(minutes, 2), "fit_threads": torch.get_num_threads()} | settings
            result |= {test: _test(score, place, arguments.quick) for test, place in places.items()}
        result["ms_per_frame"] = _milliseconds(score, next(iter(places.values())), arguments.quick)
        # Other work on the machine makes times long: the load says how far to trust them.
        result["load_average"] = round(os.getloadavg()[0], 1)
    return result


def _fit_ours(row: str, grid: Grid, kit: Path, folder: Path, arguments: argparse.Namespace) -> tuple[Score, Settings]:
    switches = grid.switches(OURS[row], quick=False)
    settings: Settings = {"switches": switches}
    if arguments.fitted:
        folder = arguments.fitted
        if not (folder / RUN_FILE).is_file():
            sys.exit(f"error: '{folder}' holds no {RUN_FILE}: name a fit's folder that fit_grid.py --keep has left")
        run = json.loads((folder / RUN_FILE).read_text())
        if (run["switches"], run["seed"]) != (switches, arguments.seed):
            sys.exit(f"error: '{folder}' is of seed {run['seed']}, options {run['switches']}: not row '{row}'")
        settings["fit_minutes"] = run["fit_minutes"]
    else:
        command = ["fit", "--config", str(ROOT / grid.config), "--seed", str(arguments.seed), "--output", str(folder)]
        command += switches
        if arguments.quick or arguments.retime:
            command += ["--trainer.max_minutes", "0.01", "--trainer.init_frames", "60", "--trainer.margin_scenes", "8"]
        if arguments.quick:
            command += ["--model.short_side", "96"]
        run_flowclas(command, kit)
    checkpoint = folder / "model.safetensors"
    scorer = Scorer(checkpoint, device="cpu")
    settings["checkpoint_mb"] = round(checkpoint.stat().st_size / 1e6, 1)
    return lambda image: scorer.score_batch([image])[0][0], settings


def _fit_rival(row: str, grid: Grid, kit: Path, folder: Path, arguments: argparse.Namespace) -> tuple[Score, Settings]:
    config = load_config(ROOT / grid.config)
    frames = [frame.path for frame in list_frames(config.data.train, config.data)]
    rival = RIVALS[row](config, frames, minutes=0.0 if arguments.retime else arguments.minutes, quick=arguments.quick)
    rival.fit(arguments.seed)
    return rival.score, {"checkpoint_mb": round(_saved_size(rival.model, folder) / 1e6, 1), **rival.settings}


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
    components = ComponentMetrics(pixels.f1_threshold, min_predicted=50, min_truth=10)
    for score_map, mask in zip(scores, masks, strict=True):
        components.update(score_map, mask)
    figures = {"auprc": pixels.auprc, "fpr95": pixels.fpr95, "auroc": pixels.auroc}
    figures["f1_star"] = components.compute()["f1_star"]
    return {key: None if value is None else round(value, 4) for key, value in figures.items()}


def _milliseconds(score: Score, place: Path, quick: bool) -> float:
    """Median time of a frame on ``THREADS`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    pairs = pair_folders(place / "images", place / "masks")[: WARM_UP + (1 if quick else TIMED)]
    times = []
    for pair in pairs:
        image = read_image(pair.image)
        start = time.perf_counter()
        score(image)
        times.append(1e3 * (time.perf_counter() - start))
    torch.set_num_threads(before)
    return round(statistics.median(times[WARM_UP:]), 1)


def _markdown(rows: dict[str, Any], tests: list[str]) -> str:
    """The table, a line a row; below it, why a row is missing."""
    columns = ["", *(f"{test}: AUPRC, FPR95, AUROC, F1*" for test in tests), "fit, min", "ms a frame", "MB"]
    lines = []
    for row, figures in rows.items():
        if "missing" in figures:
            continue
        cells = [", ".join("-" if v is None else f"{v:.3f}" for v in figures[test].values()) for test in tests]
        disturbed = "\\*" if figures["load_average"] > DISTURBED else ""
        cells += [f"{figures['fit_minutes']:.1f}", f"{figures['ms_per_frame']:.0f}{disturbed}"]
        lines.append([row, *cells, f"{figures['checkpoint_mb']:.1f}"])
    notes = [f"missing: {row}: {figures['missing']}" for row, figures in rows.items() if "missing" in figures]
    if any(figures.get("load_average", 0) > DISTURBED for figures in rows.values()):
        notes.append("\\* timed while other work ran")
    return "\n\n".join([markdown_table(columns, lines), *notes]) + "\n"


def _plot(rows: dict[str, Any], tests: list[str], path: Path) -> None:
    """AUPRC over the time of a frame, a panel a test set; hollow where other work disturbed the time."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    measured = {row: figures for row, figures in rows.items() if "missing" not in figures}
    figure = Figure(figsize=(3.6 + 4.4 * len(tests), 4.2), layout="constrained")
    panels = figure.subplots(1, len(tests), sharey=True, squeeze=False)[0]
    for axis, test in zip(panels, tests, strict=True):
        for number, (row, figures) in enumerate(measured.items()):
            face = "none" if figures["load_average"] > DISTURBED else None
            marker = "*" if row in OURS else "o"
            place = (figures["ms_per_frame"], figures[test]["auprc"])
            axis.plot(*place, marker, markersize=10, color=f"C{number}", markerfacecolor=face, label=row)
        axis.set(xscale="log", xlabel=f"ms a frame, {THREADS} threads", title=test, ylim=(0, 1))
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # a decade has numbers too
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("AUPRC")
    title = "hollow: timed while other work ran"
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, title=title)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
