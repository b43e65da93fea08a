"""One camera's subscriptions. Every callback hands over and returns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sensor_msgs.msg import CompressedImage, Image

from flowclas_ros.node.parameters import Settings
from flowclas_ros.node.quality import Heard, image_qos, overridable, subscription_events
from flowclas_ros.node.self_mask import SelfMask


class Inputs:
    """`image` of the camera, or `<image>/compressed` as image_transport names it, and `self_mask` where it is live."""

    def __init__(self, node: Any, camera: str, heard: Heard):
        self._node, self._heard = node, heard
        self._prefix = f"{camera}/" if camera else ""
        self._subscriptions: list[Any] = []
        self.topic = node.resolve_topic_name(f"{self._prefix}image")

    def open(self, settings: Settings, arrived: Callable[[Any], None], self_mask: SelfMask | None) -> None:
        """Subscribe. `arrived(message)` gets every image."""
        compressed = settings.transport == "compressed"
        # remapping `image` moves the compressed topic along, as it does for image_transport's own subscribers
        self.topic = self._node.resolve_topic_name(f"{self._prefix}image") + ("/compressed" if compressed else "")
        self._subscribe(CompressedImage if compressed else Image, self.topic, settings, arrived)
        if self_mask is not None and self_mask.live:
            mask = self_mask  # for mypy
            self._subscribe(
                Image, f"{self._prefix}self_mask", settings, lambda message: mask.update(message, time.monotonic())
            )

    def shut(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def publishers(self) -> int:
        """How many offer the image."""
        return int(self._node.count_publishers(self.topic))

    def _subscribe(self, kind: type, topic: str, settings: Settings, callback: Callable[[Any], None]) -> None:
        name = self._node.resolve_topic_name(topic)
        self._subscriptions.append(
            self._node.create_subscription(
                kind,
                topic,
                callback,
                image_qos(settings.qos, settings.qos_depth),
                event_callbacks=subscription_events(self._heard, lambda: name),
                qos_overriding_options=overridable(),
            )
        )
