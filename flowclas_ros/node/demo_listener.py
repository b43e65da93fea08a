"""The demo's ear and hand in the ROS 2 graph: drives the detector's lifecycle, and collects what it says."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from flowclas_ros.errors import FlowclasError
from flowclas_ros.msg import DetectorState
from flowclas_ros.node.conversion import header_ns, to_rgb
from flowclas_ros.node.quality import output_qos

SHOWN = ("image", "ground_truth", "heatmap", "overlay")
KEPT = 48  # frames held for the pictures, evenly spread; each takes some 3 MB at VGA size


@dataclass
class Frame:
    """What has come of one frame, by its stamp. latency: seconds from stamp to the mask's arrival here."""

    latency: float | None = None
    state: Any = None
    pictures: dict[str, np.ndarray] = field(default_factory=dict)  # of SHOWN, (H, W, 3) uint8 RGB; the truth if any


class Listener:
    """A node `demo` beside the detector, in its namespace."""

    def __init__(self, namespace: str, expected: int):
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is the demo's own
        self._node = rclpy.create_node("demo", namespace=namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._every = max(1, expected // KEPT)
        self._seen = 0
        self.frames: dict[int, Frame] = {}
        self.last_state: Any = None
        self._change = self._node.create_client(ChangeState, "detector/change_state")
        qos = output_qos(10)
        self._node.create_subscription(DetectorState, "detector/state", self._on_state, qos)
        self._node.create_subscription(Image, "detector/mask", self._on_mask, qos)
        for name in SHOWN:
            topic = name if name in ("image", "ground_truth") else f"detector/{name}"
            self._node.create_subscription(Image, topic, functools.partial(self._show, name), qos)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def spin_until(self, done: Callable[[], Any], watch: Callable[[], None], timeout: float, what: str) -> None:
        """Listen until `done()`; `watch` may raise meanwhile. Raises FlowclasError naming `what` after `timeout` s."""
        end = time.monotonic() + timeout
        while not done():
            watch()
            if time.monotonic() > end:
                raise FlowclasError(f"{what} took longer than {timeout:.0f} s: see the logs in the output folder")
            self._executor.spin_once(timeout_sec=0.05)

    def start_detector(self, watch: Callable[[], None], timeout: float) -> bool:
        """Configure and activate the detector; False when it refuses."""
        self.spin_until(self._change.service_is_ready, watch, timeout, "the detector's start")
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            future = self._change.call_async(ChangeState.Request(transition=Transition(id=transition)))
            self.spin_until(future.done, watch, timeout, "loading the checkpoint")
            if not future.result().success:
                return False
        return True

    def _frame(self, message: Any) -> Frame:
        return self.frames.setdefault(header_ns(message), Frame())

    def _on_state(self, message: Any) -> None:
        self.last_state = message
        if message.level <= DetectorState.HAZARD:  # else its header is that of an earlier frame
            self._frame(message).state = message

    def _on_mask(self, message: Any) -> None:
        age = self._node.get_clock().now().nanoseconds - header_ns(message)
        self._frame(message).latency = age * 1e-9

    def _show(self, name: str, message: Any) -> None:
        frame = self._frame(message)
        if name == "image":  # comes first of a frame's pictures and decides for all
            self._seen += 1
            if self._seen % self._every:
                return
        elif "image" not in frame.pictures:
            return
        frame.pictures[name] = to_rgb(message)
