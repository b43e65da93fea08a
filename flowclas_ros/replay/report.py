"""report.html: a replay of one camera for people, from the verdict down to the versions."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flowclas_ros import plots
from flowclas_ros.replay import pages
from flowclas_ros.replay.requirements import line
from flowclas_ros.replay.tally import Shown, Tally
from flowclas_ros.training.evaluate_pictures import curves_png

_CARDS = {
    "frames": "frames searched",
    "broken_frames": "frames broken",
    "hazard_frames": "frames with hazards",
    "hazards": "hazards listed",
    "latency_p50_ms": "ms per frame, median",
    "latency_p99_ms": "ms per frame, p99",
    "auprc": "AUPRC",
    "auroc": "AUROC",
    "fpr95": "FPR95",
    "siou": "mean sIoU of objects",
    "ppv": "mean PPV of findings",
    "f1_star": "F1*",
    "objects": "objects in view",
    "objects_missed": "objects missed",
    "false_alarm_episodes_per_minute": "false alarms per minute",
}


def page(metrics: Mapping[str, Any], tally: Tally, curves: Mapping[str, Sequence[float]] | None) -> str:
    """The report as text. metrics: what metrics.json holds. curves: of PixelMetrics, where there is ground truth."""
    figures, bag, model = metrics["figures"], metrics["bag"], metrics["model"]
    title = f"Replay of {bag['path']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        pages.note(
            f"{bag['topic']}, {bag['seconds']:.1f} s of recording; checkpoint {model['name']} "
            f"({model['sha256'][:12]}) on {model['device']}; {metrics['date']}"
        ),
        _verdict(metrics["requirements"]),
        _drift(figures),
        pages.cards((text, figures.get(name)) for name, text in _CARDS.items()),
        "<h2>Score over time</h2>",
        pages.image(
            _timeline(tally, metrics["settings"]["threshold_used"], metrics.get("objects", ())),
            "peak score of each frame over time",
        ),
        "<h2>Most anomalous frames</h2>",
        _sheet(tally.shown, tally.stamps[0]),
        "<h2>Time per frame</h2>",
        pages.image(_latency(tally), "histogram of the time per frame"),
    ]
    if "objects" in metrics:
        parts += _truth(metrics, curves, tally.stamps[0])
    if metrics["notes"]:
        parts += ["<h2>Notes</h2><ul>", *(f"<li>{html.escape(text)}</li>" for text in metrics["notes"]), "</ul>"]
    if metrics["broken"]:
        rows = [(f"frame {one['index']}", one["error"]) for one in metrics["broken"]]
        parts += ["<h2>Broken frames</h2>", pages.table(rows)]
    parts += ["<h2>Model and bag</h2>", pages.table([*model.items(), *(("bag " + key, bag[key]) for key in bag)])]
    for name, content in (
        ("All figures", figures),
        ("Settings", metrics["settings"]),
        ("Versions", metrics["versions"]),
    ):
        parts.append(pages.folded(name, pages.table(content.items())))
    return pages.document(title, parts)


def with_verdict(text: str, metrics: Mapping[str, Any]) -> str:
    """A report's text with the verdict of `metrics` in place of its own, just before the line on drift."""
    drift = _drift(metrics["figures"])
    before, found, after = text.partition(drift)
    return (
        before.partition('<div class="verdict')[0] + _verdict(metrics["requirements"]) + drift + after
        if found
        else text
    )


def _verdict(requirements: Sequence[Mapping[str, Any]]) -> str:
    if not requirements:
        return ""
    items = [f'<li class="{"met" if one["met"] else "failed"}">{html.escape(line(one))}</li>' for one in requirements]
    passed = all(one["met"] for one in requirements)
    word, kind = ("Passed", "met") if passed else ("Failed", "failed")
    return f'<div class="verdict {kind}">{word}<ul>{"".join(items)}</ul></div>'


