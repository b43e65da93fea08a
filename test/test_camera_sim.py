"""`camera_sim` as a process of its own, heard over DDS."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2: rclpy is not installed")
from rclpy.qos import QoSProfile  # noqa: E402
from scene_support import skip_without_rendering  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402

from flowclas_ros.node.conversion import to_rgb  # noqa: E402
from flowclas_ros.training import scenes  # noqa: E402

pytestmark = pytest.mark.alone

PATIENCE = 90.0  # seconds; ends a hung test, no test measures by it
TOPICS = {
    "camera/image_raw": Image,
    "camera/depth": Image,
    "camera/camera_info": CameraInfo,
    "ground_truth/mask": Image,
    "ground_truth/objects": Image,
}


@pytest.fixture(autouse=True)
def _rendering() -> None:
    skip_without_rendering()


def start(*parameters: str) -> subprocess.Popen:
    options = [word for parameter in parameters for word in ("-p", parameter)]
    return subprocess.Popen(
        [sys.executable, "-m", "flowclas_ros.node.camera_sim", "--ros-args", "-r", "__ns:=/sim", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_picture_and_ground_truth_of_a_frame_arrive_with_one_stamp(monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = rclpy.Context()
    rclpy.init(context=context)
    listener = rclpy.create_node("listener", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(listener)
    heard: dict[str, dict[tuple[int, int], object]] = {name: {} for name in TOPICS}

    def keep(name: str):
        return lambda message: heard[name].__setitem__(
            (message.header.stamp.sec, message.header.stamp.nanosec), message
        )

    for name, kind in TOPICS.items():
        listener.create_subscription(kind, f"/sim/{name}", keep(name), QoSProfile(depth=50))
    camera = start("scene:=road", "anomalies:=test", "seed:=1", "rate:=5.0", "width:=96", "height:=72")
    try:
        end = time.monotonic() + PATIENCE
        while (
            not (whole := set.intersection(*(set(messages) for messages in heard.values()))) and time.monotonic() < end
        ):
            executor.spin_once(timeout_sec=0.1)
            assert camera.poll() is None, camera.stderr.read()
        assert whole, {name: len(messages) for name, messages in heard.items()}
        stamp = min(whole)
        image, mask = heard["camera/image_raw"][stamp], heard["ground_truth/mask"][stamp]
        camera.send_signal(signal.SIGINT)
        assert camera.wait(PATIENCE) == 0
    finally:
        camera.kill()
        executor.shutdown()
        listener.destroy_node()
        context.try_shutdown()
    # which frame it is depends on when the listener was found; the pixels say it
    rendered = scenes.render("road", 1, frames=200, width=96, height=72, fps=5.0, anomalies="test")
    true = next(frame for frame in rendered if np.array_equal(frame.image, to_rgb(image)))
    np.testing.assert_array_equal(np.frombuffer(mask.data, np.uint8).reshape(72, 96), true.mask)
    np.testing.assert_allclose(np.reshape(heard["camera/camera_info"][stamp].k, (3, 3)), true.camera_matrix)


def test_an_unknown_scene_is_named_and_ends_the_node():
    camera = start("scene:=sea")
    assert camera.wait(PATIENCE) == 2
    assert "scene 'sea' is not one of orbit, road" in camera.stderr.read()


def test_sigterm_between_two_frames_ends_the_node_cleanly(monkeypatch):
    """As `ros2 launch` and containers stop it: the next frame, due seconds later, has nowhere to go."""
    from flowclas_ros.node import camera_sim, running

    sent = []

    class Sends:
        def __init__(self, node):
            self._publisher = node.create_publisher(CameraInfo, "nobody", 1)

        def send(self, frame):
            sent.append(frame)
            self._publisher.publish(CameraInfo())
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(camera_sim, "Publishers", Sends)
    words = [word for one in ("rate:=0.5", "width:=32", "height:=24") for word in ("-p", one)]
    made = running.run(lambda: rclpy.create_node("camera_sim"), camera_sim.stream, ["--ros-args", *words])
    assert made == 0 and len(sent) == 1


def test_a_publication_after_the_shutdown_is_the_end_and_no_error():
    from flowclas_ros.node.running import run

    def work(node):
        publisher = node.create_publisher(CameraInfo, "nobody", 1)
        rclpy.shutdown()
        publisher.publish(CameraInfo())

    assert run(lambda: rclpy.create_node("stopped"), work, []) == 0
