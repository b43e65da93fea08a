"""What the tables of fits share: one fit with its test figures, figures over seeds, and a file to go on from."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from record import RESULTS, ROOT, write_result

FIGURES = ("auprc", "fpr95", "auroc")
Run = dict[str, Any]
RUN_FILE = "run.json"  # a run's figures, in the folder of a fit that was kept
# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def run_flowclas(arguments: Sequence[str], kit: Path) -> None:
    """`flowclas ...` in a process of its own, so that no fit leaves anything behind for the next.

    Raises:
        subprocess.CalledProcessError: it failed; it has said why.
    """
    environment = {**os.environ, "FLOWCLAS_KIT": str(kit), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "flowclas_ros.cli", *arguments], env=environment, check=True)


def measure(
    config: Path, switches: Sequence[str], seed: int, tests: dict[str, tuple[Path, Path]], kit: Path, keep: Path | None
) -> Run:
    """One fit and its figures: on the fit's own validation scenes, and on every test set (images, masks).

    ``keep`` is where the fit stays, with the figures in it as run.json. One that is there already is measured and
    calibrated again and not fitted: for when the score's drawing or the tests are new. It must be of the same options
    but for those that `flowclas fit --resume` lets change.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        kept = folder / RUN_FILE
        earlier = json.loads(kept.read_text()) if kept.is_file() else None
        fit = ["fit", "--config", str(config), *switches, "--seed", str(seed), "--output", str(folder)]
        if keep and earlier is None:
            shutil.rmtree(keep, ignore_errors=True)  # of a stopped fit, whose minutes nobody knows
        start = time.perf_counter()
        run_flowclas([*fit, "--resume"] if earlier else fit, kit)
        minutes = earlier["fit_minutes"] if earlier else round((time.perf_counter() - start) / 60, 2)
        chosen = json.loads((folder / "metrics.json").read_text())
        run: Run = {"seed": seed, "fit_minutes": minutes, "switches": list(switches)}
        run["step"] = chosen["step"]  # of the chosen checkpoint: shows a fit that trainer.max_minutes cut short
        run["val"] = {key: chosen[f"val/{key}"] for key in FIGURES}
        for test, (images, masks) in tests.items():
            run[test] = evaluate(folder / "model.safetensors", images, masks, kit)
        if keep:
            kept.write_text(json.dumps(run, indent=2))
    return run


def evaluate(checkpoint: Path, images: Path, masks: Path, kit: Path) -> dict[str, float]:
    """AUPRC, FPR95 and AUROC of a checkpoint on labelled images."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        data = ["--images", str(images), "--masks", str(masks), "--json", str(figures)]
        run_flowclas(["evaluate", "--checkpoint", str(checkpoint), *data], kit)
        result = json.loads(figures.read_text())
    return {key: result[key] for key in FIGURES}


def kept_runs(name: str) -> list[Run]:
    """The runs that an earlier call has finished."""
    path = Path(os.environ.get("OUT") or RESULTS) / f"{name}.json"
    return json.loads(path.read_text())["runs"] if path.is_file() else []


def complete(
    name: str,
    rows: Iterable[str],
    seeds: Sequence[int],
    measure_row: Callable[[str, int], Run],
    switches: Callable[[str], Sequence[str]] | None = None,
) -> tuple[list[Run], list[str]]:
    """Do the runs that the result file lacks, writing it after each; all runs, and what failed.

    ``switches`` tells a row's options: a run of other ones than these is done again and replaced. A run that fails is
    named and left for the next call, which tries it again; the others go on.
    """
    rows = list(rows)
    runs, failed = kept_runs(name), []
    for seed in seeds:  # seed by seed: a grid that is stopped early has every row, if from fewer seeds
        for row in rows:
            same = [run for run in runs if run["row"] == row and run["seed"] == seed]
            if any(switches is None or run["switches"] == list(switches(row)) for run in same):
                continue
            try:
                done = {"row": row, **measure_row(row, seed)}
            except subprocess.CalledProcessError:
                failed.append(f"{row}, seed {seed}")
                continue
            runs = [*(run for run in runs if run not in same), done]
            save(name, runs, rows)
    return runs, failed


def save(name: str, runs: Sequence[Run], rows: Sequence[str], **about: Any) -> Path:
    """Write the result file; its path."""
    seeds = sorted({run["seed"] for run in runs})
    return write_result(name, {**about, "table": summary(runs, rows), "runs": list(runs)}, seed=seeds)


def summary(runs: Sequence[Run], rows: Sequence[str]) -> dict[str, Any]:
    """For each row, set and figure over the seeds: mean, lowest, highest, and half the width of the 95 % interval."""
    table: dict[str, Any] = {}
    for row in rows:
        mine = [run for run in runs if run["row"] == row]
        if not mine:
            continue
        minutes = statistics.mean(run["fit_minutes"] for run in mine)
        table[row] = {"seeds": len(mine), "fit_minutes": round(minutes, 2)}
        for name in (key for key, value in mine[0].items() if isinstance(value, dict)):
            for figure in mine[0][name]:
                values = [run[name][figure] for run in mine]
                table[row][f"{name}/{figure}"] = {
                    "mean": round(statistics.mean(values), 6),
                    "min": round(min(values), 6),
                    "max": round(max(values), 6),
                    "ci95": half_width(values),
                }
    return table


def half_width(values: Sequence[float]) -> float | None:
    """Half the width of the mean's 95 % confidence interval (Student's t); None of a single value."""
    if len(values) < 2:
        return None
    quantile = _T975[min(len(values) - 1, len(_T975)) - 1]
    return round(quantile * statistics.stdev(values) / math.sqrt(len(values)), 4)
