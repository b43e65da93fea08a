"""A lifecycle node that outlives what goes wrong in a transition, and says what it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

Transition = Callable[[Any, Any], TransitionCallbackReturn]


class PatientLifecycleNode(LifecycleNode):
    """Answers a transition that its state does not have with a no.

    rclpy up to Kilted raises it out of spin() instead: one `activate` too many ended the process, and whoever had asked
    waited for an answer.
    """

    # The name that Python gives the mixin's private method; all of its services and triggers go through it.
    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:  # noqa: N802
        try:
            return super()._LifecycleNodeMixin__change_state(transition_id)  # type: ignore[misc]
        except rclpy_implementation.RCLError as error:
            self.get_logger().warning(f"transition {transition_id} refused: {error}")
            return TransitionCallbackReturn.FAILURE


def logged(transition: Transition) -> Transition:
    """Log what a transition raises, which rclpy turns into ERROR without a word."""

    @functools.wraps(transition)
    def wrapped(self: Any, state: Any) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Exception as error:
            self.get_logger().error(f"{transition.__name__[3:]} failed: {type(error).__name__}: {error}")
            return TransitionCallbackReturn.ERROR

    return wrapped
