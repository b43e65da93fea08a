"""One camera's subscriptions. Every callback hands over and returns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from flowclas_ros.node.depth_sync import DepthSync, SyncedFrame
from flowclas_ros.node.parameters import Settings
from flowclas_ros.node.quality import Heard, image_qos, overridden, subscription_events
from flowclas_ros.node.self_mask import SelfMask

COMPRESSED = "/compressed"  # what image_transport appends to an image's topic
_RAW, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class Inputs:
    """The camera's `image`, or `<image>/compressed` as image_transport names it, and `camera_info`; `depth` and
    `self_mask` where they are asked for.

    `came()` is told of every image, `deliver(frame)` gets it, with its depth where that is there in time, later.
    """

    def __init__(
        self, node: Any, camera: str, heard: Heard, came: Callable[[], bool], deliver: Callable[[SyncedFrame], None]
    ):
        self._node, self._heard, self._came, self._deliver = node, heard, came, deliver
        self._prefix = f"{camera}/" if camera else ""
        self._subscriptions: list[Any] = []
        self._sync: DepthSync | None = None
        self._timer: Any = None
        self._camera_info: Any = None
        self._compressed = False
        self.topic = node.resolve_topic_name(f"{self._prefix}image")

    def open(self, settings: Settings, self_mask: SelfMask | None) -> None:
        """Subscribe. Raises FlowclasError for a QoS override that cannot be."""
        compressed = self._compressed = settings.transport == "compressed"
        # remapping `image` moves the compressed topic along, as it does for image_transport's own subscribers
        self.topic = self._node.resolve_topic_name(f"{self._prefix}image") + (COMPRESSED if compressed else "")
        if settings.depth:
            self._sync = DepthSync(
                self._deliver, slop=settings.depth_slop, queue=settings.depth_queue, wait=settings.depth_wait
            )
            if self._camera_info is not None:  # of before: some drivers say it once
                self._sync.camera_info(self._camera_info)
            self._subscribe(Image, f"{self._prefix}depth", settings, self._sync.depth)
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._timer = self._node.create_timer(self._sync.period, self._sync.poll, clock=steady)
        self._subscribe(CameraInfo, f"{self._prefix}camera_info", settings, self._on_camera_info)
        if self_mask is not None and self_mask.live:
            mask = self_mask  # known not to be None in the callback
            self._subscribe(
                Image, f"{self._prefix}self_mask", settings, lambda message: mask.update(message, time.monotonic())
            )
        # by its own name, as the others: one that is resolved already would be remapped once more
        topic = self.topic if compressed else f"{self._prefix}image"
        self._subscribe(CompressedImage if compressed else Image, topic, settings, self._on_image)

    def shut(self) -> int:
        """Unsubscribe; how many images were held back for their depth and are let go."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        sync, self._sync = self._sync, None
        return 0 if sync is None else sync.clear()

    def absence(self) -> str:
        """Where no image comes from, as the end of a sentence; with the way out where other images are there."""
        wanted, unwanted = (_COMPRESSED, _RAW) if self._compressed else (_RAW, _COMPRESSED)
        kinds, plain = self._kinds(self.topic), self.topic.removesuffix(COMPRESSED)
        if wanted in kinds:
            return f" on {self.topic}"
        if kinds:
            remapped = not self._compressed and unwanted in kinds and plain != self.topic
            way = f": set transport: compressed, remap image to {plain}" if remapped else ""
            return f": {self.topic} carries {', '.join(sorted(kinds))}, not {wanted}{way}"
        transport, other = ("raw", plain) if self._compressed else ("compressed", self.topic + COMPRESSED)
        there = self._kinds(other)
        if unwanted in there:
            return f": nobody publishes {self.topic}, but {other} is there (transport: {transport})"
        if wanted in there:  # it was remapped to the compressed topic itself
            return f": nobody publishes {self.topic}: remap image to {other.removesuffix(COMPRESSED)}"
        return f": nobody publishes {self.topic}"

    def _kinds(self, topic: str) -> set[str]:
        """The types that are published there."""
        return {publisher.topic_type for publisher in self._node.get_publishers_info_by_topic(topic)}

    def _on_image(self, message: Any) -> None:
        if not self._came():
            return
        if self._sync is not None:
            self._sync.image(message)
        else:
            self._deliver(SyncedFrame(message, None, self._camera_info))

    def _on_camera_info(self, message: Any) -> None:
        self._camera_info = message
        if self._sync is not None:
            self._sync.camera_info(message)

    def _subscribe(self, kind: type, topic: str, settings: Settings, callback: Callable[[Any], None]) -> None:
        name = self._node.resolve_topic_name(topic)
        self._subscriptions.append(
            self._node.create_subscription(
                kind,
                topic,
                callback,
                overridden(self._node, image_qos(settings.qos, settings.qos_depth), name, "subscription"),
                event_callbacks=subscription_events(self._heard, name),
            )
        )
