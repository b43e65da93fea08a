"""report.html: one file that opens without a network, pictures and plots inside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from flowclas_ros.replay.requirements import line
from flowclas_ros.replay.tally import Shown, Tally
from flowclas_ros.training.evaluate_pictures import curves_png

_PLOTTED = 4000  # points of the time line: more are thinned to the highest of each stretch
_HAZARD, _SCORE, _THRESHOLD = "#c2410c", "#1d4ed8", "#111827"

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#18181b;background:#fafafa;margin:0 auto;max-width:1080px;padding:24px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:32px 0 8px}img{max-width:100%;display:block}
.figures{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}.figure{background:#fff;border:1px solid #e4e4e7;
border-radius:6px;padding:10px 14px;min-width:120px}.figure b{display:block;font-size:20px}.figure span{color:#52525b;
font-size:13px}.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:12px}
figure{margin:0}figcaption{font-size:13px;color:#3f3f46}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:3px 12px 3px 0;border-bottom:1px solid #e4e4e7;vertical-align:top;
overflow-wrap:anywhere}.failed{color:#b91c1c;font-weight:600}.met{color:#15803d}.two{display:flex;flex-wrap:wrap;gap:12px}
.two img{flex:1 1 400px;min-width:0}p.note{color:#52525b}
"""


def page(metrics: Mapping[str, Any], tally: Tally, curves: Mapping[str, Sequence[float]] | None) -> str:
    """The report as text. metrics: what metrics.json holds. curves: of PixelMetrics, where there is ground truth."""
    figures, bag = metrics["figures"], metrics["bag"]
    parts = [
        f"<h1>Replay of {html.escape(str(bag['path']))}</h1>",
        f'<p class="note">{html.escape(bag["topic"])}, {figures["frames"]} frames searched in '
        f"{bag['seconds']:.1f} s of recording, {figures['broken_frames']} broken; {html.escape(metrics['date'])}</p>",
        _verdict(metrics["requirements"]),
        _drift(figures),
        _cards(figures),
        "<h2>Score over time</h2>",
        _image(_timeline(tally, metrics["settings"]["threshold_used"]), "peak score of each frame over time"),
        '<p class="note">Peak score of each frame. Orange: frames with a listed hazard. Dashed: the threshold.</p>',
        "<h2>Most anomalous frames</h2>",
        _sheet(tally.shown),
        "<h2>Time per frame</h2>",
        _image(_latency(tally), "histogram of the time per frame"),
    ]
    if curves is not None:
        parts += [
            "<h2>Against ground truth</h2>",
            _image(curves_png(curves, figures), "precision-recall and ROC curves"),
        ]
    if metrics["notes"]:
        parts += ["<h2>Notes</h2><ul>", *(f"<li>{html.escape(note)}</li>" for note in metrics["notes"]), "</ul>"]
    if metrics["broken"]:
        rows = [(f"frame {one['index']}", one["error"]) for one in metrics["broken"]]
        parts += ["<h2>Broken frames</h2>", _table(rows)]
    parts += ["<h2>All figures</h2>", _table([(name, _number(value)) for name, value in figures.items()])]
    for title, name in (("Bag", "bag"), ("Model", "model"), ("Settings", "settings"), ("Versions", "versions")):
        parts += [f"<h2>{title}</h2>", _table([(key, str(value)) for key, value in metrics[name].items()])]
    head = f'<meta charset="utf-8"><title>Replay of {html.escape(str(bag["path"]))}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _verdict(requirements: Sequence[Mapping[str, Any]]) -> str:
    if not requirements:
        return ""
    items = [f'<li class="{"met" if one["met"] else "failed"}">{html.escape(line(one))}</li>' for one in requirements]
    passed = all(one["met"] for one in requirements)
    return (
        f'<h2 class="{"met" if passed else "failed"}">{"Passed" if passed else "Failed"}</h2><ul>{"".join(items)}</ul>'
    )


