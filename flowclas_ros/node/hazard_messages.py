"""Messages of the tracked hazards: HazardArray, PointCloud2, MarkerArray; and CameraInfo for outputs of another size.

What they say is in messages.py, which the replay of a recording shares.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from sensor_msgs.msg import CameraInfo, PointCloud2, RegionOfInterest
from visualization_msgs.msg import MarkerArray

from flowclas_ros.detection.tracking import TrackedHazard
from flowclas_ros.msg import HazardArray
from flowclas_ros.node import messages
from flowclas_ros.node.depth_image import intrinsics, window
from flowclas_ros.node.ros_messages import make


def hazard_array(header: Any, hazards: Sequence[TrackedHazard]) -> HazardArray:
    """The hazards with the input image's header."""
    return messages.hazard_array(header, hazards, make)


def hazard_cloud(header: Any, hazards: Sequence[TrackedHazard], depth_reason: str = "") -> PointCloud2 | None:
    """`messages.hazard_cloud` as ROS's."""
    return messages.hazard_cloud(header, hazards, depth_reason, make)


def hazard_markers(header: Any, hazards: Sequence[TrackedHazard]) -> MarkerArray:
    """`messages.hazard_markers` as ROS's."""
    return messages.hazard_markers(header, hazards, make)


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