def _drift(figures: Mapping[str, Any]) -> str:
    """One line: whether the scores were those of the calibration's world."""
    if figures["drift_max"] is None:
        return pages.note("Drift: not known, since the checkpoint holds no drift reference.")
    share, most = figures["drifted_share"], f"{figures['drift_max']:.2f}"
    if not share:
        return f'<p class="met">Drift: none; the scores are those of the world calibrated in (at most {most} away).</p>'
    return (
        f'<p class="failed">Drift: in {share:.1%} of the frames the scores were not those of the world calibrated in '
        f"(up to {most} away): the false-alarm rate need not hold there.</p>"
    )


def _sheet(shown: Sequence[Shown], start_ns: int) -> str:
    tiles = []
    for one in shown:
        hazards = f"{one.hazards} hazard{'' if one.hazards == 1 else 's'}"
        caption = f"frame {one.index} at {(one.stamp_ns - start_ns) * 1e-9:.1f} s, peak {one.peak:.2f}, {hazards}"
        tiles.append(pages.tile(one.picture, caption))
    return f'<div class="sheet">{"".join(tiles)}</div>'


def _truth(metrics: Mapping[str, Any], curves: Mapping[str, Sequence[float]] | None, start_ns: int) -> list[str]:
    """Curves, calibration and objects."""
    figures, calibration = metrics["figures"], metrics["calibration"]
    parts = ["<h2>Against ground truth</h2>"]
    if curves is None:
        parts.append(pages.note(figures.get("pixels_note", "")))
    else:
        parts.append(pages.image(curves_png(curves, figures), "precision-recall and ROC curves"))
    untold = "no pixel is labelled normal" if calibration["asked"] else "a threshold was set, so no rate was asked for"
    kept = {True: "kept", False: "exceeded", None: untold}[calibration["kept"]]
    rows = [
        ("false-alarm rate asked for", calibration["asked"]),
        ("observed on normal pixels", calibration["observed"]),
        ("calibration", kept),
        ("false-alarm episodes", figures["false_alarm_episodes"]),
        ("episodes per minute", figures["false_alarm_episodes_per_minute"]),
    ]
    parts.append(pages.table(rows))
    if metrics["objects"]:
        head = ("object", "in view from", "found at", "after frames", "after seconds", "largest, pixels")
        objects = [
            (
                f"object {one['object']}",
                f"{(one['visible_ns'] - start_ns) * 1e-9:.2f} s, frame {one['visible_frame']}",
                "never"
                if one["found_ns"] is None
                else f"{(one['found_ns'] - start_ns) * 1e-9:.2f} s, frame {one['found_frame']}",
                one["frames"],
                one["seconds"],
                one["largest_pixels"],
            )
            for one in metrics["objects"]
        ]
        parts += ["<h2>Time to detection</h2>", pages.table(objects, head)]
    return parts


def _timeline(tally: Tally, threshold: float, objects: Sequence[Mapping[str, Any]]) -> bytes:
    stamps = np.array(tally.stamps)
    figure, (axis,) = plots.axes(1, 1, 3.4)
    pages.draw_timeline(axis, (stamps - stamps[0]) * 1e-9, np.array(tally.peaks), np.array(tally.hazards), threshold)
    for index, one in enumerate(objects):
        label = "object comes into view" if index == 0 else None
        at = (one["visible_ns"] - stamps[0]) * 1e-9
        axis.axvline(at, color=pages.OTHER, linestyle=":", linewidth=1.2, label=label)
    axis.set(xlabel="seconds from the first frame")
    axis.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))
    return plots.png(figure)


def _latency(tally: Tally) -> bytes:
    milliseconds = np.array(tally.latencies) * 1e3
    figure, (axis,) = plots.axes(1, 1, 2.6)
    axis.hist(milliseconds, bins=min(60, max(10, len(milliseconds) // 4)), color=pages.SCORE)
    for share, style in ((50, "-"), (99, "--")):
        value = float(np.percentile(milliseconds, share))
        axis.axvline(value, color=pages.LINE, linestyle=style, linewidth=1, label=f"p{share} {value:.1f} ms")
    axis.set(xlabel="milliseconds from message to finding", ylabel="frames")
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))
    return plots.png(figure)
