"""Quality of service: what the node asks for and offers, and ears for peers that do not match (silent by default)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks  # type: ignore[no-redef]

Heard = Callable[[str, str], None]  # topic, line


def image_qos(name: str, depth: int = 5) -> QoSProfile:
    """`sensor_data`: best effort, which any publisher matches; `reliable`: resent when lost, for reliable ones only."""
    reliable = name == "reliable"
    return QoSProfile(
        depth=depth, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    )


def overridable() -> QoSOverridingOptions:
    """History, depth and reliability may be set in the parameter file: qos_overrides./topic.subscription.reliability,
    with the topic's full name, or .publisher. It is read when the topic is made for the first time.
    """
    return QoSOverridingOptions.with_default_policies()


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
