"""Quality of service: what the node asks for and offers, and ears for peers that do not match (silent by default)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind, qos_profile_sensor_data

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks  # type: ignore[no-redef]

Heard = Callable[[str, str], None]  # topic, line


def image_qos(name: str) -> QoSProfile:
    """`sensor_data`: best effort, which any publisher matches; `reliable`: resent when lost, for reliable ones only."""
    if name == "reliable":
        return QoSProfile(depth=qos_profile_sensor_data.depth, reliability=ReliabilityPolicy.RELIABLE)
    return qos_profile_sensor_data


def output_qos(depth: int = 1) -> QoSProfile:
    """Reliable, so that RViz's default and best-effort readers both match; depth 1: the newest frame is what counts."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)


def subscription_events(heard: Heard, topic: Callable[[], str]) -> SubscriptionEventCallbacks:
    """Report publishers on `topic()` whose offer does not meet what the node asks for."""

    def incompatible(event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        heard(
            topic(),
            f"a publisher of {topic()} offers an incompatible {policy}, nothing comes from it: set qos to sensor_data",
        )

    return SubscriptionEventCallbacks(incompatible_qos=incompatible)


def publisher_events(heard: Heard) -> Callable[[str], PublisherEventCallbacks]:
    """For a topic: report subscribers that ask for more than the node offers."""

    def of(topic: str) -> PublisherEventCallbacks:
        def incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            heard(
                topic,
                f"a subscriber of {topic} asks for an incompatible {policy}, nothing reaches it: "
                "the outputs are reliable and volatile",
            )

        return PublisherEventCallbacks(incompatible_qos=incompatible)

    return of
