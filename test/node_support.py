"""What the node's tests share: a small checkpoint, the detector in a process (node_process), and a peer to talk to it.

The peer is a plain rclpy node in the test's process; between the two is real DDS. conftest.py gives every run a
domain of its own and the package's FastDDS profile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from node_process import ANSWER_TIMEOUT, DetectorProcess, options

__all__ = ["ANSWER_TIMEOUT", "DetectorProcess", "options"]  # from where the tests expect them

# Generous: these end a hung test, no test measures by them. Seconds.
START_TIMEOUT = 90.0  # a process until its services answer
LOAD_TIMEOUT = 90.0  # configure: importing torch, checkpoint, warm-up
HEIGHT, WIDTH = 96, 128  # pixels of the test frames: small, the machine may have two cores
# An answer to a client that the service has not discovered yet is lost: what may be asked twice is, after PATIENCE.
ASKED_AGAIN = ("get_state", "get_parameters", "set_parameters", "set_parameters_atomically", "enable")
PATIENCE = 2.0  # seconds
OUTPUTS = ("mask", "heatmap", "score", "overlay")


def picture(seed: int = 0, anomaly: bool = False) -> np.ndarray:
    """A (96, 128, 3) uint8 RGB scene of smooth colour; with an anomaly, a checkered square stands in it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    phase = rng.uniform(0, 6, (3, 2))
    waves = [np.sin(x / 20 + phase[c, 0]) + np.cos(y / 15 + phase[c, 1]) for c in range(3)]
    image = 120 + 30 * np.stack(waves, axis=-1) + rng.normal(0, 3, (HEIGHT, WIDTH, 3))
    if anomaly:
        checks = (np.indices((32, 32)) // 4).sum(axis=0) % 2
        image[32:64, 48:80] = np.where(checks[..., None], (255, 0, 255), (0, 255, 0))
    return image.clip(0, 255).astype(np.uint8)


def make_checkpoint(path: Path, short_side: int | None = None, drift: bool = False) -> Path:
    """A small FlowCLAS on a random MobileNetV2, embedded, whitened and calibrated on pictures without an anomaly.

    `short_side`: pixels; a large one makes the model slow, since every frame is enlarged to it. `drift`: the
    calibration tells drift too, by 20 pictures of seeds from 100 on.
    """
    import dataclasses

    import torch

    from flowclas_ros.detection.calibration import Calibration
    from flowclas_ros.detection.drift import DriftReference, sample
    from flowclas_ros.model.backbone import BackboneConfig
    from flowclas_ros.model.checkpoint import save_checkpoint
    from flowclas_ros.model.config import FlowCLASConfig
    from flowclas_ros.model.flow import FlowConfig
    from flowclas_ros.model.flowclas import FlowCLAS

    torch.manual_seed(0)
    config = FlowCLASConfig(
        BackboneConfig("mobilenetv2_100", weights="random", layers=(1,), stride=4),
        FlowConfig(steps=0),
        projection_dim=0,
        short_side=short_side,
    )
    model = FlowCLAS(config).eval()

    def tensor(seed: int) -> torch.Tensor:
        return torch.from_numpy(picture(seed)).permute(2, 0, 1)[None].float() / 255

    scenes = [tensor(seed) for seed in range(12)]
    with torch.no_grad():
        model.flow.initialise([(model.features(scene), None) for scene in scenes[: 2 if short_side else 8]])
        calibration = Calibration.fit(model(scene).numpy() for scene in scenes[-2 if short_side else -4 :])
        if drift:
            samples = [[sample(model(tensor(seed))[0].numpy())] for seed in range(100, 120)]
            calibration = dataclasses.replace(calibration, drift=DriftReference.fit(samples))
    save_checkpoint(path, model, calibration=calibration.to_dict(), provenance={"made by": "test"}, embed_backbone=True)
    return path


def image_message(pixels: np.ndarray, encoding: str = "rgb8", stamp: Any = None, frame_id: str = "camera") -> Any:
    """A sensor_msgs/Image of `pixels` (H, W[, C]) whose rows lie one after the other, little-endian."""
    from array import array

    from sensor_msgs.msg import Image

    message = Image(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=int(np.prod(pixels.shape[1:])) * pixels.itemsize,
    )
    message.data = array("B", pixels.tobytes())
    message.header.frame_id = frame_id
    if stamp is not None:
        message.header.stamp = stamp
    return message


@contextmanager
def ros_context(args: list[str] | None = None) -> Iterator[Any]:
    """An rclpy.Context for nodes of this process, apart from the Peers'."""
    import rclpy

    context = rclpy.Context()
    rclpy.init(args=args, context=context)
    try:
        yield context
    finally:
        context.try_shutdown()


@contextmanager
def spinning(node: Any) -> Iterator[None]:
    """The node's callbacks run in a thread of their own; at the end it is destroyed."""
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join(10)
        node.destroy_node()


def hand(node: Any, topic: str, message: Any) -> None:
    """Call back the node's subscription of a topic, as the executor does when the message has come."""
    next(one for one in node.subscriptions if one.topic_name == topic).callback(message)


class Peer:
    """A camera, a listener and a lifecycle manager in one node of the test's process."""

    def __init__(self, target: str = "/detector", topic: str = "/image", reliable: bool = True):
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("peer", context=self.context)
        self.target = target
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._topic, self._reliable = topic, reliable
        self.start_camera()
        self.got: dict[str, list] = {}
        self._clients: dict[str, Any] = {}

    def start_camera(self) -> None:
        """Offer the image topic."""
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image

        reliability = ReliabilityPolicy.RELIABLE if self._reliable else ReliabilityPolicy.BEST_EFFORT
        self.camera = self.node.create_publisher(Image, self._topic, QoSProfile(depth=5, reliability=reliability))

    def stop_camera(self) -> None:
        """Offer it no more."""
        self.node.destroy_publisher(self.camera)

    def close(self) -> None:
        """Leave the graph."""
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def listen(self, *names: str) -> None:
        """Collect the detector's `~/name` topics under their names, and /diagnostics under its own."""
        from diagnostic_msgs.msg import DiagnosticArray
        from sensor_msgs.msg import CameraInfo, Image, PointCloud2
        from visualization_msgs.msg import MarkerArray

        from flowclas_ros.msg import DetectorState, HazardArray

        kinds = {
            "state": DetectorState,
            "diagnostics": DiagnosticArray,
            "hazards": HazardArray,
            "points": PointCloud2,
            "markers": MarkerArray,
            "camera_info": CameraInfo,
        }
        for name in names:
            kind = kinds.get(name.rpartition("/")[2], Image)
            topic = name if name.startswith("/") else f"{self.target}/{name}"
            self.got[name] = []
            self.node.create_subscription(kind, topic, self.got[name].append, 50)

    def forget(self) -> Peer:
        """Drop what was collected so far; self, for the test that begins."""
        for messages in self.got.values():
            messages.clear()
        return self

    def until(self, condition: Callable[[], Any], what: str, timeout: float = ANSWER_TIMEOUT) -> Any:
        """Spin until `condition()` is truthy and return it; AssertionError naming `what` after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not (result := condition()):
            assert time.monotonic() < end, f"{what}: not within {timeout} s"
            self.executor.spin_once(timeout_sec=0.02)
        return result

    def call(self, service: str, kind: Any, request: Any, timeout: float = ANSWER_TIMEOUT) -> Any:
        """The answer of the detector's service."""
        end, futures = time.monotonic() + timeout, [self.ask(service, kind, request)]
        repeats = service in ASKED_AGAIN
        while True:
            due = min(end, time.monotonic() + PATIENCE) if repeats else end
            while time.monotonic() < due and not any(future.done() for future in futures):
                self.executor.spin_once(timeout_sec=0.02)
            answered = [future.result() for future in futures if future.done()]
            if answered:
                return answered[0]
            assert time.monotonic() < end, f"answer of {self.target}/{service}: not within {timeout} s"
            futures.append(self.ask(service, kind, request))

    def ask(self, service: str, kind: Any, request: Any) -> Any:
        """Call the detector's service: a future of its answer."""
        if service not in self._clients:
            client = self._clients[service] = self.node.create_client(kind, f"{self.target}/{service}")
            self.until(client.service_is_ready, f"{self.target}/{service}", START_TIMEOUT)
            end = time.monotonic() + 0.2  # ready says that we see the service, not yet that it sees us
            self.until(lambda: time.monotonic() > end, "settling")
        client = self._clients[service]
        self.until(client.service_is_ready, f"{self.target}/{service}", START_TIMEOUT)
        return client.call_async(request)

    def change(self, label: str) -> bool:
        """Trigger the lifecycle transition; whether it succeeded."""
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request()
        request.transition.id = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4}[label]
        return bool(self.call("change_state", ChangeState, request, LOAD_TIMEOUT).success)

    def state(self) -> str:
        """The lifecycle state's label."""
        from lifecycle_msgs.srv import GetState

        # a detector that starts itself answers once it has loaded
        return str(self.call("get_state", GetState, GetState.Request(), LOAD_TIMEOUT).current_state.label)

    def set_together(self, **values: Any) -> Any:
        """Set several parameters atomically: the SetParametersResult."""
        from rcl_interfaces.srv import SetParametersAtomically
        from rclpy.parameter import Parameter

        wanted = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        request = SetParametersAtomically.Request(parameters=wanted)
        return self.call("set_parameters_atomically", SetParametersAtomically, request).result

    def get(self, *names: str) -> list:
        """The parameters' ParameterValues."""
        from rcl_interfaces.srv import GetParameters

        return list(self.call("get_parameters", GetParameters, GetParameters.Request(names=list(names))).values)

    def enable(self, wanted: bool) -> Any:
        """Call ~/enable."""
        from std_srvs.srv import SetBool

        return self.call("enable", SetBool, SetBool.Request(data=wanted))

    def set(self, name: str, value: Any) -> Any:
        """Set one parameter: the SetParametersResult."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call("set_parameters", SetParameters, request).results[0]

    def connected(self, *names: str) -> None:
        """Wait until the detector hears the camera and the listed outputs reach this node."""
        self.until(lambda: self.camera.get_subscription_count() > 0, "the detector subscribing to the image")
        for name in names:
            topic = f"{self.target}/{name}"
            self.until(lambda topic=topic: self.node.count_publishers(topic), f"a publisher of {topic}")
        end = time.monotonic() + 0.3  # both sides of a match are not made in the same instant
        self.until(lambda: time.monotonic() > end, "settling")

    def now(self) -> Any:
        """The clock as a stamp."""
        return self.node.get_clock().now().to_msg()

    def send(self, message: Any) -> Any:
        """Publish; returns the message's stamp."""
        self.camera.publish(message)
        return message.header.stamp

    def exchange(self, message: Any, *names: str) -> dict[str, Any]:
        """Send a frame and wait for the outputs that carry its stamp."""
        stamp = self.send(message)

        def arrived() -> dict[str, Any] | None:
            found = {name: next((m for m in self.got[name] if m.header.stamp == stamp), None) for name in names}
            return found if all(found.values()) else None

        return self.until(arrived, f"{', '.join(names)} of the frame sent")

    def last_state(self, level: int, containing: str = "") -> Any:
        """The newest state if it has this level and text."""
        states = self.got["state"]
        return states[-1] if states and states[-1].level == level and containing in states[-1].message else None


@contextmanager
def detector_graph(
    folder: Path, *arguments: str, awaited: str = "active", listened: tuple[str, ...], **peer: str
) -> Iterator[SimpleNamespace]:
    """A detector process in the lifecycle state `awaited`, and a Peer(**peer) that listens to it: .detector and .peer.

    Its log is in `folder`. AssertionError when it does not end well.
    """
    detector = DetectorProcess(folder / "detector.log", *arguments)
    beside = Peer(**peer)
    try:
        beside.listen(*listened)
        beside.until(lambda: beside.state() == awaited, f"state {awaited}, log: {detector.log}", LOAD_TIMEOUT)
        if awaited == "active":
            beside.connected(*(name for name in listened if not name.startswith("/")))
        yield SimpleNamespace(peer=beside, detector=detector)
        assert detector.stop() == 0, detector.text
    finally:
        beside.close()
        detector.stop()
