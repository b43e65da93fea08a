"""Plots as PNG pictures, without pyplot: its global state and any display are left alone."""

from __future__ import annotations

import io
from typing import Any


def axes(rows: int, columns: int, height: float, *, share_x: bool = False) -> tuple[Any, list[Any]]:
    """A figure, 10 inches wide and so many high, and its axes row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), layout="constrained")
    found = list(figure.subplots(rows, columns, squeeze=False, sharex=share_x).ravel())
    for one in found:
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)
    return figure, found


def png(figure: Any) -> bytes:
    """A matplotlib figure as a picture."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
