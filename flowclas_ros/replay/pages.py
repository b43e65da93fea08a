"""What the reports are made of: one HTML file that opens without a network, tables, pictures and plots inside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

HAZARD, SCORE, OTHER, LINE = "#c2410c", "#1d4ed8", "#0f766e", "#111827"
_TILE = 480  # pixels wide
_PLOTTED = 4000  # points of a time line: more are thinned to the highest of each stretch

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#18181b;background:#fafafa;margin:0 auto;max-width:1080px;padding:24px}
h1{font-size:24px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:18px;margin:36px 0 8px}
img{max-width:100%;display:block}.figures{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}
.figure{background:#fff;border:1px solid #e4e4e7;border-radius:6px;padding:10px 14px;min-width:120px}
.figure b{display:block;font-size:20px}.figure span{color:#52525b;font-size:13px}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:12px}
.sheet img{width:100%;max-height:960px;object-fit:contain}.pairs{grid-template-columns:1fr 1fr}
figure{margin:0}figcaption{font-size:13px;color:#3f3f46}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{text-align:left;padding:3px 12px 3px 0;border-bottom:1px solid #e4e4e7;vertical-align:top;overflow-wrap:anywhere}
th{font-weight:600}.worse,.failed{color:#b91c1c;font-weight:600}.better,.met{color:#15803d;font-weight:600}
.verdict{border-left:6px solid;padding:6px 14px;background:#fff;border-radius:4px;margin:16px 0}
.verdict ul{margin:4px 0;padding-left:20px;color:#18181b;font-weight:400}p.note{color:#52525b;margin:4px 0 12px}
details{margin:8px 0}summary{cursor:pointer;font-weight:600}
"""


def document(title: str, parts: Iterable[str]) -> str:
    """The whole file of parts that are HTML already."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{html.escape(text)}</p>'


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Rows of plain values, the first of each its name; words of praise and blame are coloured."""
    top = f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>" if head else ""
    return f"<table>{top}{''.join(_row(row) for row in rows)}</table>"


def folded(title: str, content: str) -> str:
    """What few will read, to open with a click."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def cards(figures: Iterable[tuple[str, Any]]) -> str:
    """(name, value) pairs in large print; values of None are left out."""
    shown = ((name, value) for name, value in figures if value is not None)
    boxes = (
        f'<div class="figure"><b>{number(value)}</b><span>{html.escape(name)}</span></div>' for name, value in shown
    )
    return f'<div class="figures">{"".join(boxes)}</div>'


def small(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A photograph (H,W,3) in its own shape, as wide as a tile; one that is slim as high as two."""
    height, width = picture.shape[:2]
    scale = min(_TILE / width, 2 * _TILE / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
    return np.asarray(resized, dtype=np.uint8)


def tile(picture: npt.NDArray[np.uint8], caption: str) -> str:
    """A photograph (H,W,3) RGB with its caption."""
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert done
    return f"<figure>{image(data.tobytes(), caption, 'jpeg')}<figcaption>{html.escape(caption)}</figcaption></figure>"


def image(data: bytes, text: str, kind: str = "png") -> str:
    """A picture inside the page."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{html.escape(text)}" src="{source}">'


def number(value: Any) -> str:
    """A figure as people read it."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw_timeline(
    axis: Any, seconds: np.ndarray, peaks: np.ndarray, hazards: np.ndarray, threshold: float, colour: str = SCORE
) -> None:
    """Peak score over time on `axis`, frames with a hazard marked and shaded, the threshold dashed."""
    stretch = -(-len(peaks) // _PLOTTED)
    firsts = np.arange(0, len(peaks), stretch)
    highest = np.array([first + int(peaks[first : first + stretch].argmax()) for first in firsts])
    flagged = np.maximum.reduceat(hazards, firsts) > 0
    marker = "." if len(highest) < 300 else ""
    axis.fill_between(
        seconds[highest],
        0,
        1,
        where=flagged,
        transform=axis.get_xaxis_transform(),
        color=HAZARD,
        alpha=0.1,
        linewidth=0,
    )
    axis.plot(seconds[highest], peaks[highest], color=colour, linewidth=1.2, marker=marker, label="peak score")
    chosen = highest[flagged]
    axis.plot(seconds[chosen], peaks[chosen], "o", color=HAZARD, markersize=4, label="hazard listed")
    axis.axhline(threshold, color=LINE, linestyle="--", linewidth=1, label="threshold")
    axis.set(ylabel="nats per dimension")


def _row(cells: Sequence[Any]) -> str:
    first, *rest = (html.escape(number(cell)) for cell in cells)
    marked = {"better", "worse", "met", "failed"}
    others = (f'<td class="{cell}">{cell}</td>' if cell in marked else f"<td>{cell}</td>" for cell in rest)
    return f"<tr><th>{first}</th>{''.join(others)}</tr>"
