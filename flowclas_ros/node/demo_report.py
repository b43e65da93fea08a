"""What the demo leaves behind: a table in the terminal, a contact sheet and a latency plot."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from flowclas_ros.detection.images import write_bytes, write_png
from flowclas_ros.detection.overlay import contact_sheet, heat_image
from flowclas_ros.node.status import Level
from flowclas_ros.plots import png

if TYPE_CHECKING:
    from flowclas_ros.node.demo_listener import Frame

SHEET_ROWS = 6
TRUTH = (255, 120, 0)  # RGB
INK, SIGNAL, QUIET = "#1f2933", "#d9480f", "#3b7dd8"


@dataclass(frozen=True)
class Outcome:
    """A demo's frames by their stamps (ns), with the counts of both ends."""

    frames: dict[int, Frame]
    sent: int
    received: int
    processed: int
    dropped: int

    @property
    def latencies(self) -> np.ndarray:
        """Seconds from stamp to mask, in the order of the stamps."""
        found = [frame.latency for _, frame in sorted(self.frames.items())]
        return np.array([latency for latency in found if latency is not None])


def table(outcomes: Mapping[str, Outcome], figures: Mapping[str, Mapping[str, Any]]) -> Table:
    """What was played, side by side; figures: of the replay against ground truth, where there is one."""
    result = Table(title="flowclas demo", title_justify="left")
    result.add_column()
    for name in outcomes:
        result.add_column(name, justify="right")
    columns = [{**_live(outcome), **_judged(figures.get(name))} for name, outcome in outcomes.items()]
    for row in columns[0]:
        result.add_row(row, *[column.get(row, "") for column in columns])
    return result


def _live(outcome: Outcome) -> dict[str, str]:
    lost = outcome.sent - outcome.received
    hazardous = [f.state for f in outcome.frames.values() if f.state is not None and f.state.level == Level.HAZARD]
    rows = {
        "frames sent": str(outcome.sent),
        "frames processed": str(outcome.processed),
        "frames dropped": f"{outcome.dropped}" + (f" (and {lost} lost on the way)" if lost > 0 else ""),
    }
    for name, share in (("median", 50), ("99th percentile", 99)):
        value = float(np.percentile(outcome.latencies, share)) if outcome.latencies.size else math.nan
        rows[f"latency from stamp to mask, {name}"] = f"{value * 1000:.0f} ms"
    total = sum(state.hazard_count for state in hazardous)
    return {**rows, "hazards seen": f"{total} in {len(hazardous)} frames"}


def _judged(figures: Mapping[str, Any] | None) -> dict[str, str]:
    """The rows that need ground truth."""
    if figures is None:
        return {}
    auprc, fpr95, objects = figures["auprc"], figures["fpr95"], figures["objects"]
    late = figures["detection_frames_max"]
    return {
        "replay: AUPRC, FPR95": f"{auprc:.3f}, {fpr95:.3f}" if auprc is not None else "no anomaly",
        "replay: objects found": f"{objects - figures['objects_missed']} of {objects}",
        "replay: frames until found, at most": "not all were found" if late is None else str(late),
    }


def write_pictures(outcome: Outcome, folder: Path) -> list[Path]:
    """The contact sheet (camera, truth, heat, overlay of a few frames) and the latency plot; the paths written."""
    written = []
    rows = []
    for stamp, frame in chosen(outcome.frames):
        first = min(outcome.frames)
        count = frame.state.hazard_count
        seen = f"{count} hazard{'s' if count > 1 else ''}, peak {frame.state.peak_score:.1f} nats/dim"
        label = f"{(stamp - first) * 1e-9:.1f} s: {seen if count else 'no hazard'}"
        rows.append(
            [
                ("camera", frame.pictures["image"]),
                *_truth(frame),
                ("heat", heat_image(frame.pictures["heatmap"][..., 0].astype(np.float32) / np.float32(255))),
                (label, frame.pictures["overlay"]),
            ]
        )
    if rows:
        written.append(folder / "contact_sheet.png")
        write_png(written[-1], contact_sheet(rows, tile_width=420))
    if outcome.latencies.size and importlib.util.find_spec("matplotlib"):  # not among a robot's dependencies
        written.append(folder / "latency.png")
        plot_latency(outcome, written[-1])
    return written


def _truth(frame: Frame) -> list[tuple[str, np.ndarray]]:
    """The ground truth as a tile, none where nobody knows it."""
    if "ground_truth" not in frame.pictures:
        return []
    dim = frame.pictures["image"] // 3
    dim[frame.pictures["ground_truth"][..., 0] == 1] = TRUTH
    return [("ground truth", dim)]


def chosen(frames: dict[int, Frame]) -> list[tuple[int, Frame]]:
    """Frames for the sheet: of each of SHEET_ROWS equal parts of the stream the one with the highest score."""
    whole = [
        (stamp, frame)
        for stamp, frame in sorted(frames.items())
        if frame.pictures.keys() >= {"image", "heatmap", "overlay"} and frame.state is not None
    ]
    parts = np.array_split(np.arange(len(whole)), min(SHEET_ROWS, len(whole))) if whole else []
    return [max((whole[index] for index in part), key=lambda item: item[1].state.peak_score) for part in parts]


def plot_latency(outcome: Outcome, path: Path) -> None:
    """Latency of every frame over the stream's time, with those that held a hazard set apart."""
    from matplotlib.figure import Figure

    items = [(stamp, frame) for stamp, frame in sorted(outcome.frames.items()) if frame.latency is not None]
    seconds = np.array([stamp - items[0][0] for stamp, _ in items]) * 1e-9
    milliseconds = outcome.latencies * 1000
    hazard = np.array([f.state is not None and f.state.level == Level.HAZARD for _, f in items])
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(seconds, milliseconds, color=INK, linewidth=0.6, alpha=0.4)
    for chosen_, colour, label in ((~hazard, QUIET, "no hazard"), (hazard, SIGNAL, "hazard")):
        axes.scatter(seconds[chosen_], milliseconds[chosen_], s=14, color=colour, label=label, zorder=3)
    median = float(np.median(milliseconds))
    axes.axhline(median, color=INK, linewidth=0.8, linestyle="--", label=f"median {median:.0f} ms")
    axes.set(xlabel="seconds since the first frame", ylabel="stamp to mask (ms)", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", ncols=3, fontsize=8)
    write_bytes(path, png(figure))
