"""What the outputs say, field by field, without ROS: the live node and the replay of a recording build from here.

A `make` turns a kind's name and its fields into a message: of rclpy's classes in the node, plain objects in the replay,
which rosbags serialises by the definitions in msg/.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.tracking import TrackedHazard
from flowclas_ros.node.status import Level, Status

if TYPE_CHECKING:
    from flowclas_ros.detection.detector import Detector
    from flowclas_ros.detection.interpreter import Finding

Make = Callable[..., Any]  # make("Point", x=1.0, y=2.0, z=3.0)

MARKER_LIFETIME = 1.0  # seconds; a detector that dies takes its markers with it
THINNEST = 0.02  # metres; a face seen from the front has no depth, and RViz draws no flat cube
TEXT_HEIGHT = 0.15  # metres
SEEN, HELD = (0.90, 0.10, 0.10), (0.95, 0.60, 0.10)  # red; orange when it was not seen in this frame
# visualization_msgs/Marker's and sensor_msgs/PointField's own numbers
ADD, DELETEALL, CUBE, TEXT_VIEW_FACING, FLOAT32 = 0, 3, 1, 9, 7
_CLOUD_FIELDS = ("x", "y", "z", "score")
_FLOAT_BYTES = 4


def hazard_array(header: Any, hazards: Sequence[TrackedHazard], make: Make) -> Any:
    """A flowclas_ros/HazardArray with the input image's header."""
    return make("HazardArray", header=header, hazards=[_hazard(hazard, make) for hazard in hazards])


def _hazard(hazard: TrackedHazard, make: Make) -> Any:
    x, y, width, height = hazard.region.bbox
    location = hazard.location
    position, size = (location.position, location.size) if location else ((math.nan,) * 3, (math.nan,) * 3)
    return make(
        "Hazard",
        id=hazard.id,
        frames_missed=hazard.missed,
        bbox=make("RegionOfInterest", x_offset=x, y_offset=y, width=width, height=height, do_rectify=False),
        area=hazard.region.area,
        centroid_x=hazard.region.centroid[0],
        centroid_y=hazard.region.centroid[1],
        peak_score=hazard.region.peak,
        mean_score=hazard.region.mean,
        has_position=location is not None,
        position=make("Point", x=position[0], y=position[1], z=position[2]),
        size=make("Vector3", x=size[0], y=size[1], z=size[2]),
        nearest_range=location.nearest_range if location else math.nan,
        position_frames_missed=hazard.location_missed,
    )


def hazard_cloud(header: Any, hazards: Sequence[TrackedHazard], depth_reason: str, make: Make) -> Any:
    """A sensor_msgs/PointCloud2 of the hazards' points (x, y, z in metres and score, float32), empty without a hazard.

    header: the input image's. The points of hazards that are held on are in it, at the place where they were last seen.
    None, so that nothing is published, when depth was not usable (`Located.reason`) and a hazard has no place: an
    empty cloud would read as a free way, where a cloud that stays out makes Nav2's collision monitor stop. A hazard
    without depth in a usable depth image, too far for the sensor for instance, is left out of the cloud alone.
    """
    if depth_reason and any(hazard.location is None for hazard in hazards):
        return None
    parts = [hazard.location.points for hazard in hazards if hazard.location is not None]
    points = np.concatenate(parts) if parts else np.empty((0, len(_CLOUD_FIELDS)), np.float32)
    step = _FLOAT_BYTES * len(_CLOUD_FIELDS)
    return make(
        "PointCloud2",
        header=header,
        height=1,
        width=len(points),
        fields=[
            make("PointField", name=name, offset=_FLOAT_BYTES * index, datatype=FLOAT32, count=1)
            for index, name in enumerate(_CLOUD_FIELDS)
        ],
        is_bigendian=sys.byteorder == "big",
        point_step=step,
        row_step=step * len(points),
        data=np.ascontiguousarray(points, dtype=np.float32).reshape(-1).view(np.uint8),
        is_dense=True,
    )


def hazard_markers(header: Any, hazards: Sequence[TrackedHazard], make: Make) -> Any:
    """A visualization_msgs/MarkerArray for RViz: a box around each hazard with a place; id, peak and range above it.

    Each array first deletes all, so that what left is gone at once and no list of what was drawn needs keeping.
    """
    markers = [make("Marker", header=header, action=DELETEALL)]
    for hazard in hazards:
        if hazard.location is not None:
            markers += _box_and_text(header, hazard, hazard.location, make)
    return make("MarkerArray", markers=markers)


