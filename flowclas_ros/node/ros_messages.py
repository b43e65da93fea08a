"""Messages of rclpy's classes by kind and fields: the node's `messages.Make`. Importing this needs no ROS."""

from __future__ import annotations

import functools
import importlib
from array import array
from typing import Any

import numpy as np

_PACKAGE_OF = {
    kind: package
    for package, kinds in {
        "builtin_interfaces": "Duration",
        "diagnostic_msgs": "DiagnosticArray DiagnosticStatus KeyValue",
        "flowclas_ros": "Hazard HazardArray",
        "geometry_msgs": "Point Pose Quaternion Transform TransformStamped Vector3",
        "sensor_msgs": "CameraInfo Image PointCloud2 PointField RegionOfInterest",
        "std_msgs": "ColorRGBA Header",
        "tf2_msgs": "TFMessage",
        "visualization_msgs": "Marker MarkerArray",
    }.items()
    for kind in kinds.split()
}


def make(kind: str, **fields: Any) -> Any:
    """The message.

    An ndarray as `data` becomes an array.array filled by frombytes: 2 ms at 1080p, where assigning an ndarray takes
    half a second, and cheap on Humble too, which checks every element of anything else (ros2/rclpy issue 763).
    """
    if isinstance(fields.get("data"), np.ndarray):
        data = array("B")
        data.frombytes(fields["data"].data)
        fields["data"] = data
    if kind == "DiagnosticStatus":  # whose level is of ROS's type byte, which rclpy wants as bytes
        fields["level"] = bytes([fields["level"]])
    return _class_of(kind)(**fields)


@functools.cache
def _class_of(kind: str) -> Any:
    return getattr(importlib.import_module(f"{_PACKAGE_OF[kind]}.msg"), kind)
