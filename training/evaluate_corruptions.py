"""`flowclas evaluate --corruptions`: the same images clear and in adverse weather, side by side, as ComsAmy reports."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.images import write_bytes, write_png
from flowclas_ros.detection.overlay import contact_sheet, heat_image
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.errors import FlowclasError
from flowclas_ros.plots import png
from flowclas_ros.progress import progress_bar
from flowclas_ros.training.benchmarks import Pair
from flowclas_ros.training.corruptions import CORRUPTIONS, check_corruptions, corrupt
from flowclas_ros.training.metrics import PixelMetrics, PixelResult

_FIGURES = ("auprc", "auroc", "fpr95")
_SEVERITY = 3  # unless asked for otherwise
_AT_THRESHOLD = ("recall", "false_alarm_rate")
_BAR, _CLEAR, _ADVERSE = "#1d4ed8", "#15803d", "#c2410c"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is corrupted, and how much."""
    parser.add_argument(
        "--corruptions",
        nargs="*",
        metavar="NAME",
        help=f"also evaluate in bad weather: all, or some of {', '.join(CORRUPTIONS)}",
    )
    parser.add_argument("--severity", type=int, help=f"severity of the corruptions, 1 to 5 (default: {_SEVERITY})")


def asked_corruptions(arguments: argparse.Namespace) -> tuple[list[str], int]:
    """Their names, none where the option is not given, and their severity.

    Raises FlowclasError for an unknown name or severity, and for a severity of nothing.
    """
    severity = _SEVERITY if arguments.severity is None else arguments.severity
    if arguments.corruptions is None:
        if arguments.severity is not None:
            raise FlowclasError(f"--severity {severity} without --corruptions: say which, such as --corruptions all")
        return [], severity
    names = [name for name in arguments.corruptions if name != "all"]
    check_corruptions(names, [severity])
    everything = not names or "all" in arguments.corruptions
    return list(CORRUPTIONS) if everything else list(dict.fromkeys(names)), severity


def evaluate_corruptions(
    names: Sequence[str], severity: int, pairs: Sequence[Pair], scorer: Scorer, clear: PixelResult, json_path: Path
) -> dict[str, Any]:
    """Figures of `pairs` under each corruption and pooled over all of them (streaming), beside those of the clear ones.

    Writes `<stem>_corruptions.png`, AUPRC by corruption, and `<stem>_corruptions_sheet.png` beside `json_path`.
    `auprc_lost` is the share of the clear AUPRC that is gone. Recall and false-alarm rate are those at the threshold of
    `clear`, if it has one: what a detector that stays as it is would do.
    Raises FlowclasError for what cannot be read or written.
    """
    pooled = PixelMetrics(streaming=True, threshold=clear.threshold)
    table: dict[str, dict[str, float]] = {}
    shown = _shown(pairs)
    tiles = [_tiles("clear", shown.read_image(), scorer)]
    with progress_bar("corruptions", len(names) * len(pairs), "images") as advance:
        for name in names:
            own = PixelMetrics(streaming=True, threshold=clear.threshold)
            for index, pair in enumerate(pairs):
                image = corrupt(pair.read_image(), name, severity, index)
                mask = pair.read_mask(image)
                score = scorer.score_batch([image])[0][0]
                own.update(score, mask)
                pooled.update(score, mask)
                if pair is shown:
                    tiles.append(_tiles(name, image, scorer, score))
                advance()
            table[name] = _row(own.compute(), clear)
    adverse = _row(pooled.compute(), clear)
    stem = json_path.with_name(json_path.stem)
    rows = [[tile for pair_of_tiles in tiles[i : i + 2] for tile in pair_of_tiles] for i in range(0, len(tiles), 2)]
    title = f"severity {severity}: AUPRC {clear.auprc:.3f} clear, {adverse['auprc']:.3f} adverse"
    write_png(f"{stem}_corruptions_sheet.png", contact_sheet(rows, tile_width=300, title=title))
    write_bytes(f"{stem}_corruptions.png", _plot(table, clear.auprc, adverse["auprc"], severity))
    print(f"{title} (all pooled), {adverse['auprc_lost']:.1%} lost; worst {_worst(table)}")
    if clear.threshold is not None:
        print(f"  at the same threshold: recall {clear.recall:.3f} clear, {adverse['recall']:.3f} adverse")
    return {
        "severity": severity,
        "clear": _figures(clear),
        "adverse": adverse,
        "by_corruption": table,
    }


def _row(result: PixelResult, clear: PixelResult) -> dict[str, float]:
    figures = {**_figures(result), "auprc_lost": 1 - result.auprc / clear.auprc}
    return {name: round(figure, 5) for name, figure in figures.items()}


def _figures(result: PixelResult) -> dict[str, float]:
    names = _FIGURES if result.threshold is None else (*_FIGURES, *_AT_THRESHOLD)
    return {name: float(getattr(result, name)) for name in names}


def _worst(table: dict[str, dict[str, float]]) -> str:
    name = min(table, key=lambda name: table[name]["auprc"])
    return f"{name} {table[name]['auprc']:.3f}"


def _shown(pairs: Sequence[Pair]) -> Pair:
    """The image with the most anomalous pixels: something is to be seen in its sheet."""
    areas = [np.count_nonzero(pair.read_mask(pair.read_image()) == 1) for pair in pairs]
    if not any(areas):
        raise FlowclasError("no mask holds an anomaly (value 1): there is nothing to compare clear and adverse by")
    return pairs[int(np.argmax(areas))]


def _tiles(
    name: str, image: npt.NDArray[np.uint8], scorer: Scorer, score: npt.NDArray[np.float32] | None = None
) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    """The image and its heat; of a checkpoint without a table, the score between the image's extremes."""
    score = scorer.score_batch([image])[0][0] if score is None else score
    table = scorer.header.get("calibration")
    span = max(float(np.ptp(score)), 1e-6)
    heat = Calibration.from_dict(table).heat(score) if table else (score - score.min()) / np.float32(span)
    return [(name, image), ("heat", heat_image(heat))]


def _plot(table: dict[str, dict[str, float]], clear: float, adverse: float, severity: int) -> bytes:
    """Bars of AUPRC, the worst at the top."""
    from matplotlib.figure import Figure

    names = sorted(table, key=lambda name: -table[name]["auprc"])
    figure = Figure(figsize=(8, 1.6 + 0.32 * len(names)), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(names, [table[name]["auprc"] for name in names], color=_BAR, height=0.65)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # or the lines would strike the figures
    axis.bar_label(
        bars,
        [f"{table[name]['auprc']:.3f}  ({table[name]['auprc_lost']:.0%} lost)" for name in names],
        padding=4,
        bbox=paper,
        zorder=3,
    )
    axis.axvline(clear, color=_CLEAR, linestyle="--", label=f"clear {clear:.3f}")
    axis.axvline(adverse, color=_ADVERSE, linestyle="--", label=f"all adverse, pooled {adverse:.3f}")
    axis.set(xlabel="AUPRC", xlim=(0, max(1.0, 1.25 * clear)), title=f"Corruptions at severity {severity}")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return png(figure)
