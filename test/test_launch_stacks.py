"""The launch files for several cameras, Autoware and MoveIt Servo, launched; where launch is installed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

launch_pytest = pytest.importorskip(
    "launch_pytest",
    reason="launch_pytest is not installed here (not on PyPI; apt install ros-$ROS_DISTRO-launch-pytest)",
)
pytest.importorskip("launch_ros", reason="launch_ros is not installed (not on PyPI)")

from node_running import offer, settle  # noqa: E402
from node_support import (  # noqa: E402
    HEIGHT,
    LOAD_TIMEOUT,
    START_TIMEOUT,
    WIDTH,
    Peer,
    image_message,
    make_checkpoint,
    picture,
)

pytestmark = pytest.mark.alone

LAUNCH = Path(__file__).resolve().parent.parent / "launch"
PACE = 0.2  # seconds between two frames


def description(folder, name, **arguments):
    """launch/<name>.launch.py on the CPU, with a small checkpoint."""
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch_pytest.actions import ReadyToTest

    from launch import LaunchDescription

    given = {"checkpoint": str(make_checkpoint(folder / "small.safetensors")), "device": "cpu", **arguments}
    source = PythonLaunchDescriptionSource(str(LAUNCH / f"{name}.launch.py"))
    return LaunchDescription([IncludeLaunchDescription(source, launch_arguments=given.items()), ReadyToTest()])


def active(target, *listened):
    """A peer of the launched detector, which is active."""
    peer = Peer(target, "/unused")
    peer.listen(*listened)
    peer.until(lambda: peer.state() == "active", "activation by the launch file", LOAD_TIMEOUT)
    assert peer.set("max_age", 0.0).successful  # on a busy test machine every frame may be too old
    return peer


def send_until(peer, send, condition, what):
    """`send()` at the pace of a slow camera until `condition()`."""

    def sent():
        send()
        settle(peer, PACE)
        return condition()

    peer.until(sent, what)


@launch_pytest.fixture
def two_cameras(tmp_path_factory):
    return description(
        tmp_path_factory.mktemp("model"), "multi_camera", cameras="front,left", image_topic="/{camera}/image_raw"
    )


@pytest.mark.launch(fixture=two_cameras)
def test_each_camera_of_the_launched_detector_is_answered():
    from sensor_msgs.msg import Image

    peer = active("/detector", "front/mask", "left/mask")
    try:
        for camera in ("front", "left"):
            publisher = offer(peer, Image, f"/{camera}/image_raw")
            send_until(
                peer,
                lambda publisher=publisher: publisher.publish(image_message(picture(1), stamp=peer.now())),
                lambda camera=camera: peer.got[f"{camera}/mask"],
                f"a mask of the {camera} camera",
            )
    finally:
        peer.close()


@launch_pytest.fixture
def for_autoware(tmp_path_factory):
    return description(tmp_path_factory.mktemp("model"), "autoware", image_topic="/cam/image", depth_topic="/cam/depth")


@pytest.mark.launch(fixture=for_autoware)
def test_hazard_points_come_in_autowares_layout():
    from sensor_msgs.msg import CameraInfo, Image, PointCloud2

    peer = active("/perception/flowclas/detector", "hazards")
    clouds = []
    try:
        peer.node.create_subscription(PointCloud2, "/perception/flowclas/detector/points_xyzirc", clouds.append, 10)
        images, depths, infos = (
            offer(peer, kind, f"/cam/{name}")
            for kind, name in ((Image, "image"), (Image, "depth"), (CameraInfo, "camera_info"))
        )

        def send():
            stamp = peer.now()
            info = CameraInfo(width=WIDTH, height=HEIGHT, p=[100.0, 0.0, 64.0, 0.0, 0.0, 100.0, 48.0] + [0.0] * 5)
            info.header.stamp = stamp
            infos.publish(info)
            depths.publish(image_message(np.full((HEIGHT, WIDTH), 2000, np.uint16), "16UC1", stamp))
            images.publish(image_message(picture(3, True), stamp=stamp))

        send_until(peer, send, lambda: any(cloud.width for cloud in clouds), "a cloud with points")
        cloud = next(cloud for cloud in clouds if cloud.width)
        assert [field.name for field in cloud.fields] == ["x", "y", "z", "intensity", "return_type", "channel"]
        assert cloud.header.frame_id == "camera"
    finally:
        peer.close()


@launch_pytest.fixture
def for_servo(tmp_path_factory):
    return description(
        tmp_path_factory.mktemp("model"), "servo_guard", image_topic="/cam/image", pause_service="/pause"
    )


@pytest.mark.launch(fixture=for_servo)
def test_servo_is_paused_while_no_camera_is_there_and_resume_is_refused():
    from std_srvs.srv import SetBool, Trigger

    asked = []

    def answer(request, response):
        asked.append(request.data)
        response.success = True
        return response

    peer = Peer("/servo_guard", "/cam/image")
    try:
        peer.node.create_service(SetBool, "/pause", answer)
        peer.until(lambda: asked, "the guard asking Servo to pause", START_TIMEOUT)
        assert set(asked) == {True}
        refused = peer.call("resume", Trigger, Trigger.Request())
        assert not refused.success and "not resumed" in refused.message
        end = time.monotonic() + 1.0
        peer.until(lambda: time.monotonic() > end, "a second")
        assert set(asked) == {True}
    finally:
        peer.close()
