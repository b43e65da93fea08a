"""Quality of service: what the node asks for and offers, and ears for peers that do not match (silent by default)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks  # type: ignore[no-redef]

from flowclas_ros.errors import FlowclasError

Heard = Callable[[str, str], None]  # topic, line
GRAPH_DELAY = 1.0  # seconds that the graph may not know yet of a peer that the middleware has told of

_POLICIES: dict[str, Any] = {
    "history": HistoryPolicy,
    "depth": int,
    "reliability": ReliabilityPolicy,
    "durability": DurabilityPolicy,
}


def image_qos(name: str, depth: int = 5) -> QoSProfile:
    """`sensor_data`: best effort, which any publisher matches; `reliable`: resent when lost, for reliable ones only."""
    reliable = name == "reliable"
    return QoSProfile(
        depth=depth, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    )


def overridden(node: Any, qos: QoSProfile, topic: str, side: str) -> QoSProfile:
    """`qos` with what the parameter file says of `topic` (full name) as `side` ("publisher" or "subscription").

    The names are rclpy's own, qos_overrides./topic.subscription.reliability and so on. rclpy's QoSOverridingOptions
    is not used, as it freezes the first values for the node's life: a lifecycle node may come back with other ones.
    "" is not set: of a parameter without a value `ros2 param dump` would write null, which ROS reads as that word.
    Raises FlowclasError for a value that is none.
    """
    for policy, kind in _POLICIES.items():
        name = f"qos_overrides.{topic}.{side}.{policy}"
        if not node.has_parameter(name):
            descriptor = ParameterDescriptor(
                description=f"QoS {policy} of {topic}; empty: the node's own", read_only=True, dynamic_typing=True
            )
            node.declare_parameter(name, "", descriptor)
        value = node.get_parameter(name).value
        if value not in (None, ""):
            try:
                setattr(qos, policy, _depth(value) if kind is int else kind.get_from_short_key(str(value)))
            except (KeyError, ValueError) as error:
                raise FlowclasError(f"{name} '{value}' is not a value of that policy: {error}") from error
    return qos


def _depth(value: Any) -> int:
    """Raises ValueError for what rcl would refuse without a word of the parameter, or round."""
    if type(value) is not int or value < 0:
        raise ValueError("give a whole number, 0 for the middleware's own")
    return value


def output_qos(depth: int = 1) -> QoSProfile:
    """Reliable, so that RViz's default and best-effort readers both match; depth 1: the newest frame is what counts."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)


class Unmatched:
    """What was heard of peers on one side, until the last of them has left.

    The middleware says that a peer of incompatible quality has come, not that it has gone. Without any peer there is
    none of incompatible quality either.

    Args:
        peers: how many there are of a topic.
        remark: takes a topic and a line, or "" when it holds no more.
    """

    def __init__(self, peers: Callable[[str], int], remark: Heard) -> None:
        self._peers, self._remark = peers, remark
        self._said: dict[str, tuple[float, str]] = {}

    def heard(self, topic: str, text: str) -> None:
        """A peer does not match."""
        self._said[topic] = (time.monotonic(), text)
        self._remark(topic, text)

    def tick(self, now: float) -> None:
        """Take back at `now` (monotonic seconds) what holds no more."""
        for topic, (since, _) in list(self._said.items()):
            if now - since > GRAPH_DELAY and not self._peers(topic):
                del self._said[topic]
                self._remark(topic, "")

    def repeat(self) -> None:
        """Say again what holds."""
        for topic, (_, text) in self._said.items():
            self._remark(topic, text)

    def forget(self) -> None:
        """The endpoints are others now."""
        self._said.clear()


def subscription_events(heard: Heard, topic: str) -> SubscriptionEventCallbacks:
    """Report publishers on `topic` whose offer does not meet what the node asks for."""

    def incompatible(event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        heard(
            topic,
            f"a publisher of {topic} offers an incompatible {policy}, nothing comes from it: set qos to sensor_data",
        )

    return SubscriptionEventCallbacks(incompatible_qos=incompatible)


def publisher_events(heard: Heard, topic: str) -> PublisherEventCallbacks:
    """Report subscribers of `topic` that ask for more than the node offers."""

    def incompatible(event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        heard(
            topic,
            f"a subscriber of {topic} asks for an incompatible {policy}, nothing reaches it: "
            "the outputs are reliable and volatile",
        )

    return PublisherEventCallbacks(incompatible_qos=incompatible)