def _box_and_text(header: Any, hazard: TrackedHazard, location: Any, make: Make) -> list[Any]:
    xyz = np.ascontiguousarray(location.points[:, :3].T)
    low, high = (edge.astype(float) for edge in (xyz.min(axis=1), xyz.max(axis=1)))
    centre = (low + high) / 2  # not the position, which is the median and lies off the middle
    red, green, blue = HELD if hazard.missed or hazard.location_missed else SEEN
    box: dict[str, Any] = {"ns": "box", "type": CUBE, "at": centre, "scale": np.maximum(high - low, THINNEST)}
    above = np.array([centre[0], low[1] - TEXT_HEIGHT, centre[2]])  # y points down
    text: dict[str, Any] = {"ns": "text", "type": TEXT_VIEW_FACING, "at": above, "scale": (0, 0, TEXT_HEIGHT)}
    said = f"#{hazard.id}  {hazard.region.peak:.2f}  {location.nearest_range:.1f} m"
    return [
        _marker(header, hazard.id, make, rgba=(red, green, blue, 0.4), text="", **box),
        _marker(header, hazard.id, make, rgba=(1, 1, 1, 1), text=said, **text),
    ]


def _marker(
    header: Any, number: int, make: Make, *, ns: str, type: int, at: Any, scale: Any, rgba: Any, text: str
) -> Any:
    place, size, colour = ([float(value) for value in values] for values in (at, scale, rgba))
    return make(
        "Marker",
        header=header,
        ns=ns,
        id=number & 0x7FFFFFFF,
        type=type,
        action=ADD,
        pose=make(
            "Pose",
            position=make("Point", x=place[0], y=place[1], z=place[2]),
            orientation=make("Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
        ),
        scale=make("Vector3", x=size[0], y=size[1], z=size[2]),
        color=make("ColorRGBA", r=colour[0], g=colour[1], b=colour[2], a=colour[3]),
        lifetime=make("Duration", sec=int(MARKER_LIFETIME), nanosec=int(MARKER_LIFETIME % 1 * 1e9)),
        text=text,
    )


def nearest_range(hazards: Sequence[TrackedHazard]) -> float:
    """Metres to the nearest point of any hazard; NaN when none has a place."""
    return min((h.location.nearest_range for h in hazards if h.location is not None), default=math.nan)


def state_fields(level: Level, text: str, status: Status, detector: Detector) -> dict[str, Any]:
    """A flowclas_ros/DetectorState but for its header, which is that of the newest frame searched (`status.scene`)."""
    scene, counts = status.scene, status.counts
    return {
        "level": int(level),
        "message": text,
        "anomalous_share": scene.anomalous_share if scene else 0.0,
        "peak_score": scene.peak_score if scene else 0.0,
        "hazard_count": scene.hazards if scene else 0,
        "nearest_range": scene.nearest_range if scene else math.nan,
        "threshold": float(detector.threshold),
        "false_alarm_rate": math.nan if detector.false_alarm_rate is None else float(detector.false_alarm_rate),
        "threshold_guaranteed": bool(detector.guaranteed),
        "drift": scene.drift if scene else math.nan,
        "drifted": scene.drifted if scene else False,
        "checkpoint_name": str(detector.header.get("name", "")),
        "checkpoint_sha256": str(detector.header.get("sha256", "")),
        "latency": scene.latency if scene else math.nan,
        "model_time": scene.model_time if scene else math.nan,
        "frames_received": counts.received,
        "frames_processed": counts.processed,
        "frames_dropped": counts.dropped,
    }


def scaled(pixels: np.ndarray, scale: float) -> np.ndarray:
    """(H, W[, C]) at `scale` in 0..1, each pixel the mean of those that it stands for."""
    if scale == 1:
        return pixels
    size = output_size(pixels.shape[1], pixels.shape[0], scale)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def output_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Width and height of the output images, pixels."""
    return max(1, round(width * scale)), max(1, round(height * scale))


def mask_pixels(mask: npt.NDArray[np.bool_], scale: float) -> np.ndarray:
    """0 or 255; an output pixel is set when any pixel that it stands for is: what is small must not vanish."""
    whole = mask.view(np.uint8) * np.uint8(255)
    return whole if scale == 1 else (scaled(whole.astype(np.float32), scale) > 0).view(np.uint8) * np.uint8(255)


def heat_pixels(heat: npt.NDArray[np.float32], scale: float) -> np.ndarray:
    """Heat (H, W) float32 in 0..1 to (H, W) uint8."""
    return np.rint(scaled(heat, scale) * np.float32(255)).astype(np.uint8)


def overlay_pixels(image: npt.NDArray[np.uint8], finding: Finding, scale: float) -> np.ndarray:
    """The overlay on `image` (H, W, 3) RGB, as (H, W, 3) uint8 BGR."""
    from flowclas_ros.detection.overlay import overlay  # brings OpenCV's drawing, for those who look alone

    return scaled(cv2.cvtColor(overlay(image, finding), cv2.COLOR_RGB2BGR), scale)
