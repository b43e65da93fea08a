"""The detector's publishers: what each topic carries, built only for those that somebody listens to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image

from flowclas_ros.msg import DetectorState
from flowclas_ros.node.conversion import to_message
from flowclas_ros.node.quality import Heard, output_qos, publisher_events

if TYPE_CHECKING:
    from flowclas_ros.detection.detector import Detection

IMAGES = ("mask", "heatmap", "score", "overlay")


class Outputs:
    """Created at configure on the lifecycle node, gated by its activation, destroyed at cleanup.

    /diagnostics is not gated: an inactive detector must be heard to be inactive.
    """

    def __init__(self, node: Any, heard: Heard):
        self._node = node
        events = publisher_events(heard)
        self._publishers = {
            name: node.create_lifecycle_publisher(
                Image, f"~/{name}", output_qos(), event_callbacks=events(node.resolve_topic_name(f"~/{name}"))
            )
            for name in IMAGES
        }
        self._publishers["state"] = node.create_lifecycle_publisher(
            DetectorState, "~/state", output_qos(10), event_callbacks=events(node.resolve_topic_name("~/state"))
        )
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def destroy(self) -> None:
        """Take every publisher out of the graph."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._node.destroy_publisher(self._diagnostics)

    def frame(self, header: Any, image: np.ndarray, detection: Detection) -> None:
        """A frame's images, each with the input's header; `image` is (H, W, 3) uint8 RGB."""
        mask = detection.mask.view(np.uint8)
        self._publish("mask", lambda: to_message(mask * np.uint8(255), "mono8", header))
        self._publish("heatmap", lambda: to_message(_eight_bit(detection.heat), "mono8", header))
        self._publish("score", lambda: to_message(detection.score, "32FC1", header))
        self._publish("overlay", lambda: to_message(_overlay_bgr(image, detection), "bgr8", header))

    def state(self, build: Callable[[], DetectorState]) -> None:
        """The state, built if somebody listens."""
        self._publish("state", build)

    def diagnostics(self, message: DiagnosticArray) -> None:
        """Health and hazard for /diagnostics."""
        self._diagnostics.publish(message)

    def _publish(self, name: str, build: Callable[[], Any]) -> None:
        publisher = self._publishers[name]
        if publisher.get_subscription_count() > 0:
            publisher.publish(build())


def _eight_bit(heat: np.ndarray) -> np.ndarray:
    """Heat (H, W) float32 in 0..1 to (H, W) uint8."""
    return np.rint(heat * np.float32(255)).astype(np.uint8)


def _overlay_bgr(image: np.ndarray, detection: Detection) -> np.ndarray:
    from flowclas_ros.detection.overlay import overlay  # brings OpenCV's drawing, for those who look alone

    return overlay(image, detection)[..., ::-1]
