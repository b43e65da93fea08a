"""compare.html: two replays of one bag side by side."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from flowclas_ros import plots
from flowclas_ros.replay import pages
from flowclas_ros.replay.compare_frames import Comparison, Hazard

_LISTED = 50  # hazards of one run


def page(comparison: Comparison, figures: Sequence[tuple], requirements: Sequence[tuple]) -> str:
    """The page as text. figures, requirements: (name, of A, of B, what B is)."""
    first, second = comparison.runs
    bag = first.metrics["bag"]
    title = f"{second.name} against {first.name}"
    start_ns = comparison.frames[0].stamp_ns
    judged = [row for row in figures if row[3]]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        pages.note(f"A is {first.folder}, B is {second.folder}: {bag['path']} {bag['topic']}"),
        _verdict(judged, requirements),
        pages.cards(_cards(comparison)),
    ]
    if requirements:
        parts += ["<h2>Requirements</h2>", pages.table(requirements, ("", "A", "B", "B is"))]
    parts += ["<h2>Figures</h2>", pages.table(judged, ("", "A", "B", "B is"))]
    parts.append(
        pages.folded("Further figures", pages.table([row[:3] for row in figures if not row[3]], ("", "A", "B")))
    )
    parts += ["<h2>Score over time</h2>", pages.image(_timelines(comparison), "peak scores of both runs over time")]
    parts += ["<h2>Frames that differ most</h2>", _sheet(comparison, start_ns)]
    for letter, hazards in zip("AB", comparison.hazards, strict=True):
        alone = [hazard for hazard in hazards.values() if not hazard.shared]
        parts += [
            f"<h2>Hazards that {letter} alone found: {len(alone)} of {len(hazards)}</h2>",
            _hazards(alone, start_ns),
        ]
    if comparison.notes:
        parts += ["<h2>Notes</h2><ul>", *(f"<li>{html.escape(text)}</li>" for text in comparison.notes), "</ul>"]
    for name in ("model", "settings"):
        parts += [f"<h2>{name.capitalize()}</h2>", pages.table(_both(comparison, name), ("", "A", "B"))]
    parts.append(pages.folded("Bag", pages.table(bag.items())))
    return pages.document(title, parts)


def _verdict(figures: Sequence[tuple], requirements: Sequence[tuple]) -> str:
    """What got better and what worse, requirements first."""
    items = []
    for word in ("worse", "better"):
        names = [row[0] for row in [*requirements, *figures] if row[3] == word]
        if names:
            items.append(f'<li class="{word}">B is {word} in {html.escape(", ".join(names))}</li>')
    lost = any(row[3] == "worse" for row in requirements)
    head = "B fails what A met" if lost else "B fails nothing that A met" if requirements else "A and B"
    return f'<div class="verdict {"failed" if lost else "met"}">{head}<ul>{"".join(items)}</ul></div>'


def _cards(comparison: Comparison) -> Iterable[tuple[str, Any]]:
    hazards = [sum(not hazard.shared for hazard in known.values()) for known in comparison.hazards]
    flagged = [(bool(frame.hazards[0]), bool(frame.hazards[1])) for frame in comparison.frames]
    yield "frames in both", len(comparison.frames)
    yield "with a hazard in both", flagged.count((True, True))
    yield "with a hazard in A alone", flagged.count((True, False))
    yield "with a hazard in B alone", flagged.count((False, True))
    yield "hazards that A alone found", hazards[0]
    yield "hazards that B alone found", hazards[1]


def _timelines(comparison: Comparison) -> bytes:
    """A above B; each has its own scale, since two models' scores are not to be compared."""
    frames = comparison.frames
    seconds = np.array([(frame.stamp_ns - frames[0].stamp_ns) * 1e-9 for frame in frames])
    figure, both = plots.axes(2, 1, 5.2, share_x=True)
    for index, (axis, run, colour) in enumerate(zip(both, comparison.runs, (pages.SCORE, pages.OTHER), strict=True)):
        peaks = np.array([frame.peak[index] for frame in frames])
        hazards = np.array([frame.hazards[index] for frame in frames])
        pages.draw_timeline(axis, seconds, peaks, hazards, run.metrics["settings"]["threshold_used"], colour)
        axis.set_title(f"{'AB'[index]}: {run.name}", loc="left", fontsize=10)
    both[0].legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1.0))
    both[1].set(xlabel="seconds from the first frame")
    return plots.png(figure)


def _sheet(comparison: Comparison, start_ns: int) -> str:
    if not comparison.pictures:
        return pages.note("None: both flag the same pixels, or a run has no overlays.")
    tiles = []
    for frame, pictures in comparison.pictures:
        for index, picture in enumerate(pictures):
            count = frame.hazards[index]
            caption = (
                f"{'AB'[index]}, frame {frame.index} at {(frame.stamp_ns - start_ns) * 1e-9:.1f} s: {count} "
                f"hazard{'' if count == 1 else 's'}, {frame.alone[index]:.2%} of the pixels flagged by it alone"
            )
            tiles.append(pages.tile(picture, caption))
    return f'<div class="sheet pairs">{"".join(tiles)}</div>'


def _hazards(hazards: Sequence[Hazard], start_ns: int) -> str:
    if not hazards:
        return pages.note("None.")
    rows = [
        (
            f"hazard {hazard.id}",
            f"{(hazard.first_ns - start_ns) * 1e-9:.1f} s",
            f"{(hazard.last_ns - start_ns) * 1e-9:.1f} s",
            hazard.frames,
            hazard.peak,
        )
        for hazard in sorted(hazards, key=lambda hazard: -hazard.frames)[:_LISTED]
    ]
    more = pages.note(f"and {len(hazards) - _LISTED} more, see compare.json") if len(hazards) > _LISTED else ""
    return pages.table(rows, ("", "from", "to", "frames", "highest score")) + more


def _both(comparison: Comparison, name: str) -> list[tuple[str, Any, Any]]:
    first, second = (run.metrics[name] for run in comparison.runs)
    return [(key, first.get(key), second.get(key)) for key in {**first, **second}]
