"""`flowclas compare`: two replays of the same bags side by side, for the question whether the new checkpoint is better.

Exit status: 0; 1 when the second run fails a requirement that the first one met; 2 when they cannot be compared.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path
from typing import Any

from flowclas_ros.detection.images import files_below, write_bytes, write_json
from flowclas_ros.errors import FlowclasError
from flowclas_ros.replay.compare_frames import Comparison, compare_frames, load_run
from flowclas_ros.replay.pages import number
from flowclas_ros.replay.requirements import WITH_MASKS
from flowclas_ros.replay.run_bag import METRICS

PAGE, FIGURES, FRAMES = "compare.html", "compare.json", "frames.csv"
# the sign of what is better; a figure that is in neither says nothing by itself
_HIGHER = ("auprc", "auroc", "f1_max", "siou", "ppv", "f1_star")
_LOWER = (
    "fpr95",
    "false_alarm_rate_observed",
    "false_alarm_episodes",
    "false_alarm_episodes_per_minute",
    "objects_missed",
    "detection_frames_max",
    "detection_seconds_max",
    "broken_frames",
    "latency_p50_ms",
    "latency_p99_ms",
)
OTHER_TRUTH = "the runs were judged by other masks: the figures that need them say nothing together"
_TIMING_NOISE = 0.05  # relative: below it, two latencies are the same
_SCORE_NOISE = 1e-4  # and two other figures: by the number of threads alone, a model's scores differ in the last digits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "first", type=Path, metavar="RUN_A", help="output folder of `flowclas replay`, for one bag or many"
    )
    parser.add_argument(
        "second", type=Path, metavar="RUN_B", help="output folder for the same bags with another checkpoint"
    )
    parser.add_argument("--output", type=Path, help=f"folder for {PAGE}, {FIGURES} and {FRAMES}")


def run(arguments: argparse.Namespace) -> int:
    """Compare as asked; the exit status. Raises FlowclasError for runs that are not of the same bags."""
    pairs, alone = _pairs(arguments.first, arguments.second)
    regressed = False
    for name in pairs:
        first, second = load_run(arguments.first / name), load_run(arguments.second / name)
        comparison = compare_frames(first, second)
        if other_truth(comparison):
            comparison.notes.append(OTHER_TRUTH)
        figures, requirements = figure_rows(comparison), requirement_rows(comparison)
        _tell(comparison, figures, requirements)
        regressed |= any(word == "worse" for *_, word in requirements)
        if arguments.output is not None:
            _write(arguments.output / name, comparison, figures, requirements)
    for path in alone:
        print(f"note: {path} has no counterpart in the other run")
    return int(regressed)


def other_truth(comparison: Comparison) -> bool:
    """Whether the two runs were judged by different masks."""
    first, second = (run.metrics["settings"] for run in comparison.runs)
    return any(first.get(name) != second.get(name) for name in ("masks_sha256", "mask_topic"))


def figure_rows(comparison: Comparison) -> list[tuple[str, Any, Any, str]]:
    """(figure, of the first, of the second, "better", "worse", "same" or "" where more says nothing) of the runs."""
    first, second = (run.metrics["figures"] for run in comparison.runs)
    rows = []
    for name in (*_HIGHER, *_LOWER, *(name for name in first if name not in _HIGHER + _LOWER)):
        a, b = first.get(name), second.get(name)
        if a is not None or b is not None:
            comparable = not (other_truth(comparison) and name in WITH_MASKS)
            rows.append((name, a, b, _word(name, a, b) if comparable else ""))
    return rows


def requirement_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """(requirement, met or failed by the first, by the second, what that is) of the requirements of both runs."""
    first, second = ({one["requirement"]: one["met"] for one in run.metrics["requirements"]} for run in comparison.runs)
    words = {True: "met", False: "failed"}
    return [
        (name, words[first[name]], words[second[name]], "same" if first[name] == second[name] else verdict)
        for name in first
        if name in second and not (other_truth(comparison) and name.startswith(WITH_MASKS))
        for verdict in ("better" if second[name] else "worse",)
    ]


def _word(name: str, a: Any, b: Any) -> str:
    if name not in _HIGHER + _LOWER or a is None or b is None:
        return ""
    noise = _TIMING_NOISE if name.startswith("latency") else _SCORE_NOISE
    if abs(b - a) <= noise * abs(a):
        return "same"
    return "better" if (b > a) == (name in _HIGHER) else "worse"


def _pairs(first: Path, second: Path) -> tuple[list[Path], list[Path]]:
    """Runs below both folders, relative to them, and the paths of those that only one has. Raises FlowclasError."""
    found = []
    for folder in (first, second):
        if not folder.is_dir():
            raise FlowclasError(f"run {folder} does not exist: give the --output of a `flowclas replay`")
        files = [path for path in files_below(folder) if path.name == METRICS and ".unfinished" not in str(path)]
        runs = [path.parent.relative_to(folder) for path in files]
        if not runs:
            raise FlowclasError(f"folder {folder} holds no finished replay (no {METRICS}): replay into it first")
        found.append(set(runs))
    shared = sorted(found[0] & found[1])
    if not shared:
        names = [", ".join(sorted(map(str, runs))) for runs in found]
        raise FlowclasError(f"{first} holds the runs {names[0]} and {second} {names[1]}: none is of the same bag")
    alone = [folder / name for folder, runs in zip((first, second), found, strict=True) for name in runs - set(shared)]
    return shared, sorted(alone)


def _tell(comparison: Comparison, figures: list[tuple], requirements: list[tuple]) -> None:
    first, second = comparison.runs
    print(f"A {first.name}, B {second.name}: {first.metrics['bag']['path']} {first.metrics['bag']['topic']}")
    rows = [("", "A", "B", "B is"), *((*map(number, row),) for row in [*requirements, *figures] if row[3])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    alone = [sum(not hazard.shared for hazard in hazards.values()) for hazards in comparison.hazards]
    print(f"  {len(comparison.frames)} frames in both; hazards found by A alone {alone[0]}, by B alone {alone[1]}")
    for note in comparison.notes:
        print(f"  note: {note}")


def _write(folder: Path, comparison: Comparison, figures: list[tuple], requirements: list[tuple]) -> None:
    from flowclas_ros.replay.compare_report import page  # brings matplotlib

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(comparison.columns)
    table.writerows(frame.row() for frame in comparison.frames)
    write_bytes(folder / FRAMES, text.getvalue().encode(errors="backslashreplace"))
    write_bytes(folder / PAGE, page(comparison, figures, requirements).encode(errors="backslashreplace"))
    content = {
        "runs": {
            letter: {"folder": str(run.folder), "model": run.metrics["model"], "settings": run.metrics["settings"]}
            for letter, run in zip("ab", comparison.runs, strict=True)
        },
        "bag": comparison.runs[0].metrics["bag"],
        "figures": [dict(zip(("name", "a", "b", "b_is"), row, strict=True)) for row in figures],
        "requirements": [dict(zip(("requirement", "a", "b", "b_is"), row, strict=True)) for row in requirements],
        "hazards_alone": {
            letter: [hazard.to_dict() for hazard in hazards.values() if not hazard.shared]
            for letter, hazards in zip("ab", comparison.hazards, strict=True)
        },
        "notes": comparison.notes,
    }
    write_json(folder / FIGURES, content)
    print(f"  -> {folder / PAGE}")
