"""`ros2 run flowclas_ros servo_guard`: pauses MoveIt Servo when the detector sees a hazard, or does not see.

Subscribes to the detector's `state`, calls Servo's pause service (std_srvs/SetBool, Jazzy and newer), and calls it
again while it is paused, since a Servo that was restarted comes up running. It never resumes by itself: `~/resume`
(std_srvs/Trigger) does, and only while the level is below `pause_from`. A supervisor, not a safety function: a robot
that shares its space with people needs a certified one as well.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from flowclas_ros.errors import FlowclasError
from flowclas_ros.msg import DetectorState
from flowclas_ros.node.quality import output_qos
from flowclas_ros.node.running import run

TICK = 0.05  # seconds between two looks at whether the state is overdue
ANSWER = 0.5  # seconds that Servo has to answer before it is asked again
AGAIN = 1.0  # seconds after which a paused Servo is asked anew: it may be another one, or somebody may have let it go
STATES = 10  # that wait for a guard that is kept from running: a hazard among them must not be lost to the next one


class ServoGuard(Node):
    """Parameters: pause_service; pause_from, the lowest level that pauses (1 CAUTION, 2 HAZARD or 3 STALE); timeout,
    seconds without a state, which the detector says twice a second at least, or in FAULT throughout, after which Servo
    is paused as well: one frame that does not decode is a FAULT until the next one, and no reason to stop.
    Raises FlowclasError for a value out of range.
    """

    def __init__(self, **node_arguments: Any):
        super().__init__("servo_guard", **node_arguments)
        fixed = ParameterDescriptor(read_only=True)
        service = self.declare_parameter("pause_service", "/servo_node/pause_servo", fixed).value
        self._pause_from = int(self.declare_parameter("pause_from", int(DetectorState.HAZARD), fixed).value or 0)
        self._timeout = float(self.declare_parameter("timeout", 1.0, fixed).value or 0.0)
        if not DetectorState.CAUTION <= self._pause_from <= DetectorState.STALE or not 0 < self._timeout < math.inf:
            raise FlowclasError(
                f"pause_from {self._pause_from} is not 1, 2 or 3, or timeout {self._timeout} s not a number above 0"
            )
        self._servo = self.create_client(SetBool, service)
        self._state: DetectorState | None = None
        self._heard = time.monotonic()
        self._unfaulted = time.monotonic()  # when the last state came that is no FAULT
        self._paused: str = ""  # why; empty while Servo may run
        self._confirmed = -math.inf  # when Servo last said that it is paused
        self._asked: tuple[float, Any] | None = None  # when, and the future
        self.create_subscription(DetectorState, "state", self._on_state, output_qos(STATES))
        self.create_service(Trigger, "~/resume", self._on_resume)
        # steady: a stopped /clock must not stop the watch
        self.create_timer(TICK, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_state(self, message: DetectorState) -> None:
        self._state, self._heard = message, time.monotonic()
        if message.level != DetectorState.FAULT:
            self._unfaulted = self._heard
        self._tick()

    def _reason(self) -> str:
        """Why Servo must not run now, in one line; empty when it may."""
        silent = time.monotonic() - self._heard
        if silent > self._timeout:
            return f"no detector state for {silent:.1f} s"
        if self._state is None:
            return "no detector state yet"
        return self._state.message or "hazard" if self._state.level >= self._pause_from else ""

    def _may_pass(self) -> bool:
        """Whether the reason is a FAULT that has not lasted yet."""
        fault = self._state is not None and self._state.level == DetectorState.FAULT
        return fault and time.monotonic() - self._unfaulted <= self._timeout

    def _tick(self) -> None:
        reason = self._reason()
        if reason and not self._paused and not self._may_pass():
            self._forget_request()
            self._paused, self._confirmed = reason, -math.inf
            self.get_logger().error(f"pausing Servo: {reason}")
        if self._paused and time.monotonic() - self._confirmed >= AGAIN:
            self._ask()

    def _ask(self) -> None:
        """Ask Servo to pause, again and again until it says that it has."""
        if self._asked is not None:
            since, future = self._asked
            if future.done():
                answer = future.result()
                self._asked = None
                if answer is not None and answer.success:
                    if math.isinf(self._confirmed):
                        self.get_logger().warning("Servo is paused; call ~/resume when the way is free")
                    self._confirmed = time.monotonic()
                    return
            elif time.monotonic() - since < ANSWER:
                return
            self._forget_request()
        if self._servo.service_is_ready():
            self._asked = (time.monotonic(), self._servo.call_async(SetBool.Request(data=True)))
        else:
            self.get_logger().error(f"nobody serves {self._servo.srv_name}", throttle_duration_sec=2.0)

    def _forget_request(self) -> None:
        """Let go of one that was not answered: rclpy would keep it for ever."""
        if self._asked is not None:
            self._servo.remove_pending_request(self._asked[1])
        self._asked = None

    def _on_resume(self, request: Any, response: Any) -> Any:
        reason = self._reason()
        if reason:
            response.success, response.message = False, f"not resumed: {reason}"
        elif not self._servo.service_is_ready():
            response.success, response.message = False, f"not resumed: nobody serves {self._servo.srv_name}"
        else:
            self._paused = ""
            self._forget_request()
            self._servo.call_async(SetBool.Request(data=False))
            response.success, response.message = True, "Servo was told to resume"
        return response


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM. Returns the exit status: 2 with one line for a parameter it cannot take."""
    return run(ServoGuard, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
