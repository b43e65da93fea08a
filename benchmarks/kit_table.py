"""The accuracy table of the kit: each row is `flowclas fit` with other switches, then `flowclas evaluate`, per seed.

    python benchmarks/kit_table.py road            # or: space; about an hour on two cores for three seeds

Rows that a stopped run has finished are taken from the result file, so calling it again goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fit_rows import Run, complete, measure, save, summary
from record import ROOT, kit_folder
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
    config = ROOT / "config" / "training" / f"kit_{arguments.domain}.yaml"
    tests = {test: (kit / place / "images", kit / place / "masks") for test, place in TESTS[arguments.domain].items()}

    def measure_row(row: str, seed: int) -> Run:
        return measure(config, ROWS[row], seed, tests, kit)

    name = f"kit_{arguments.domain}"
    runs, failed = complete(name, arguments.rows, arguments.seeds, measure_row)
    print(f"-> {save(name, runs, list(ROWS))}")
    _print(summary(runs, list(ROWS)))
    if failed:
        sys.exit(f"error: failed, and tried again next time: {'; '.join(failed)}")


def _print(table: dict[str, Any]) -> None:
    names = [key.removesuffix("/auprc") for key in next(iter(table.values())) if key.endswith("/auprc")]
    shown = Table("", "fit, minutes", *[f"{name}: AUPRC, FPR95 (mean of seeds)" for name in names])
    for row, figures in table.items():
        cells = [f"{figures[f'{n}/auprc']['mean']:.3f}  {figures[f'{n}/fpr95']['mean']:.3f}" for n in names]
        shown.add_row(row, f"{figures['fit_minutes']:.1f}", *cells)
    Console().print(shown)


if __name__ == "__main__":
    main()
