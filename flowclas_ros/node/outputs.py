"""One camera's publishers: what each topic carries, built only for those that somebody listens to."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from flowclas_ros.errors import FlowclasError
from flowclas_ros.msg import DetectorState, HazardArray
from flowclas_ros.node.conversion import to_message
from flowclas_ros.node.depth_image import rescaled_camera_info
from flowclas_ros.node.messages import (
    hazard_array,
    hazard_cloud,
    hazard_markers,
    heat_pixels,
    mask_pixels,
    output_size,
    overlay_pixels,
    scaled,
)
from flowclas_ros.node.quality import Heard, output_qos, overridden, publisher_events
from flowclas_ros.node.ros_messages import make

if TYPE_CHECKING:
    from flowclas_ros.detection.interpreter import Finding
    from flowclas_ros.node.parameters import Settings

TOPICS = {
    "hazards": HazardArray,
    "mask": Image,
    "heatmap": Image,
    "score": Image,
    "overlay": Image,
    "camera_info": CameraInfo,
    "state": DetectorState,
}
DEPTH_TOPICS = {"points": PointCloud2, "markers": MarkerArray}
DEPTHS = {"state": 10}  # of the queue, where it is not 1: states are small, and each may tell of another change


class Outputs:
    """Created at configure on the lifecycle node, gated by its activation, destroyed at cleanup."""

    def __init__(self, node: Any, camera: str, depth: bool, heard: Heard):
        self._node = node
        prefix = f"~/{camera}/" if camera else "~/"
        self._publishers = {
            name: node.create_lifecycle_publisher(
                kind,
                prefix + name,
                overridden(node, output_qos(DEPTHS.get(name, 1)), node.resolve_topic_name(prefix + name), "publisher"),
                event_callbacks=publisher_events(heard, node.resolve_topic_name(prefix + name)),
            )
            for name, kind in {**TOPICS, **(DEPTH_TOPICS if depth else {})}.items()
        }

    def destroy(self) -> None:
        """Take every publisher out of the graph. A worker that hung in the driver meanwhile publishes to nobody."""
        publishers, self._publishers = self._publishers, {}
        for publisher in publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def mask(self, header: Any, mask: np.ndarray, settings: Settings) -> None:
        """A frame's mask (H, W) bool, which is known first."""
        scale = settings.output_scale
        self._publish("mask", settings.publish, lambda: to_message(mask_pixels(mask, scale), "mono8", header))

    def frame(
        self, header: Any, image: np.ndarray, finding: Finding, settings: Settings, camera_info: Any = None
    ) -> None:
        """The rest of a frame's messages, each with the input's header, the most urgent first.

        image: (H, W, 3) uint8 RGB. camera_info: the input's, where it is known.
        """
        scale, wanted = settings.output_scale, settings.publish
        self._publish("hazards", wanted, lambda: hazard_array(header, finding.hazards, make))
        if "points" in self._publishers:
            reason = "no depth" if finding.located is None else finding.located.reason
            self._publish("points", wanted, lambda: hazard_cloud(header, finding.hazards, reason, make))
            self._publish("markers", wanted, lambda: hazard_markers(header, finding.hazards, make))
        self._publish("heatmap", wanted, lambda: to_message(heat_pixels(finding.heat, scale), "mono8", header))
        self._publish("score", wanted, lambda: to_message(scaled(finding.judged.score, scale), "32FC1", header))
        self._publish("overlay", wanted, lambda: to_message(overlay_pixels(image, finding, scale), "bgr8", header))
        if scale != 1 and camera_info is not None:
            size = output_size(image.shape[1], image.shape[0], scale)
            self._publish("camera_info", wanted, lambda: _camera_info(camera_info, header, size))

    def state(self, build: Callable[[], DetectorState]) -> None:
        """The state, built if somebody listens."""
        self._publish("state", ("state",), build)

    def _publish(self, name: str, wanted: Collection[str], build: Callable[[], Any]) -> None:
        publisher = self._publishers.get(name)
        if publisher is not None and name in wanted and publisher.get_subscription_count() > 0:
            message = build()
            if message is not None:
                publisher.publish(message)


def _camera_info(info: Any, header: Any, size: tuple[int, int]) -> CameraInfo | None:
    try:
        return rescaled_camera_info(info, header, *size)
    except FlowclasError:  # not calibrated, or of another view: there is none for the outputs either
        return None
