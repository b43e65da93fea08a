"""The node's parameters for a replay: its YAML file, and the few that are often tried on the command line."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.parameters import TABLE, Settings, changed, contradiction


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say what a hazard is, for a parser that names the checkpoint and the device."""
    parser.set_defaults(device=None, precision=None)  # not given: the file's word stands, else the node's default
    parser.add_argument(
        "--params", type=Path, help="the node's parameter file (YAML), to find the same hazards as live"
    )
    parser.add_argument("--false-alarm-rate", type=float, help="share of normal pixels that may be flagged")
    parser.add_argument(
        "--threshold", type=float, help="score threshold in nats per dimension, instead of the false-alarm rate"
    )
    parser.add_argument("--min-area", type=int, help="smallest hazard in pixels")


def read_settings(arguments: argparse.Namespace) -> Settings:
    """The file's, overruled by the command line's. Raises FlowclasError for values that the node would refuse."""
    values: dict[str, Any] = {} if arguments.params is None else _of_file(arguments.params)
    values["checkpoint"] = str(arguments.checkpoint)
    if arguments.backbone_weights is not None:
        values["backbone_weights"] = str(arguments.backbone_weights)
    for name in ("device", "precision", "false_alarm_rate", "threshold", "min_area"):
        given = getattr(arguments, name)
        if given is not None:
            values[name] = given
    if arguments.false_alarm_rate is not None and arguments.threshold is None:
        values["threshold"] = math.nan  # the file's would go before the rate
    settings = changed(Settings(), values)
    problem = contradiction(settings) or _out_of_bounds(settings)
    if problem:
        raise FlowclasError(problem)
    if settings.self_mask == "topic":
        raise FlowclasError("self_mask 'topic' is for the live node: give the replay the path of a mask image")
    return settings


def _out_of_bounds(settings: Settings) -> str:
    for name, entry in TABLE.items():
        bounds, value = entry.metadata["bounds"], getattr(settings, name)
        if bounds and not bounds[0] <= value <= bounds[1]:
            return f"{name} {value} is not within {bounds[0]} to {bounds[1]}"
    return ""


def _of_file(path: Path) -> dict[str, Any]:
    """Every node's ros__parameters in the file that are the detector's. Raises FlowclasError."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FlowclasError(f"parameter file {path} cannot be read: {' '.join(str(error).split())}") from error
    blocks = content.values() if isinstance(content, dict) else ()
    found = [block["ros__parameters"] for block in blocks if isinstance(block, dict) and "ros__parameters" in block]
    if len(found) != 1 or not isinstance(found[0], dict):
        raise FlowclasError(f"parameter file {path} must hold one node with ros__parameters, as config/detector.yaml")
    values = {name: value for name, value in found[0].items() if name in TABLE}
    for name, value in values.items():
        default = TABLE[name].default
        try:
            values[name] = _like(default, value)
        except (TypeError, ValueError, OverflowError) as error:
            kind = list(default) if isinstance(default, tuple) else default
            raise FlowclasError(
                f"parameter file {path}: {name} is {value!r}, where {kind!r} is of the right kind"
            ) from error
    return values


def _like(default: Any, value: Any) -> Any:
    """`value` of the file as the default's kind. Raises TypeError, ValueError or OverflowError for one of another."""
    if isinstance(default, tuple) and isinstance(value, list):
        return [_like(default[0], one) for one in value]
    if isinstance(default, float) and not isinstance(value, bool):
        return float(value)  # YAML 1.1 reads 1e-3, without a point, as text; rclpy reads the number
    if type(value) is not type(default):
        raise TypeError
    return value
