"""What the node says of itself: DetectorState per camera, and /diagnostics with health and hazard apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowclas_ros.msg import DetectorState
from flowclas_ros.node.diagnostics import diagnostics, idle_diagnostics
from flowclas_ros.node.messages import state_fields
from flowclas_ros.node.parameters import Settings
from flowclas_ros.node.ros_messages import make
from flowclas_ros.node.status import Level, Status

if TYPE_CHECKING:
    from flowclas_ros.detection.detector import Detector
    from flowclas_ros.node.inputs import Inputs
    from flowclas_ros.node.outputs import Outputs

HEARTBEAT = 0.4  # seconds after which the state is said again while no frame is processed; a tick comes on top
COMPLAINT = 5.0  # seconds of STALE after which the log says why, for whoever started the node and sees nothing come


class Reporter:
    """One camera's voice: its state with every frame and on a timer, its part of the diagnostics.

    `idle` is why the view is not searched at all (inactive, paused); nothing else is said then, CLEAR least of all.
    """

    def __init__(
        self,
        node: Any,
        inputs: Inputs,
        outputs: Outputs,
        settings: Callable[[], Settings],
        detector: Callable[[], Detector | None],
    ):
        self._node, self._inputs, self._outputs = node, inputs, outputs
        self._settings, self._detector = settings, detector
        self._status = Status(time.monotonic())
        self._said: tuple[Level, float] = (Level.STALE, 0.0)  # last state published, and when (monotonic seconds)
        self._content = time.monotonic()  # when there was last nothing to complain of, or when it was complained of
        self.idle = "configured, not active"

    def begin(self, status: Status) -> None:
        """Speak of `status` from now on."""
        self._status, self.idle = status, ""
        self._content = time.monotonic()

    def tick(self, now: float) -> None:
        """Notice what no frame would tell."""
        level, text = self.verdict(now)
        said, since = self._said
        if level != said or now - since > HEARTBEAT:
            self.say_verdict()
        if level != Level.STALE or self.idle:
            self._content = now
        elif now - self._content > COMPLAINT:
            self._content = now
            self._node.get_logger().warning(text)

    def say_verdict(self) -> None:
        """Publish the state as it is now."""
        with self._status.lock:  # or the worker's next scene could come under this level, or be said before it
            now = time.monotonic()
            level, text = self.verdict(now)
            self._said = (level, now)
            detector = self._detector()
            if detector is not None:
                self._outputs.state(lambda: state_message(level, text, self._status, detector))

    def verdict(self, now: float) -> tuple[Level, str]:
        """Level and line at `now` (monotonic seconds)."""
        if self.idle:
            return Level.STALE, self.idle
        stale_after = self._settings().stale_after
        absence = self._inputs.absence() if self._status.silent(now, stale_after) else ""
        return self._status.verdict(now, stale_after, absence)

    def diagnostics(self, name: str, now: float) -> list[Any]:
        """`<name>: health` and `<name>: hazard`."""
        detector = self._detector()
        if self.idle or detector is None:
            return idle_diagnostics(name, self.idle, make)
        level, text = self.verdict(now)
        return diagnostics(name, level, text, self._status, detector, make)


def state_message(level: Level, text: str, status: Status, detector: Detector) -> DetectorState:
    """The state as a message: header and scene values are those of the newest frame that was searched."""
    message = DetectorState(**state_fields(level, text, status, detector))
    if status.scene is not None:
        message.header = status.scene.header
    return message
