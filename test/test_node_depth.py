"""Hazards in metres: the node with a depth camera that works, and with one that does not, over real DDS."""

from __future__ import annotations

import math

import numpy as np
import pytest
from node_running import Bench, answers, health, offer, pixels_of, settle
from node_support import HEIGHT, WIDTH, image_message, picture

pytestmark = pytest.mark.alone

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.srv", reason="needs the generated messages (make, or colcon build)")

HAZARD = 2
DISTANCE = 2.0  # metres to the plane that the depth images show
FOCAL = 100.0  # pixels


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    found = Bench(tmp_path_factory.mktemp("bench"))
    yield found
    found.close()


def camera_info(stamp):
    from sensor_msgs.msg import CameraInfo

    info = CameraInfo(width=WIDTH, height=HEIGHT)
    info.header.stamp, info.header.frame_id = stamp, "camera"
    cx, cy = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    info.k = [FOCAL, 0.0, cx, 0.0, FOCAL, cy, 0.0, 0.0, 1.0]
    info.p = [FOCAL, 0.0, cx, 0.0, 0.0, FOCAL, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def test_a_hazard_at_a_known_pose_comes_out_within_one_pixels_worth(bench):
    """The anomaly of `picture` is a square of 32 pixels with its centre at (63.5, 47.5); depth shows it alone."""
    from sensor_msgs.msg import CameraInfo, Image

    with bench.running("hazards", "mask", depth=True, depth_wait=5.0) as peer:
        depths, infos = offer(peer, Image, "/depth"), offer(peer, CameraInfo, "/camera_info")
        peer.connected()
        object_only = np.full((HEIGHT, WIDTH), math.nan, np.float32)
        object_only[32:64, 48:80] = DISTANCE
        for _ in range(2):  # the first depth ever is not waited for
            stamp = peer.now()
            infos.publish(camera_info(stamp))
            depths.publish(image_message(object_only, "32FC1", stamp))
            settle(peer, 0.2)
            peer.send(image_message(picture(3, True), stamp=stamp))
            got = answers(peer, stamp, "hazards", "mask")
        assert pixels_of(got["mask"])[32:64, 48:80].mean() > 0.9 * 255  # else this would not be the object's pose
        placed = [hazard for hazard in got["hazards"].hazards if hazard.has_position]
        pixel = DISTANCE / FOCAL  # metres that one pixel covers there
        pose = ((63.5 - (WIDTH - 1) / 2) * pixel, (47.5 - (HEIGHT - 1) / 2) * pixel, DISTANCE)
        position = placed[0].position
        np.testing.assert_allclose((position.x, position.y, position.z), pose, atol=pixel)
        np.testing.assert_allclose((placed[0].size.x, placed[0].size.y), (31 * pixel, 31 * pixel), atol=2 * pixel)


def test_depth_gives_positions_and_without_it_the_hazards_still_come(bench):
    from sensor_msgs.msg import CameraInfo, Image

    topics = ("hazards", "points", "markers", "state", "camera_info")
    with bench.running(*topics, depth=True, depth_wait=0.5, output_scale=0.5) as peer:
        depths, infos = offer(peer, Image, "/depth"), offer(peer, CameraInfo, "/camera_info")
        peer.connected()
        peer.got["/diagnostics"].clear()

        def seen(depth, late=0, info=True):
            stamp = peer.now()
            if info:
                infos.publish(camera_info(stamp))
            settle(peer, 0.1)
            if depth is not None:
                encoding = "16UC1" if depth.dtype == np.uint16 else "32FC1"
                message = image_message(depth, encoding, stamp)
                message.header.stamp.sec -= late
                depths.publish(message)
                message.header.stamp.sec += late
            peer.send(image_message(picture(3, True), stamp=stamp))
            return answers(peer, stamp, "hazards", "state")

        metres = np.full((HEIGHT, WIDTH), DISTANCE, np.float32)
        for depth in (metres, (metres * 1000).astype(np.uint16), metres[::2, ::2]):
            got = seen(depth)
            strongest = got["hazards"].hazards[0]
            assert strongest.has_position and strongest.position.z == pytest.approx(DISTANCE, abs=1e-3)
            pixel = DISTANCE / FOCAL  # metres that one pixel covers there
            expected = (strongest.bbox.x_offset + (strongest.bbox.width - 1) / 2 - (WIDTH - 1) / 2) * pixel
            assert strongest.size.x == pytest.approx((strongest.bbox.width - 1) * pixel, abs=pixel)
            assert abs(strongest.position.x - expected) < strongest.size.x  # the median lies within
            assert got["state"].nearest_range == pytest.approx(DISTANCE, rel=0.2)
            cloud = answers(peer, got["hazards"].header.stamp, "points")["points"]
            assert cloud.width == sum(hazard.area for hazard in got["hazards"].hazards)
            info = answers(peer, got["hazards"].header.stamp, "camera_info")["camera_info"]
            assert (info.width, info.height, info.k[0]) == (WIDTH // 2, HEIGHT // 2, FOCAL / 2)
        peer.until(lambda: any(len(markers.markers) > 1 for markers in peer.got["markers"]), "markers")
        for depth, late, words in (
            (np.full_like(metres, math.nan), 0, "no valid pixel"),
            (metres[:40], 0, "differ in aspect"),
            (metres, 3, "no depth within 20 ms"),
            (None, 0, "no depth"),
        ):
            got = seen(depth, late)
            assert got["state"].level == HAZARD and got["hazards"].hazards
            assert not any(hazard.has_position for hazard in got["hazards"].hazards)
            assert math.isnan(got["state"].nearest_range)
            assert "without a position" in got["state"].message and words in got["state"].message
        health(peer, "without a position")
        assert seen(metres)["hazards"].hazards[0].has_position  # and it recovers
