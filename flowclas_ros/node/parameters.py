"""The detector node's parameters: one table of names, defaults, descriptions and ranges, declared and read from here.

config/detector.yaml lists the same; a test holds the two together. Importing this needs no ROS.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def _parameter(
    default: Any, description: str, *, bounds: tuple | None = None, choices: tuple[str, ...] = (), live: bool = False
) -> Any:
    """`bounds`: inclusive; `choices`: the values allowed; `live`: may change while configured, between two frames."""
    return field(
        default=default, metadata={"description": description, "bounds": bounds, "choices": choices, "live": live}
    )


@dataclass(frozen=True)
class Settings:
    """The parameters' values, read together at configure; the fields are the parameters."""

    checkpoint: str = _parameter("", "Path of the checkpoint (.safetensors) to detect with.")
    backbone_weights: str = _parameter(
        "",
        "Path of the backbone's weights, for a checkpoint that does not embed them; empty: the checkpoint's own "
        "source (embedded, or timm's hub, which needs a network).",
    )
    device: str = _parameter("auto", "Where the model runs: auto, cpu, cuda or cuda:<n>; auto takes CUDA if there.")
    precision: str = _parameter(
        "fp32", "Arithmetic of the backbone: fp32, bf16 or fp16. Scores stay float32.", choices=("fp32", "bf16", "fp16")
    )
    false_alarm_rate: float = _parameter(
        0.001,
        "Share of the pixels of normal scenes that may lie above the threshold; the checkpoint's calibration "
        "turns it into a threshold.",
        bounds=(0.0, 1.0),
    )
    threshold: float = _parameter(
        math.nan, "Score in nats per dimension above which a pixel is anomalous; .nan: from false_alarm_rate."
    )
    min_area: int = _parameter(
        50,
        "Smallest region in pixels of the input image that is a hazard; smaller ones raise CAUTION only.",
        bounds=(1, 100_000_000),
    )
    max_age: float = _parameter(
        0.5,
        "Seconds: a frame older than this by its stamp when its turn comes is dropped; 0 drops none.",
        bounds=(0.0, 3600.0),
        live=True,
    )
    stale_after: float = _parameter(
        1.0,
        "Seconds without a frame, or without a result, after which the state is STALE. Wall seconds by time of "
        "receipt, also under use_sim_time: raise it for a simulation slower than real time.",
        bounds=(0.05, 3600.0),
        live=True,
    )
    qos: str = _parameter(
        "sensor_data",
        "QoS of the image subscription: sensor_data (best effort, matches every camera) or reliable.",
        choices=("sensor_data", "reliable"),
    )
    autostart: bool = _parameter(
        False, "Configure and activate at start, for a node run without a launch file (which drives it otherwise)."
    )


TABLE = {entry.name: entry for entry in dataclasses.fields(Settings)}


def declare(node: Any) -> None:
    """Declare every parameter on `node` with description and range. Raises rclpy's own errors for a bad override."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    for name, entry in TABLE.items():
        descriptor = ParameterDescriptor(
            description=entry.metadata["description"], additional_constraints=", ".join(entry.metadata["choices"])
        )
        bounds = entry.metadata["bounds"]
        if bounds and isinstance(entry.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=bounds[0], to_value=bounds[1])]
        elif bounds:
            descriptor.integer_range = [IntegerRange(from_value=bounds[0], to_value=bounds[1], step=1)]
        node.declare_parameter(name, entry.default, descriptor)


def read(node: Any) -> Settings:
    """The values that `node` holds now."""
    return Settings(**{name: node.get_parameter(name).value for name in TABLE})


def refusal(changes: Mapping[str, Any], configured: bool) -> str:
    """Why `changes` (name to value) cannot be applied, as one line; empty when they can. Other names pass."""
    for name, value in changes.items():
        entry = TABLE.get(name)
        if entry is None:
            continue
        if configured and not entry.metadata["live"]:
            return f"{name} takes effect when the node configures: deactivate and clean up first"
        choices = entry.metadata["choices"]
        if choices and value not in choices:
            return f"{name} '{value}' is none of {', '.join(choices)}"
    return ""


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """`settings` with those of `changes` that are parameters of the table."""
    return dataclasses.replace(settings, **{name: value for name, value in changes.items() if name in TABLE})
