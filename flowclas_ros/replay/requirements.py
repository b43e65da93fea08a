"""The verdict: what is required of a replay's figures, and whether they hold."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowclas_ros.errors import FlowclasError

ALWAYS = (
    "frames",
    "broken_frames",
    "hazard_frames",
    "hazards",
    "peak_max",
    "anomalous_share_mean",
    "drift_max",
    "drifted_share",
    "latency_mean_ms",
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "latency_max_ms",
)
WITH_MASKS = (
    "auprc",
    "auroc",
    "fpr95",
    "f1_max",
    "siou",
    "ppv",
    "f1_star",
    "false_alarm_rate_observed",
    "false_alarm_episodes",
    "false_alarm_episodes_per_minute",
    "labelled_frames",
    "objects",
    "objects_missed",
    "detection_frames_max",
    "detection_seconds_max",
)
_COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Requirement:
    """`name` compared by `relation` with `limit`."""

    name: str
    relation: str
    limit: float

    def __str__(self) -> str:
        return f"{self.name}{self.relation}{self.limit:g}"

    def check(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """The figure and whether it holds; a figure that there is not does not."""
        figure = figures.get(self.name)
        met = figure is not None and bool(_COMPARE[self.relation](float(figure), self.limit))
        return {"requirement": str(self), "figure": figure, "met": met}


def parse(text: str, masks: bool) -> Requirement:
    """Of "fpr95<=0.1". masks: whether there is ground truth. Raises FlowclasError listing what can be required."""
    match = re.fullmatch(r"\s*([a-z0-9_]+)\s*(<=|>=|==|<|>)\s*(\S+)\s*", text)
    try:
        limit = float(match[3]) if match else float("nan")
    except ValueError:
        limit = float("nan")
    if match is None or limit != limit:
        raise FlowclasError(f"requirement '{text}' is not of the form fpr95<=0.1 (relations: {' '.join(_COMPARE)})")
    name = match[1]
    if name not in ALWAYS + WITH_MASKS:
        raise FlowclasError(f"requirement '{text}': unknown metric '{name}'; known: {', '.join(ALWAYS + WITH_MASKS)}")
    if name in WITH_MASKS and not masks:
        raise FlowclasError(f"requirement '{text}' needs ground truth: give --masks or --mask-topic")
    return Requirement(name, match[2], limit)


def line(verdict: Mapping[str, Any]) -> str:
    """One requirement's outcome for people."""
    figure = "no figure" if verdict["figure"] is None else f"{verdict['figure']:.5g}"
    return f"{'met   ' if verdict['met'] else 'FAILED'} {verdict['requirement']}: {figure}"
