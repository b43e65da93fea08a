"""The accuracy table of the kit: each row is `flowclas fit` with other switches, then `flowclas evaluate`, per seed.

    python benchmarks/kit_table.py road            # or: space; about an hour on two cores for three seeds

Rows that a stopped run has finished are taken from the result file, so calling it again goes on where it was.
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
from pathlib import Path
from typing import Any

from record import RESULTS, ROOT, kit_folder, write_result
from rich.console import Console
from rich.table import Table

# The short rows: about two minutes' fit on two cores, and the published score, which is the likelihood alone.
SHORT = ["--trainer.max_epochs", "2", "--trainer.val_every", "2", "--optimiser.warmup_epochs", "0.3"]
ROWS = {
    "gaussian": ["--method", "gaussian"],
    "nll only, short": ["--loss.contrastive", "none", *SHORT],
    "with contrastive, short": ["--model.margin_weight", "0", *SHORT],
    "with contrastive": [],
}
TESTS = {
    "road": {"camvid_pasted_test": "camvid_pasted_test"},
    "space": {
        "test_lab_pasted": "iss_astrobee/test_lab_pasted",
        "test_sim_cargo_bag": "iss_astrobee/test_sim_cargo_bag",
    },
}


def main() -> None:
    """Fit and evaluate every row and seed that the result file lacks; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", choices=sorted(TESTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    arguments = parser.parse_args()
    kit = kit_folder()
    name = f"kit_{arguments.domain}"
    runs: list[dict[str, Any]] = []
    if (RESULTS / f"{name}.json").is_file():
        runs = json.loads((RESULTS / f"{name}.json").read_text())["runs"]
    for row in arguments.rows:
        for seed in arguments.seeds:
            if not any(run["row"] == row and run["seed"] == seed for run in runs):
                runs.append(_measure(arguments.domain, row, seed, kit))
                _save(name, runs)
    print(f"-> {_save(name, runs)}")
    _print(runs)


def _save(name: str, runs: list[dict[str, Any]]) -> Path:
    seeds = sorted({run["seed"] for run in runs})
    return write_result(name, {"table": _summary(runs), "runs": runs}, seed=seeds)


def _measure(domain: str, row: str, seed: int, kit: Path) -> dict[str, Any]:
    """One fit and its test figures."""
    environment = {**os.environ, "FLOWCLAS_KIT": str(kit), "PYTHONPATH": str(ROOT)}
    flowclas = [sys.executable, "-m", "flowclas_ros.cli"]
    config = ROOT / "config" / "training" / f"kit_{domain}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        fit = [*flowclas, "fit", "--config", str(config), "--seed", str(seed), "--output", folder, *ROWS[row]]
        start = time.perf_counter()
        subprocess.run(fit, env=environment, check=True)
        minutes = (time.perf_counter() - start) / 60
        chosen = json.loads((Path(folder) / "metrics.json").read_text())
        run: dict[str, Any] = {"row": row, "seed": seed, "fit_minutes": round(minutes, 2), "switches": ROWS[row]}
        run["val"] = {key: chosen[f"val/{key}"] for key in ("auprc", "fpr95", "auroc")}
        for test, place in TESTS[domain].items():
            figures = Path(folder) / f"{test}.json"
            checkpoint = ["--checkpoint", str(Path(folder) / "model.safetensors"), "--json", str(figures)]
            data = ["--images", str(kit / place / "images"), "--masks", str(kit / place / "masks")]
            subprocess.run([*flowclas, "evaluate", *checkpoint, *data], env=environment, check=True)
            result = json.loads(figures.read_text())
            run[test] = {key: result[key] for key in ("auprc", "fpr95", "auroc")}
    return run


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, lowest and highest over the seeds for each row, set and figure."""
    table: dict[str, Any] = {}
    for row in ROWS:
        mine = [run for run in runs if run["row"] == row]
        if not mine:
            continue
        table[row] = {"seeds": len(mine), "fit_minutes": statistics.mean(run["fit_minutes"] for run in mine)}
        for name in (key for key, value in mine[0].items() if isinstance(value, dict)):
            for figure in mine[0][name]:
                values = [run[name][figure] for run in mine]
                table[row][f"{name}/{figure}"] = {
                    "mean": round(statistics.mean(values), 4),
                    "min": round(min(values), 4),
                    "max": round(max(values), 4),
                }
    return table


def _print(runs: list[dict[str, Any]]) -> None:
    summary = _summary(runs)
    names = [key.removesuffix("/auprc") for key in next(iter(summary.values())) if key.endswith("/auprc")]
    table = Table("", "fit, minutes", *[f"{name}: AUPRC, FPR95 (mean of seeds)" for name in names])
    for row, figures in summary.items():
        cells = [f"{figures[f'{n}/auprc']['mean']:.3f}  {figures[f'{n}/fpr95']['mean']:.3f}" for n in names]
        table.add_row(row, f"{figures['fit_minutes']:.1f}", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
