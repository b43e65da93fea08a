"""What the outputs say, field by field, without ROS: the live node and the replay of a recording build from here.

A `make` turns a kind's name and its fields into a message: of rclpy's classes in the node, plain objects in the replay,
which rosbags serialises by the definitions in msg/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.tracking import TrackedHazard
from flowclas_ros.node.status import Level, Status

if TYPE_CHECKING:
    from flowclas_ros.detection.detector import Detector
    from flowclas_ros.detection.overlay import Picture

Make = Callable[..., Any]  # make("Point", x=1.0, y=2.0, z=3.0)


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


def overlay_pixels(image: npt.NDArray[np.uint8], finding: Picture, scale: float) -> np.ndarray:
    """The overlay on `image` (H, W, 3) RGB, as (H, W, 3) uint8 BGR."""
    from flowclas_ros.detection.overlay import overlay  # brings OpenCV's drawing, for those who look alone

    return scaled(np.ascontiguousarray(overlay(image, finding)[..., ::-1]), scale)
