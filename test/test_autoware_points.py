"""The detector's points in Autoware's layout."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.msg", reason="needs the generated messages (make, or colcon build)")

from std_msgs.msg import Header

from flowclas_ros.detection.geometry import Location
from flowclas_ros.detection.regions import Region
from flowclas_ros.detection.tracking import TrackedHazard
from flowclas_ros.node.autoware_points import XYZIRC, other_layout, to_xyzirc
from flowclas_ros.node.messages import hazard_cloud
from flowclas_ros.node.ros_messages import make

FLOAT32, UINT8, UINT16 = 7, 2, 4


def cloud_of(points):
    location = Location((0, 0, 1), (1, 1, 0), 1.0, np.asarray(points, np.float32))
    hazard = TrackedHazard(1, Region((0, 0, 1, 1), 1, (0.0, 0.0), 1.0, 1.0), location, 1, 0, 0)
    return hazard_cloud(Header(frame_id="camera"), [hazard], "", make)


def test_points_keep_their_place_and_the_score_becomes_the_intensity():
    cloud = cloud_of([[1, 2, 3, 2.5], [4, 5, 6, 100.0], [7, 8, 9, -1.0]])
    converted = to_xyzirc(cloud)
    assert [(field.name, field.offset, field.datatype) for field in converted.fields] == [
        ("x", 0, FLOAT32),
        ("y", 4, FLOAT32),
        ("z", 8, FLOAT32),
        ("intensity", 12, UINT8),
        ("return_type", 13, UINT8),
        ("channel", 14, UINT16),
    ]
    assert [(field.name, field.offset) for field in converted.fields] == [
        (name, XYZIRC.fields[name][1]) for name in XYZIRC.names
    ]
    points = np.frombuffer(converted.data, XYZIRC)
    assert [tuple(point) for point in points] == [(1, 2, 3, 25, 1, 0), (4, 5, 6, 255, 1, 0), (7, 8, 9, 0, 1, 0)]
    assert converted.header == cloud.header
    assert (converted.point_step, converted.row_step, converted.width) == (16, 48, 3)


def test_an_empty_cloud_stays_an_empty_cloud_with_fields():
    converted = to_xyzirc(hazard_cloud(Header(), [], "", make))
    assert (converted.width, len(converted.data), len(converted.fields)) == (0, 0, 6)


@pytest.mark.parametrize("change", [{"point_step": 32}, {"is_bigendian": True}, {"fields": []}, {"fields": 3}])
def test_a_cloud_of_another_layout_is_told_and_not_converted(change):
    cloud = cloud_of([[1, 2, 3, 2.5]])
    assert other_layout(cloud) == "" == other_layout(hazard_cloud(Header(), [], "", make))
    for name, value in change.items():
        setattr(cloud, name, cloud.fields[:value] if value == 3 else value)
    assert "are not the detector's x, y, z, score: check remappings" in other_layout(cloud)
