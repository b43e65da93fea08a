"""The messages of the tracked hazards, as serialised and read back."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.msg", reason="needs the generated messages (make, or colcon build)")

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, PointCloud2
from std_msgs.msg import Header
from test_geometry import CAMERA, scene
from visualization_msgs.msg import Marker, MarkerArray

from flowclas_ros.detection.geometry import locate
from flowclas_ros.detection.regions import Region
from flowclas_ros.detection.tracking import HazardTracker
from flowclas_ros.errors import FlowclasError
from flowclas_ros.msg import HazardArray
from flowclas_ros.node import messages
from flowclas_ros.node.depth_image import intrinsics, rescaled_camera_info
from flowclas_ros.node.messages import nearest_range
from flowclas_ros.node.ros_messages import make

hazard_array = partial(messages.hazard_array, make=make)
hazard_markers = partial(messages.hazard_markers, make=make)


def hazard_cloud(header, hazards, depth_reason=""):
    return messages.hazard_cloud(header, hazards, depth_reason, make)


def through_the_wire(message, kind):
    return deserialize_message(serialize_message(message), kind)


@pytest.fixture
def header():
    header = Header(frame_id="camera_optical")
    header.stamp.sec, header.stamp.nanosec = 12, 34
    return header


@pytest.fixture
def hazards():
    """One with a place and one without, of the same frame."""
    mask, score, regions, depth = scene()
    location = locate(mask, score, regions, depth, CAMERA).locations[0]
    far = Region((5, 6, 7, 8), 40, (8.5, 9.5), 1.5, 1.2)
    return HazardTracker().update([*regions, far], [location, None], 1)


def test_the_array_carries_region_and_place(header, hazards):
    message = through_the_wire(hazard_array(header, hazards), HazardArray)
    assert message.header == header and [hazard.id for hazard in message.hazards] == [1, 2]
    first, second = message.hazards
    region, location = hazards[0].region, hazards[0].location
    assert (first.bbox.x_offset, first.bbox.y_offset, first.bbox.width, first.bbox.height) == region.bbox
    assert first.area == region.area and first.peak_score == region.peak
    assert (first.centroid_x, first.centroid_y) == pytest.approx(region.centroid)
    assert (second.centroid_x, second.centroid_y) == (8.5, 9.5) and second.bbox.height == 8
    assert (second.peak_score, second.mean_score) == pytest.approx((1.5, 1.2))
    assert first.has_position and not second.has_position
    assert (first.position.x, first.position.y, first.position.z) == location.position
    assert (first.size.x, first.size.y, first.size.z) == location.size
    assert first.nearest_range == pytest.approx(location.nearest_range)
    unknown = (second.position, second.size)
    assert all(math.isnan(getattr(vector, axis)) for vector in unknown for axis in "xyz")
    assert math.isnan(second.nearest_range)


def test_a_held_hazard_says_for_how_long(header):
    tracker = HazardTracker(forget_frames=5)
    tracker.update([Region((0, 0, 5, 5), 25, (2.0, 2.0), 1.0, 1.0)], None, 1)
    tracker.update([], None, 2)
    message = hazard_array(header, tracker.update([], None, 3))
    assert [(hazard.frames_missed, hazard.position_frames_missed) for hazard in message.hazards] == [(2, 3)]


def test_the_cloud_holds_x_y_z_and_score_of_every_point(header, hazards):
    message = through_the_wire(hazard_cloud(header, hazards), PointCloud2)
    assert [(field.name, field.offset, field.datatype, field.count) for field in message.fields] == [
        ("x", 0, 7, 1),
        ("y", 4, 7, 1),
        ("z", 8, 7, 1),
        ("score", 12, 7, 1),
    ]
    points = np.frombuffer(message.data, np.float32).reshape(message.height * message.width, 4)
    np.testing.assert_array_equal(points, hazards[0].location.points)
    assert message.header == header and message.row_step == len(message.data) == 16 * message.width
    assert message.is_dense and not message.is_bigendian


def test_no_hazard_is_an_empty_cloud_with_fields(header):
    for reason in ("", "no depth yet"):
        message = through_the_wire(hazard_cloud(header, [], reason), PointCloud2)
        assert (message.width, message.height, message.point_step, len(message.data)) == (0, 1, 16, 0)
        assert len(message.fields) == 4


def test_an_unplaced_hazard_without_usable_depth_withholds_the_cloud(header, hazards):
    assert hazard_cloud(header, hazards, "no depth yet") is None
    held = dataclasses.replace(hazards[0], missed=2, location_missed=2)
    assert hazard_cloud(header, [held], "no depth yet").width > 0  # at its last place
    assert hazard_cloud(header, hazards, "").width > 0  # too far for the sensor, say


def test_nearest_range_is_that_of_the_nearest_and_nan_without_any(hazards):
    near = dataclasses.replace(hazards[0], location=dataclasses.replace(hazards[0].location, nearest_range=0.7))
    assert nearest_range(hazards) == hazards[0].location.nearest_range
    assert nearest_range([*hazards, near]) == nearest_range([near, *hazards]) == 0.7
    assert math.isnan(nearest_range(hazards[1:])) and math.isnan(nearest_range([]))


def test_markers_begin_by_deleting_all_and_show_what_has_a_place(header, hazards):
    message = through_the_wire(hazard_markers(header, hazards), MarkerArray)
    assert [marker.action for marker in message.markers] == [Marker.DELETEALL, Marker.ADD, Marker.ADD]
    box, text = message.markers[1:]
    assert (box.type, text.type) == (Marker.CUBE, Marker.TEXT_VIEW_FACING)
    assert (box.ns, box.id) != (text.ns, text.id) and box.header == header
    assert min(box.scale.x, box.scale.y, box.scale.z) > 0 and box.color.a > 0 and box.pose.orientation.w == 1.0
    assert 0 < box.lifetime.sec + box.lifetime.nanosec * 1e-9 < 5
    xyz = hazards[0].location.points[:, :3]
    centre, half = (
        np.array([box.pose.position.x, box.pose.position.y, box.pose.position.z]),
        np.array([box.scale.x, box.scale.y, box.scale.z]) / 2,
    )
    assert (np.abs(xyz - centre) <= half + 1e-5).all()
    assert text.text == f"#1  {hazards[0].region.peak:.2f}  {hazards[0].location.nearest_range:.1f} m"
    assert text.pose.position.y < xyz[:, 1].min()  # above: y points down
    assert [marker.action for marker in hazard_markers(header, []).markers] == [Marker.DELETEALL]


def test_a_held_hazard_has_another_colour(header, hazards):
    seen = hazards[0]
    held = [dataclasses.replace(seen, missed=missed, location_missed=1) for missed in (0, 1)]
    colours = [hazard_markers(header, [hazard]).markers[1].color for hazard in (seen, *held)]
    assert colours[0] != colours[1] == colours[2]


def test_a_marker_takes_an_id_beyond_its_own_range(header, hazards):
    many = dataclasses.replace(hazards[0], id=2**31 + 5)  # a Hazard's is unsigned, a Marker's not
    assert through_the_wire(hazard_markers(header, [many]), MarkerArray).markers[1].id == 5


def camera_info(width=640, height=480, **fields):
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.1, 0.0, 0.0, 0.0, 0.0])
    info.k = [500.0, 0.0, 321.0, 0.0, 510.0, 239.0, 0.0, 0.0, 1.0]
    info.p = [480.0, 0.0, 320.5, -48.0, 0.0, 490.0, 240.5, 24.0, 0.0, 0.0, 1.0, 0.0]
    for name, value in fields.items():
        setattr(info, name, value)
    return info


def test_the_rescaled_camera_info_sees_a_point_at_the_scaled_pixel(header):
    info = camera_info()
    half = rescaled_camera_info(info, header, 320, 240)
    assert (half.width, half.height, half.header) == (320, 240, header)
    point = np.array([0.4, -0.2, 2.0, 1.0])
    for matrix in ("k", "p"):
        before, after = (project(np.array(getattr(message, matrix)).reshape(3, -1), point) for message in (info, half))
        np.testing.assert_allclose(after + 0.5, (before + 0.5) / 2)  # pixel centres: edges scale, at -0.5
    assert list(half.d) == list(info.d) and half.p[3] == -24.0 and info.width == 640


def test_roi_and_binning_are_worked_into_the_rescaled_camera_info(header):
    info = camera_info(binning_x=4, binning_y=2)
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 64, 32, 512, 384
    before = intrinsics(info).scaled_to(64, 96)
    after = intrinsics(rescaled_camera_info(info, header, 64, 96))
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        assert getattr(after, name) == pytest.approx(getattr(before, name)), name


def test_a_matrix_that_is_not_given_stays_so(header):
    half = rescaled_camera_info(camera_info(p=[0.0] * 12), header, 320, 240)
    assert not any(half.p) and half.k[0] == 250.0


def test_a_camera_info_that_cannot_be_rescaled_is_refused(header):
    with pytest.raises(FlowclasError, match="aspect"):
        rescaled_camera_info(camera_info(), header, 320, 320)
    with pytest.raises(FlowclasError, match="no calibration"):
        rescaled_camera_info(CameraInfo(width=640, height=480), header, 320, 240)


def project(matrix, point):
    u, v, w = matrix @ point[: matrix.shape[1]]
    return np.array([u, v]) / w
