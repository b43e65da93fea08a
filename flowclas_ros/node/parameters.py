"""The detector node's parameters: one table of names, defaults, descriptions and ranges, declared and read from here.

config/detector.yaml lists the same; a test holds the two together. Importing this needs no ROS.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowclas_ros.errors import FlowclasError

# ~/state is not among them, nor is /diagnostics: whoever relies on the detector must always hear of it
FLOAT32 = 3.4028235e38  # the largest, as scores and the state's threshold are
OUTPUTS = ("score", "heatmap", "mask", "overlay", "hazards", "points", "markers", "camera_info")


def _parameter(
    default: Any, description: str, *, bounds: tuple | None = None, choices: tuple[str, ...] = (), live: bool = False
) -> Any:
    """`bounds`: inclusive; `choices`: the values allowed; `live`: may change while configured, between two frames."""
    return field(
        default=default, metadata={"description": description, "bounds": bounds, "choices": choices, "live": live}
    )


@dataclass(frozen=True)
class Settings:
    """The parameters' values, read together at configure; the fields are the parameters, lists are tuples here."""

    # --- the model
    checkpoint: str = _parameter("", "Path of the checkpoint (.safetensors); ~/load_checkpoint swaps it.")
    backbone_weights: str = _parameter(
        "",
        "Path of the backbone's weights, for a checkpoint that does not embed them; empty: the checkpoint's own "
        "source (embedded, or timm's hub, which needs a network).",
    )
    device: str = _parameter(
        "auto", "Where the model runs: auto, cpu, cuda or cuda:<n>; auto takes CUDA if there.", live=True
    )
    precision: str = _parameter(
        "fp32",
        "Arithmetic of the backbone: fp32, bf16 or fp16. Scores stay float32.",
        choices=("fp32", "bf16", "fp16"),
        live=True,
    )
    # --- what is a hazard
    false_alarm_rate: float = _parameter(
        0.001,
        "Share of the pixels of normal scenes that may lie above the threshold; the checkpoint's calibration "
        "turns it into a threshold.",
        bounds=(0.0, 1.0),
        live=True,
    )
    threshold: float = _parameter(
        math.nan,
        "Score in nats per dimension above which a pixel is anomalous; .nan: from false_alarm_rate.",
        live=True,
    )
    min_area: int = _parameter(
        50,
        "Smallest region in pixels of the input image that is a hazard; smaller ones raise CAUTION only.",
        bounds=(1, 100_000_000),
        live=True,
    )
    hysteresis: float = _parameter(
        0.0,
        "Nats per dimension below the threshold down to which a hazard reaches around its pixels above it; 0: none.",
        bounds=(0.0, 1000.0),
        live=True,
    )
    region_of_interest: tuple[float, ...] = _parameter(
        (0.0, 0.0, 1.0, 1.0),
        "Part of the image that is searched: left, top, right, bottom as shares 0..1 of its width and height.",
        live=True,
    )
    self_mask: str = _parameter(
        "",
        "Where the camera sees the robot itself, which is never a hazard: path of a mask image, or 'topic' for mono8 "
        "masks on the topic self_mask, of which the nearest by its stamp counts; nonzero is the robot. '{camera}' in a "
        "path becomes the camera's name.",
    )
    # --- over time
    confirm_frames: int = _parameter(
        1, "Frames in which a hazard must be seen before it is listed; CAUTION until then.", bounds=(1, 1000), live=True
    )
    forget_frames: int = _parameter(
        3,
        "Missed frames in a row after which a hazard leaves; listed until then.",
        bounds=(1, 1000),
        live=True,
    )
    smoothing: float = _parameter(
        0.0,
        "Seconds: time constant of the score's exponential smoothing; 0: none. A hazard is seen later by about that.",
        bounds=(0.0, 60.0),
        live=True,
    )
    drift_window: float = _parameter(
        10.0,
        "Seconds of frames whose scores are held against the calibration's; the state says when they have drifted; "
        "0: never.",
        bounds=(0.0, 3600.0),
        live=True,
    )
    max_age: float = _parameter(
        0.5,
        "Seconds: a frame older than this by its stamp when its turn comes is dropped; 0 drops none.",
        bounds=(0.0, 3600.0),
        live=True,
    )
    stale_after: float = _parameter(
        1.0,
        "Seconds without a frame, or without a result, after which the state is STALE, as a view without a hazard is "
        "when its search took longer. Wall seconds by time of receipt, also under use_sim_time: raise it for a "
        "simulation slower than real time.",
        bounds=(0.05, 3600.0),
        live=True,
    )
    # --- depth
    depth: bool = _parameter(
        False, "Use the topics depth (registered to the image) and camera_info: hazards get a position in metres."
    )
    depth_slop: float = _parameter(
        0.02,
        "Seconds that the stamps of an image and its depth may differ: less than half the time between two frames.",
        bounds=(0.0001, 10.0),
    )
    depth_queue: int = _parameter(5, "Messages held per stream for pairing.", bounds=(1, 5))
    depth_wait: float = _parameter(
        0.1, "Seconds that a frame is held back for its depth; then it is searched without.", bounds=(0.0, 10.0)
    )
    # --- connection
    cameras: tuple[str, ...] = _parameter(
        ("",),
        "Names of the cameras, whose topics then lie under them (front/image in, ~/front/mask out) and which share a "
        "batch; one empty name: a single camera (image in, ~/mask out).",
    )
    transport: str = _parameter(
        "raw",
        "What the image topic carries: raw (sensor_msgs/Image) or compressed (sensor_msgs/CompressedImage, JPEG or "
        "PNG, on image/compressed).",
        choices=("raw", "compressed"),
    )
    qos: str = _parameter(
        "sensor_data",
        "QoS of the camera's subscriptions: sensor_data (best effort, matches every camera) or reliable.",
        choices=("sensor_data", "reliable"),
    )
    qos_depth: int = _parameter(
        5, "Frames that the middleware holds for the node; the node itself keeps the newest alone.", bounds=(1, 100)
    )
    output_scale: float = _parameter(
        1.0,
        "Size of the output images as a share of the input's. Hazards stay in pixels of the input.",
        bounds=(0.05, 1.0),
        live=True,
    )
    publish: tuple[str, ...] = _parameter(
        OUTPUTS,
        "Outputs that are published, of score, heatmap, mask, overlay, hazards, points, markers and camera_info. One "
        "that is left out stays advertised but is neither computed nor sent, whoever listens; one empty name: none. "
        "The state and the diagnostics always are.",
        live=True,
    )
    autostart: bool = _parameter(
        False, "Configure and activate at start. False, the default without a launch file, leaves that to a manager."
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
        default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
        node.declare_parameter(name, default, descriptor)


def read(node: Any) -> Settings:
    """The values that `node` holds now. Raises FlowclasError for an empty list, of which ROS cannot tell the type."""
    from rclpy.exceptions import ParameterUninitializedException

    try:
        return changed(Settings(), {name: node.get_parameter(name).value for name in TABLE})
    except ParameterUninitializedException as error:
        raise FlowclasError(f'{error}: an empty list has no type in ROS, give [""] for one without names') from error


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """`settings` with those of `changes` that are parameters of the table."""
    return dataclasses.replace(settings, **{name: _plain(value) for name, value in changes.items() if name in TABLE})


def refusal(settings: Settings, changes: Mapping[str, Any], configured: bool) -> str:
    """Why `changes` (name to value) cannot be applied to `settings`, as one line; empty when they can.

    Looks at each value and then at all of them together; names that are not in the table pass.
    """
    for name, value in changes.items():
        entry = TABLE.get(name)
        if entry is None or _plain(value) == getattr(settings, name):
            continue
        if configured and not entry.metadata["live"]:
            return f"{name} takes effect when the node configures: deactivate and clean up first"
    return contradiction(changed(settings, changes))


def contradiction(settings: Settings) -> str:
    """What is wrong with `settings`, taken together, as one line; empty for nothing."""
    for name, entry in TABLE.items():
        choices, value = entry.metadata["choices"], getattr(settings, name)
        if choices and value not in choices:
            return f"{name} '{value}' is none of {', '.join(choices)}"
    if abs(settings.threshold) > FLOAT32:  # which NaN is not
        return f"threshold {settings.threshold} is not a score in nats per dimension: .nan takes false_alarm_rate's"
    if math.isnan(settings.threshold) and not 0 < settings.false_alarm_rate < 1:
        return f"false_alarm_rate {settings.false_alarm_rate:g} is not between 0 and 1: 0.001 is one pixel in 1000"
    region = settings.region_of_interest
    if len(region) != 4 or not (0 <= region[0] < region[2] <= 1 and 0 <= region[1] < region[3] <= 1):
        return f"region_of_interest {list(region)} is not left < right, top < bottom as four shares in 0..1"
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", settings.device):
        return f"device '{settings.device}' is none of auto, cpu, cuda, cuda:<n>"
    for name in settings.publish:
        if name not in OUTPUTS and settings.publish != ("",):
            return f"publish: '{name}' is none of {', '.join(OUTPUTS)} (the state always is published)"
    return _cameras_contradiction(settings.cameras)


def _cameras_contradiction(cameras: tuple[str, ...]) -> str:
    if cameras == ("",):
        return ""
    for name in cameras:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            return f"cameras: '{name}' cannot stand in a topic name: begin with a letter, go on with letters, digits, _"
    if not cameras or len(set(cameras)) < len(cameras):
        return f"cameras {list(cameras)} needs at least one name, and each once"
    return ""


def _plain(value: Any) -> Any:
    """Lists and arrays, as rclpy gives them, as tuples."""
    return tuple(value) if isinstance(value, (list, tuple)) or hasattr(value, "typecode") else value
