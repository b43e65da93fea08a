"""`ros2 run flowclas_ros autoware_points`: the detector's points in the layout that Autoware's filters insist on.

Autoware's point cloud nodes refuse every layout but PointXYZIRC (autoware_point_types). Subscribes `points`, publishes
`points_xyzirc` with the same header; frame and order stay.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2, PointField

from flowclas_ros.node.quality import output_qos
from flowclas_ros.node.ros_messages import make
from flowclas_ros.node.running import run

XYZS = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("score", "<f4")])
XYZIRC = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "u1"), ("return_type", "u1"), ("channel", "<u2")]
)
SINGLE_STRONGEST = 1  # of Autoware's return types; 0 is an invalid return, which some filters drop
INTENSITY_STEP = 0.1  # nats per dimension for one step of the intensity
_XYZS_FIELDS = [(name, 4 * index, PointField.FLOAT32) for index, name in enumerate(XYZS.names or ())]
_FIELDS = [  # name, offset in bytes, type: XYZIRC's
    ("x", 0, PointField.FLOAT32),
    ("y", 4, PointField.FLOAT32),
    ("z", 8, PointField.FLOAT32),
    ("intensity", 12, PointField.UINT8),
    ("return_type", 13, PointField.UINT8),
    ("channel", 14, PointField.UINT16),
]


def other_layout(cloud: PointCloud2) -> str:
    """Why the cloud is not of the detector, in one line; empty when it is."""
    fields = [(field.name, field.offset, field.datatype) for field in cloud.fields]
    if fields != _XYZS_FIELDS or cloud.point_step != XYZS.itemsize or cloud.is_bigendian:
        names = ", ".join(f"{name} at {offset}" for name, offset, _ in fields)
        return f"points of {cloud.point_step} bytes ({names}) are not the detector's x, y, z, score: check remappings"
    return ""


def to_xyzirc(cloud: PointCloud2) -> PointCloud2:
    """The detector's cloud as PointXYZIRC: intensity is the score in tenths of a nat per dimension, 0..255."""
    points = np.frombuffer(cloud.data, XYZS)
    converted = np.zeros(len(points), XYZIRC)
    for axis in "xyz":
        converted[axis] = points[axis]
    converted["intensity"] = np.clip(points["score"] / INTENSITY_STEP, 0, 255)
    converted["return_type"] = SINGLE_STRONGEST
    return make(
        "PointCloud2",
        header=cloud.header,
        height=1,
        width=len(points),
        fields=[make("PointField", name=name, offset=at, datatype=kind, count=1) for name, at, kind in _FIELDS],
        is_bigendian=False,
        point_step=XYZIRC.itemsize,
        row_step=XYZIRC.itemsize * len(points),
        data=converted.view(np.uint8),
        is_dense=True,
    )


class AutowarePoints(Node):
    """Converts cloud by cloud; an empty one stays empty, what is withheld stays withheld, as another layout is."""

    def __init__(self, **node_arguments: Any):
        super().__init__("autoware_points", **node_arguments)
        self._publisher = self.create_publisher(PointCloud2, "points_xyzirc", output_qos())
        self.create_subscription(PointCloud2, "points", self._convert, output_qos())

    def _convert(self, cloud: PointCloud2) -> None:
        reason = other_layout(cloud)
        if reason:
            self.get_logger().error(reason, throttle_duration_sec=2.0)
        else:
            self._publisher.publish(to_xyzirc(cloud))


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run(AutowarePoints, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
