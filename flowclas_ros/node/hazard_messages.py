"""Messages of the tracked hazards: HazardArray, PointCloud2, MarkerArray; and CameraInfo for outputs of another size.

What the array says is in messages.py, which the replay of a recording shares.
"""

from __future__ import annotations

import copy
import sys
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Vector3
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from flowclas_ros.detection.tracking import TrackedHazard
from flowclas_ros.msg import Hazard, HazardArray
from flowclas_ros.node import messages
from flowclas_ros.node.depth_image import intrinsics, window

MARKER_LIFETIME = 1.0  # seconds; a detector that dies takes its markers with it
THINNEST = 0.02  # metres; a face seen from the front has no depth, and RViz draws no flat cube
TEXT_HEIGHT = 0.15  # metres
SEEN, HELD = (0.90, 0.10, 0.10), (0.95, 0.60, 0.10)  # red; orange when it was not seen in this frame
_CLOUD_FIELDS = ("x", "y", "z", "score")
_FLOAT_BYTES = 4
_KINDS = {kind.__name__: kind for kind in (HazardArray, Hazard, RegionOfInterest, Point, Vector3)}  # of messages.Make


def hazard_array(header: Any, hazards: Sequence[TrackedHazard]) -> HazardArray:
    """The hazards with the input image's header."""
    return messages.hazard_array(header, hazards, lambda kind, **fields: _KINDS[kind](**fields))


def hazard_cloud(header: Any, hazards: Sequence[TrackedHazard], depth_reason: str = "") -> PointCloud2 | None:
    """The points of the hazards (x, y, z in metres and score, float32), empty when there is no hazard.

    header: the input image's. The points of hazards that are held on are in it, at the place where they were last seen.
    None, so that nothing is published, when depth was not usable (`Located.reason`) and a hazard has no place: an
    empty cloud would read as a free way, where a cloud that stays out makes Nav2's collision monitor stop. A hazard
    without depth in a usable depth image, too far for the sensor for instance, is left out of the cloud alone.
    """
    if depth_reason and any(hazard.location is None for hazard in hazards):
        return None
    parts = [hazard.location.points for hazard in hazards if hazard.location is not None]
    points = np.concatenate(parts) if parts else np.empty((0, len(_CLOUD_FIELDS)), np.float32)
    data = array("B")
    data.frombytes(np.ascontiguousarray(points, dtype=np.float32).tobytes())
    step = _FLOAT_BYTES * len(_CLOUD_FIELDS)
    return PointCloud2(
        header=header,
        height=1,
        width=len(points),
        fields=[
            PointField(name=name, offset=_FLOAT_BYTES * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate(_CLOUD_FIELDS)
        ],
        is_bigendian=sys.byteorder == "big",
        point_step=step,
        row_step=step * len(points),
        data=data,
        is_dense=True,
    )


def hazard_markers(header: Any, hazards: Sequence[TrackedHazard]) -> MarkerArray:
    """For RViz: a box around each hazard with a place, and its id, peak score and range above it.

    Each array first deletes all, so that what left is gone at once and no list of what was drawn needs keeping.
    """
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    for hazard in hazards:
        if hazard.location is not None:
            markers += _box_and_text(header, hazard, hazard.location)
    return MarkerArray(markers=markers)


def rescaled_camera_info(info: CameraInfo, header: Any, width: int, height: int) -> CameraInfo:
    """`info` for the same view published at another size (pixels), with the output's header.

    ROI and binning are worked into K and P, so that they describe the published pixels and nothing else is needed.
    Raises FlowclasError for a camera without calibration and for another aspect.
    """
    intrinsics(info).scaled_to(width, height)  # raises
    x0, y0, delivered_width, delivered_height, across, down = window(info)
    sx, sy = width / delivered_width / across, height / delivered_height / down
    scaled = copy.deepcopy(info)
    scaled.header, scaled.width, scaled.height = header, width, height
    scaled.binning_x, scaled.binning_y, scaled.roi = 0, 0, RegionOfInterest()
    k, p = list(info.k), list(info.p)
    for matrix, columns in ((k, 3), (p, 4)):
        if matrix[0]:  # all zero: not given
            matrix[0], matrix[columns + 1] = matrix[0] * sx, matrix[columns + 1] * sy
            matrix[2] = (matrix[2] - x0 + 0.5) * sx - 0.5
            matrix[columns + 2] = (matrix[columns + 2] - y0 + 0.5) * sy - 0.5
    p[3], p[7] = p[3] * sx, p[7] * sy  # -f * baseline of a stereo pair
    scaled.k, scaled.p = k, p
    return scaled


def _box_and_text(header: Any, hazard: TrackedHazard, location: Any) -> list:
    xyz = np.ascontiguousarray(location.points[:, :3].T)
    low, high = (edge.astype(float) for edge in (xyz.min(axis=1), xyz.max(axis=1)))
    centre = (low + high) / 2  # not the position, which is the median and lies off the middle
    red, green, blue = HELD if hazard.missed or hazard.location_missed else SEEN
    sides = np.maximum(high - low, THINNEST)
    box = _marker(header, "box", hazard.id, Marker.CUBE, centre, sides, (red, green, blue, 0.4))
    above = np.array([centre[0], low[1] - TEXT_HEIGHT, centre[2]])  # y points down
    text = _marker(header, "text", hazard.id, Marker.TEXT_VIEW_FACING, above, (0, 0, TEXT_HEIGHT), (1, 1, 1, 1))
    text.text = f"#{hazard.id}  {hazard.region.peak:.2f}  {location.nearest_range:.1f} m"
    return [box, text]


def _marker(header: Any, namespace: str, number: int, kind: int, at: Any, scale: Any, rgba: Any) -> Marker:
    marker = Marker(header=header, ns=namespace, id=number & 0x7FFFFFFF, type=kind, action=Marker.ADD)
    marker.pose.position = Point(x=float(at[0]), y=float(at[1]), z=float(at[2]))
    marker.pose.orientation.w = 1.0
    marker.scale = Vector3(x=float(scale[0]), y=float(scale[1]), z=float(scale[2]))
    marker.color = ColorRGBA(r=float(rgba[0]), g=float(rgba[1]), b=float(rgba[2]), a=float(rgba[3]))
    marker.lifetime = Duration(sec=int(MARKER_LIFETIME), nanosec=int(MARKER_LIFETIME % 1 * 1e9))
    return marker
