"""/diagnostics, with health and hazard apart; without ROS, as everything that the replay says too (see messages.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowclas_ros.node.messages import Make
from flowclas_ros.node.status import Counts, Level, Scene, Status

if TYPE_CHECKING:
    from flowclas_ros.detection.detector import Detector

PERIOD = 1.0  # seconds
OK, WARN, ERROR, STALE = range(4)  # diagnostic_msgs/DiagnosticStatus's own numbers

# Autoware's MRM path acts on ERROR, and on WARN unless its graph lets that pass (docs/integration.md). A hazard is an
# ERROR for the hazard status alone, a blind detector for the health alone.
_HAZARD_LEVELS = {
    Level.CLEAR: OK,
    Level.CAUTION: WARN,
    Level.HAZARD: ERROR,
    Level.STALE: STALE,
    Level.FAULT: STALE,
}


def diagnostics(name: str, level: Level, text: str, status: Status, detector: Detector, make: Make) -> list[Any]:
    """`<name>: health` and `<name>: hazard` of an active detector, diagnostic_msgs/DiagnosticStatus."""
    blind = level in (Level.STALE, Level.FAULT)
    remarks = status.remarks
    if blind:
        health = (ERROR, text)
    elif remarks:
        health = (WARN, remarks)
    else:
        health = (OK, "frames are searched in time")
    hazard = (_HAZARD_LEVELS[level], f"unknown: {text}" if blind else text)
    values = _values(detector, status.counts, status.scene, make)
    return [
        _status(f"{name}: health", *health, make, detector.device, values),
        _status(f"{name}: hazard", *hazard, make, detector.device),
    ]


def idle_diagnostics(name: str, text: str, make: Make) -> list[Any]:
    """Of a detector that does not look (inactive, paused): never OK, silence is no all-clear."""
    return [
        _status(f"{name}: health", WARN, text, make),
        _status(f"{name}: hazard", STALE, f"unknown: {text}", make),
    ]


def diagnostic_array(stamp: Any, statuses: list[Any], make: Make) -> Any:
    """The diagnostic_msgs/DiagnosticArray for /diagnostics. stamp: a builtin_interfaces/Time."""
    return make("DiagnosticArray", header=make("Header", stamp=stamp, frame_id=""), status=statuses)


def _status(name: str, level: int, message: str, make: Make, device: str = "", values: list[Any] | None = None) -> Any:
    return make("DiagnosticStatus", name=name, level=level, message=message, hardware_id=device, values=values or [])


def _values(detector: Detector, counts: Counts, scene: Scene | None, make: Make) -> list[Any]:
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
        values["drift"] = f"{scene.drift:.4f}"
        values.update({f"{stage} (s)": f"{seconds:.4f}" for stage, seconds in scene.timings.items()})
    return [make("KeyValue", key=key, value=str(value)) for key, value in values.items()]
