"""A grid of fits in one table: every row is `flowclas fit` with other options, for every seed, then its tests.

    python benchmarks/fit_grid.py benchmarks/grids/kit_road.yaml                 # the kit's figures, three seeds
    python benchmarks/fit_grid.py benchmarks/grids/ablation_road.yaml --rows "NLL only" --seeds 0
    python benchmarks/fit_grid.py benchmarks/grids/ablation_road.yaml --quick    # minutes: does every row run?

Writes benchmarks/results/<grid>.json, .md and .png: means with 95 % confidence intervals over the seeds, and the
difference from the base row, paired by seed. Runs that a stopped call has finished are kept, so calling it again goes
on where it was; where the grid file gives a row other options by now, that row is run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fit_rows import Run, complete, half_width, measure, save, summary
from record import ROOT, kit_folder, markdown_table

# Options of --quick, over those of the row. Its figures mean nothing.
QUICK = {
    "model.short_side": 160,
    "trainer.max_minutes": 0.05,
    "trainer.init_frames": 60,
    "trainer.margin_scenes": 60,
    "data.batch_size": 4,
}


@dataclass(frozen=True)
class Grid:
    """A grid file: which options each row sets.

    Attributes:
        config: the configuration that the rows change, relative to the repository.
        base: the row that the others are compared with.
        tests: name and folder below the kit (images/ and masks/) of each test set; an absolute folder is itself.
        rows: dotted options and their values of each row, on top of common.
    """

    config: str
    base: str
    tests: dict[str, str]
    rows: dict[str, dict[str, Any]]
    common: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Grid:
        """The grid of a YAML file; exits with a line that names what is wrong in it."""
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8"))
            grid = cls(**{"common": {}, **tree})
        except (OSError, yaml.YAMLError, TypeError) as error:
            sys.exit(f"error: grid '{path}' cannot be read: {' '.join(str(error).split())}")
        if grid.base not in grid.rows:
            sys.exit(f"error: grid '{path}': base '{grid.base}' is not one of its rows")
        return grid

    def switches(self, row: str, *, quick: bool) -> list[str]:
        """The row's options as command-line arguments."""
        options = {**self.common, **self.rows[row], **(QUICK if quick else {})}
        # JSON is YAML, as which the command line reads it.
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in options.items()}
        return [part for key, text in texts.items() for part in (f"--{key}", text)]


def main(argv: list[str] | None = None) -> None:
    """Do what is missing of the grid; write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", help="some of the grid's rows; the table shows all that were ever run")
    parser.add_argument("--quick", action="store_true", help="tiny fits, in a result of their own")
    parser.add_argument(
        "--keep", type=Path, help="folder of the fits, <row>/<seed> below it; those there are measured again"
    )
    arguments = parser.parse_args(argv)
    grid = Grid.read(arguments.grid)
    if unknown := [row for row in arguments.rows or [] if row not in grid.rows]:
        sys.exit(f"error: the grid has no row '{unknown[0]}'; it has: {', '.join(grid.rows)}")
    kit = kit_folder()
    tests = {name: (kit / place / "images", kit / place / "masks") for name, place in grid.tests.items()}

    def switches(row: str) -> list[str]:
        return grid.switches(row, quick=arguments.quick)

    def measure_row(row: str, seed: int) -> Run:
        place = arguments.keep / row / str(seed) if arguments.keep else None
        return measure(ROOT / grid.config, switches(row), seed, tests, kit, place)

    name = arguments.grid.stem + ("_quick" if arguments.quick else "")
    report(name, grid, *complete(name, arguments.rows or grid.rows, arguments.seeds, measure_row, switches))


def report(name: str, grid: Grid, runs: list[Run], failed: list[str]) -> None:
    """Write and print the table; exits with what failed."""
    if runs:
        path = save(name, runs, list(grid.rows), base=grid.base)
        text = markdown(runs, grid)
        path.with_suffix(".md").write_text(text, encoding="utf-8")
        plot(runs, grid, path.with_suffix(".png"))
        print(f"{text}\n-> {path}, .md, .png")
    if failed:
        sys.exit(f"error: failed, and tried again next time: {'; '.join(failed)}")


def difference(runs: list[Run], grid: Grid, row: str, test: str, figure: str) -> tuple[float, float | None] | None:
    """Mean of row minus base over the seeds that both have, with half the 95 % interval's width; None without one."""
    of_base = {run["seed"]: run for run in runs if run["row"] == grid.base}
    pairs = [(run, of_base[run["seed"]]) for run in runs if run["row"] == row and run["seed"] in of_base]
    values = [mine[test][figure] - base[test][figure] for mine, base in pairs]
    return (statistics.mean(values), half_width(values)) if values else None


def markdown(runs: list[Run], grid: Grid) -> str:
    """The table, a line a row: seeds, minutes, and for each test set AUPRC, FPR95 and the AUPRC's difference."""
    columns = ["row", "seeds", "fit, min"]
    for test in grid.tests:
        columns += [f"{test}: AUPRC", "FPR95", "AUPRC from base"]
    rows = []
    for row, figures in summary(runs, list(grid.rows)).items():
        cells = [row, str(figures["seeds"]), f"{figures['fit_minutes']:.1f}"]
        for test in grid.tests:
            cells += [_cell(figures[f"{test}/{figure}"]) for figure in ("auprc", "fpr95")]
            change = difference(runs, grid, row, test, "auprc")
            known = row != grid.base and change is not None
            cells.append(f"{change[0]:+.3f}{_interval(change[1])}" if known and change else "")
        rows.append(cells)
    return (
        markdown_table(columns, rows)
        + "\n\nMeans over the seeds with 95 % confidence intervals; differences paired by seed.\n"
    )


def _cell(figure: dict[str, Any]) -> str:
    return f"{figure['mean']:.3f}{_interval(figure['ci95'])}"


def _interval(half: float | None) -> str:
    return "" if half is None else f" ± {half:.3f}"


def plot(runs: list[Run], grid: Grid, path: Path) -> None:
    """AUPRC of every row, a panel a test set: every seed as a point, the mean as a bar with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    table = summary(runs, list(grid.rows))
    rows = list(table)
    size = (3.2 + 4.0 * len(grid.tests), 1.0 + 0.28 * len(rows))
    figure, axes = plt.subplots(1, len(grid.tests), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, test in zip(axes[0], grid.tests, strict=True):
        figures = [table[row][f"{test}/auprc"] for row in rows]
        colours = ["#1f5fa8" if row == grid.base else "#9db8d6" for row in rows]
        axis.barh(range(len(rows)), [f["mean"] for f in figures], color=colours)
        errors = [f["ci95"] or 0.0 for f in figures]
        axis.errorbar([f["mean"] for f in figures], range(len(rows)), xerr=errors, fmt="none", ecolor="black", lw=1)
        for place, row in enumerate(rows):
            values = [run[test]["auprc"] for run in runs if run["row"] == row]
            axis.plot(values, [place] * len(values), "o", color="black", markersize=2.5)
        axis.axvline(table[grid.base][f"{test}/auprc"]["mean"] if grid.base in table else 0, color="#1f5fa8", lw=0.8)
        axis.set(xlabel="AUPRC", title=test, xlim=(0, 1))
    axes[0][0].set_yticks(range(len(rows)), rows)
    axes[0][0].invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