def _drift(figures: Mapping[str, Any]) -> str:
    """One line: whether the scores were those of the calibration's world."""
    if figures["drift_max"] is None:
        return '<p class="note">Drift: not known, since the checkpoint holds no drift reference.</p>'
    share, most = figures["drifted_share"], f"{figures['drift_max']:.2f}"
    if not share:
        return f'<p class="met">Drift: none; the scores are those of the world calibrated in (at most {most} away).</p>'
    return (
        f'<p class="failed">Drift: in {share:.1%} of the frames the scores were not those of the world calibrated in '
        f"(up to {most} away): the false-alarm rate is not kept there.</p>"
    )


def _cards(figures: Mapping[str, Any]) -> str:
    names = {
        "hazard_frames": "frames with hazards",
        "hazards": "hazards numbered",
        "peak_max": "highest score",
        "latency_p50_ms": "ms per frame, median",
        "latency_p99_ms": "ms per frame, p99",
        "auprc": "AUPRC",
        "auroc": "AUROC",
        "fpr95": "FPR95",
        "false_alarm_rate_asked": "asked-for false-alarm rate",
        "false_alarm_rate_observed": "observed false-alarm rate",
        "objects_missed": "objects missed",
    }
    cards = [
        f'<div class="figure"><b>{_number(figures[name])}</b><span>{text}</span></div>'
        for name, text in names.items()
        if figures.get(name) is not None
    ]
    return f'<div class="figures">{"".join(cards)}</div>'


def _sheet(shown: Sequence[Shown]) -> str:
    tiles = []
    for one in shown:
        done, data = cv2.imencode(".jpg", one.picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
        assert done
        text = f"frame {one.index}, peak {one.peak:.2f}, {one.hazards} hazard{'' if one.hazards == 1 else 's'}"
        tiles.append(f"<figure>{_image(data.tobytes(), text, 'jpeg')}<figcaption>{text}</figcaption></figure>")
    return f'<div class="sheet">{"".join(tiles)}</div>'


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in rows)
    return f"<table>{cells}</table>"


def _image(data: bytes, text: str, kind: str = "png") -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{html.escape(text)}" src="{source}">'


def _number(value: Any) -> str:
    if value is None:
        return "no figure"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _axes(columns: int, height: float) -> tuple[Any, Any]:
    """A figure of its own, so that pyplot's global state and any display are left alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _timeline(tally: Tally, threshold: float) -> bytes:
    stamps, peaks = np.array(tally.stamps), np.array(tally.peaks)
    seconds = (stamps - stamps[0]) * 1e-9
    figure, (axis,) = _axes(1, 3.2)
    stretch = -(-len(peaks) // _PLOTTED)
    firsts = np.arange(0, len(peaks), stretch)
    highest = np.array([first + int(peaks[first : first + stretch].argmax()) for first in firsts])
    marker = "." if len(highest) < 300 else ""
    axis.plot(seconds[highest], peaks[highest], color=_SCORE, linewidth=1.2, marker=marker, label="peak score")
    flagged = highest[np.maximum.reduceat(np.array(tally.hazards), firsts) > 0]
    axis.plot(seconds[flagged], peaks[flagged], "o", color=_HAZARD, markersize=4, label="hazard listed")
    axis.axhline(threshold, color=_THRESHOLD, linestyle="--", linewidth=1, label="threshold")
    axis.set(xlabel="seconds from the first frame", ylabel="nats per dimension")
    axis.legend(frameon=False, ncols=3, loc="upper left", bbox_to_anchor=(0, 1.14))
    return _png(figure)


def _latency(tally: Tally) -> bytes:
    milliseconds = np.array(tally.latencies) * 1e3
    figure, (axis,) = _axes(1, 2.6)
    axis.hist(milliseconds, bins=min(60, max(10, len(milliseconds) // 4)), color=_SCORE)
    for share, style in ((50, "-"), (99, "--")):
        value = float(np.percentile(milliseconds, share))
        axis.axvline(value, color=_THRESHOLD, linestyle=style, linewidth=1, label=f"p{share} {value:.1f} ms")
    axis.set(xlabel="milliseconds from message to finding", ylabel="frames")
    axis.legend(frameon=False)
    return _png(figure)
