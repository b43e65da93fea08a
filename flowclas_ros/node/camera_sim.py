"""`ros2 run flowclas_ros camera_sim`: a camera that renders its world, with ground truth on topics, to develop against.

Publishes `camera/image_raw`, `camera/camera_info`, `camera/depth`, `ground_truth/mask` (0 normal, 1 anomaly, 255
ignored), `ground_truth/objects`, and /tf where tf2_msgs is there. Parameters: scene (orbit, road), anomalies (none,
fit, val, test), seed, rate, width, height. It runs until it is stopped; every 20 s a new scene of the seed's begins.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from flowclas_ros.node import scene_messages as say
from flowclas_ros.node.quality import output_qos
from flowclas_ros.node.ros_messages import make
from flowclas_ros.node.running import run

AHEAD = 20  # frames rendered ahead, so that the start of a new scene does not halt the stream
ENDLESS = 2**31
LATE = 1.0  # seconds behind the rate after which a warning is due


class Renderer:
    """The frames in order from a thread of their own, which owns the graphics context."""

    def __init__(self, **arguments: Any):
        self._arguments = arguments
        self._queue: queue.Queue[Any] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renderer", daemon=True)
        self._thread.start()

    def next(self, timeout: float) -> Any:
        """The next frame, None when there is none in time. Raises what the rendering raised."""
        try:
            found = self._queue.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Stop rendering."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            from flowclas_ros.training.scenes import render

            frames = render(frames=ENDLESS, **self._arguments)
            with contextlib.closing(frames):  # type: ignore[type-var]
                for frame in frames:
                    self._put(frame)
                    if self._stop.is_set():
                        return
        except Exception as error:  # handed on to the node's thread, which says it
            self._put(error)

    def _put(self, item: Any) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return


class Publishers:
    """What a frame is sent on."""

    def __init__(self, node: Node):
        from sensor_msgs.msg import CameraInfo, Image

        self._node = node
        quality = output_qos()
        topics = {"image_raw": "camera", say.DEPTH: "camera", say.MASK: "ground_truth", say.OBJECTS: "ground_truth"}
        self._images = {
            name: node.create_publisher(Image, f"{group}/{name}", quality) for name, group in topics.items()
        }
        self._info = node.create_publisher(CameraInfo, f"camera/{say.CAMERA_INFO}", quality)
        self._tf: Any = None
        try:
            from tf2_msgs.msg import TFMessage

            self._tf = node.create_publisher(TFMessage, "/tf", 10)
        except ModuleNotFoundError:
            node.get_logger().warning("tf2_msgs is not installed: no /tf (apt install ros-$ROS_DISTRO-tf2-msgs)")

    def send(self, frame: Any) -> None:
        """Everything of a frame, stamped now; the picture last, so that who waits for it finds the rest."""
        stamp = self._node.get_clock().now().to_msg()
        header = make("Header", stamp=stamp, frame_id=say.OPTICAL)
        self._info.publish(say.camera_info(header, frame, make))
        if self._tf is not None:
            self._tf.publish(say.transforms(stamp, frame, make))
        fields = say.images(frame)
        for name in (say.DEPTH, say.MASK, say.OBJECTS, "image_raw"):
            self._images[name].publish(make("Image", header=header, **fields[name]))


def stream(node: Node) -> None:
    """Publish at the rate asked for until ROS shuts down. Raises FlowclasError as `scenes.render` does."""
    defaults = {"scene": "orbit", "anomalies": "test", "seed": 0, "rate": 10.0, "width": 320, "height": 240}
    fixed = ParameterDescriptor(read_only=True)  # the renderer is given them once
    chosen = {name: node.declare_parameter(name, value, fixed).value for name, value in defaults.items()}
    rate = chosen.pop("rate")
    publishers = Publishers(node)
    renderer = Renderer(domain=chosen.pop("scene"), fps=rate, **chosen)
    due, warned = None, False
    try:
        while node.context.ok():
            rclpy.spin_once(node, timeout_sec=0.0)
            frame = renderer.next(0.1)
            if frame is None:
                continue
            due = due or time.monotonic()  # not before the first frame, which waits for the renderer's start
            while node.context.ok() and (early := due - time.monotonic()) > 0:
                rclpy.spin_once(node, timeout_sec=early)
            if not node.context.ok():
                break
            publishers.send(frame)
            due += 1 / rate
            if time.monotonic() > due + LATE:
                due = time.monotonic()
                if not warned:
                    node.get_logger().warning(f"rendering is slower than {rate} frames a second: lower rate or size")
                warned = True
    finally:
        renderer.close()


def main(arguments: list[str] | None = None) -> int:
    """Run until stopped. Returns the exit status: 2 with one line on stderr for what went wrong."""
    return run(lambda: rclpy.create_node("camera_sim"), stream, arguments)


if __name__ == "__main__":
    sys.exit(main())
