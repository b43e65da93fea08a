"""The messages by which the node speaks of itself: DetectorState, and /diagnostics with health and hazard apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from flowclas_ros.msg import DetectorState
from flowclas_ros.node.status import Counts, Level, Scene, Status

if TYPE_CHECKING:
    from flowclas_ros.detection.detector import Detector

# Autoware's MRM path acts on ERROR. A hazard is one for the hazard status alone, a blind detector for the health alone.
_HAZARD_LEVELS = {
    Level.CLEAR: DiagnosticStatus.OK,
    Level.CAUTION: DiagnosticStatus.WARN,
    Level.HAZARD: DiagnosticStatus.ERROR,
    Level.STALE: DiagnosticStatus.STALE,
    Level.FAULT: DiagnosticStatus.STALE,
}


def state_message(level: Level, text: str, status: Status, detector: Detector) -> DetectorState:
    """The state as a message: header and scene values are those of the newest frame that was searched."""
    scene, counts = status.scene, status.counts
    message = DetectorState(level=int(level), message=text, nearest_range=math.nan, latency=math.nan)
    if scene is not None:
        message.header = scene.header
        message.anomalous_share, message.peak_score = scene.anomalous_share, scene.peak_score
        message.hazard_count, message.latency = scene.regions, scene.latency
    message.threshold = float(detector.threshold)
    message.false_alarm_rate = math.nan if detector.false_alarm_rate is None else float(detector.false_alarm_rate)
    message.threshold_guaranteed = bool(detector.guaranteed)
    message.checkpoint_name = str(detector.header.get("name", ""))
    message.checkpoint_sha256 = str(detector.header.get("sha256", ""))
    message.frames_received, message.frames_processed = counts.received, counts.processed
    message.frames_dropped = counts.dropped
    return message


def diagnostics(node_name: str, stamp: Any, level: Level, text: str, status: Status, detector: Detector) -> Any:
    """/diagnostics of an active detector: "<node>: health" and "<node>: hazard"."""
    blind = level in (Level.STALE, Level.FAULT)
    mismatches = status.mismatches
    health = DiagnosticStatus(name=f"{node_name}: health", hardware_id=detector.device)
    if blind:
        health.level, health.message = DiagnosticStatus.ERROR, text
    elif mismatches:
        health.level, health.message = DiagnosticStatus.WARN, mismatches
    else:
        health.level, health.message = DiagnosticStatus.OK, "frames are searched in time"
    health.values = _values(detector, status.counts, status.scene)
    hazard = DiagnosticStatus(
        name=f"{node_name}: hazard",
        hardware_id=detector.device,
        level=_HAZARD_LEVELS[level],
        message="unknown: the view is not searched" if blind else text,
    )
    return _array(stamp, [health, hazard])


def idle_diagnostics(node_name: str, stamp: Any, text: str) -> Any:
    """/diagnostics of a detector that does not look (inactive): never OK, silence is no all-clear."""
    return _array(
        stamp,
        [
            DiagnosticStatus(name=f"{node_name}: health", level=DiagnosticStatus.WARN, message=text),
            DiagnosticStatus(name=f"{node_name}: hazard", level=DiagnosticStatus.STALE, message=f"unknown: {text}"),
        ],
    )


def _array(stamp: Any, statuses: list) -> Any:
    array = DiagnosticArray(status=statuses)
    array.header.stamp = stamp
    return array


def _values(detector: Detector, counts: Counts, scene: Scene | None) -> list:
    values: dict[str, object] = {
        "device": detector.device,
        "checkpoint": detector.header.get("name", ""),
        "frames received": counts.received,
        "frames processed": counts.processed,
        "frames dropped": counts.dropped,
        "frames broken": counts.broken,
        "threshold (nats per dimension)": f"{detector.threshold:.4f}",
        "threshold guaranteed": detector.guaranteed,
    }
    if scene is not None:
        values["latency (s)"] = f"{scene.latency:.4f}"
        values.update({f"{stage} (s)": f"{seconds:.4f}" for stage, seconds in scene.timings.items()})
    return [KeyValue(key=key, value=str(value)) for key, value in values.items()]
