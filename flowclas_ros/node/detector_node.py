"""The lifecycle node `detector`: camera images in; hazards, mask, heatmap, score, overlay and state out.

configure loads the checkpoint and warms up, activate subscribes, deactivate and cleanup give back what those took.
The executor's thread only parks frames and watches the clock; the worker's thread does everything with the model.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node import diagnostics, parameters, search
from flowclas_ros.node.control import Control
from flowclas_ros.node.lifecycle import PatientLifecycleNode, logged
from flowclas_ros.node.parameters import Settings
from flowclas_ros.node.ros_messages import make
from flowclas_ros.node.running import run
from flowclas_ros.node.stream import Frame, Stream
from flowclas_ros.node.worker import Worker

if TYPE_CHECKING:
    from flowclas_ros.detection.detector import Detector

HAND_OVER = 30.0  # seconds that a transition waits for the frame in hand before it counts the device as hung
TICK = 0.1  # seconds between two looks at whether the input is stale


class DetectorNode(PatientLifecycleNode):
    """See the module. Several may live in one process, each on an executor of its own or sharing one.

    Raises rclpy's InvalidParameter... errors for a parameter override out of range or mistyped, FlowclasError for
    overrides that contradict each other.
    """

    def __init__(self, node_name: str = "detector", **node_arguments: Any):
        super().__init__(node_name, **node_arguments)
        parameters.declare(self)
        self.settings: Settings = parameters.read(self)
        reason = parameters.contradiction(self.settings)
        if reason:
            raise FlowclasError(reason)
        self._worker: Worker[Frame] | None = None
        self._search: search.Search | None = None
        self._streams: list[Stream] = []
        self._active = False
        self._timer: Any = None
        self._diagnostics: Any = None  # not gated: an inactive detector must be heard to be inactive
        self._diagnosed = 0.0
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._control = Control(self, self)

    # ---------------------------------------------------------------- lifecycle

    @logged
    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load, check and warm up on the worker; create the outputs. FAILURE, with the reason in the log, lets the
        parameters be corrected and configure be tried again.
        """
        self.settings = parameters.read(self)
        self._worker = Worker(self._on_worker, self._failed, name="detector_worker")
        try:
            self._search = self._worker.call(lambda: search.Search(self.settings))
            for camera in self.settings.cameras:
                self._streams.append(Stream(self, camera, lambda: self.settings, lambda: self.detector, self._park))
        except FlowclasError as error:
            self.get_logger().error(f"not configured: {error}")
            self.give_back()
            return TransitionCallbackReturn.FAILURE
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # steady: with use_sim_time a stopped /clock would stop a ROS timer, and a stalled camera would go unnoticed
        self._timer = self.create_timer(TICK, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        detector = self._search.detector
        self.get_logger().info(
            f"checkpoint '{detector.header.get('name', '')}' on {detector.device}, "
            f"threshold {detector.threshold:.4f} nats per dimension"
            + ("" if detector.guaranteed else " (set or empirical: no guaranteed false-alarm rate)")
        )
        return super().on_configure(state)

    @logged
    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Start looking."""
        result = super().on_activate(state)  # opens the gate of the lifecycle publishers
        self._active = True
        for stream in self._streams:
            stream.open()
        self.get_logger().info(f"active, looking at {', '.join(stream.inputs.topic for stream in self._streams)}")
        return result

    @logged
    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Stop looking, and say so."""
        self._stop_looking("deactivated: the view is not searched")
        return super().on_deactivate(state)

    @logged
    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Give back the model, its thread and the outputs."""
        self.give_back()
        return super().on_cleanup(state)

    @logged
    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """Give back everything, from any state."""
        self.give_back()
        return super().on_shutdown(state)

    @logged
    def on_error(self, state: Any) -> TransitionCallbackReturn:
        """Give back everything and go to unconfigured, from where configure may be tried again."""
        self.give_back()
        return super().on_error(state)

    def _stop_looking(self, why: str) -> None:
        """Unsubscribe, let the frame in hand finish, let the parked one go. Raises TimeoutError for a hung device."""
        self._active = False
        for stream in self._streams:
            stream.shut()
        self._empty_hands()
        for stream in self._streams:
            stream.reporter.idle = why
            stream.reporter.say_verdict()

    def _empty_hands(self) -> None:
        """Let parked frames go and wait for those in hand. Raises TimeoutError for a hung device."""
        if self._worker is not None:
            for frame in self._worker.clear():
                frame.stream.status.replaced()
            self._worker.call(lambda: None, HAND_OVER)

    def give_back(self) -> None:
        """Undo configure and activate, as far as they came. Never raises."""
        self._active = False
        for stream in self._streams:
            stream.shut()
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        if self._worker is not None:
            self._stop_worker(self._worker)
            self._worker = None
        for stream in self._streams:
            stream.destroy()
        self._streams = []
        if self._diagnostics is not None:
            self.destroy_publisher(self._diagnostics)
            self._diagnostics = None

    def _stop_worker(self, worker: Worker) -> None:
        found, self._search = self._search, None
        try:
            worker.clear()
            if found is not None:
                worker.call(found.close, HAND_OVER)
        except Exception as error:  # a hung or broken device: the rest must be given back all the same
            self.get_logger().error(f"the device was not given back: {type(error).__name__}: {error}")
        if not worker.stop(timeout=1.0) and found is not None:  # without one it is loading, interrupted at its start
            self.get_logger().error("the worker hangs in the device's driver: restart the node")

    # ---------------------------------------------------------------- frames, from thread to thread

    def _park(self, frame: Frame) -> bool:
        """On the executor's thread."""
        return self._worker is None or self._worker.offer(frame, frame.stream.camera)

    def _on_worker(self, frames: list[Frame]) -> None:
        found = self._search
        if found is not None:  # else given back while these hung in the driver
            found.frames(frames, self.settings)
            for stream in self._streams:
                stream.status.remark("device", found.problem)

    def _failed(self, frames: list[Frame], error: Exception) -> None:
        for frame in frames:
            frame.stream.failed(error)

    def _tick(self) -> None:
        """On the executor's thread: notice what no frame would tell."""
        now = time.monotonic()
        if self._active:
            for stream in self._streams:
                stream.tick(now)
        if now - self._diagnosed > diagnostics.PERIOD and self._diagnostics is not None:
            self._diagnosed = now
            name = self.get_fully_qualified_name()
            statuses = [
                status
                for stream in self._streams
                for status in stream.reporter.diagnostics("/".join(filter(None, (name, stream.camera))), now)
            ]
            self._diagnostics.publish(diagnostics.diagnostic_array(self.get_clock().now().to_msg(), statuses, make))

    # ---------------------------------------------------------------- control

    @property
    def detector(self) -> Detector | None:
        """The one in use; None unless configured."""
        found = self._search
        return None if found is None else found.detector

    def enable(self, wanted: bool) -> None:
        """Look, or pause: subscribed and counting, but searching nothing. Raises FlowclasError when inactive."""
        if not self._active:
            raise FlowclasError("the node is not active: activate it, which also starts it looking")
        for stream in self._streams:
            if not wanted:
                stream.reporter.idle = "paused: the view is not searched until ~/enable is called with true"
            elif stream.reporter.idle:
                stream.resume()
        if not wanted:
            self._empty_hands()
        for stream in self._streams:
            stream.reporter.say_verdict()

    def swapper(self) -> Callable[[Detector], None]:
        """What puts a detector in the place of the present one, from any thread, or raises. For this configuration."""
        found, worker, streams = self._search, self._worker, self._streams
        if found is None or worker is None:
            raise FlowclasError("the node is not configured")

        def swap(detector: Detector) -> None:
            found.swap(detector)
            for stream in streams:
                stream.model_changed()

        return lambda detector: worker.call(lambda: swap(detector))

    def adopted(self, path: str) -> None:
        """Let the parameter tell which checkpoint is in use."""
        self.settings = dataclasses.replace(self.settings, checkpoint=path)
        self.set_parameters([Parameter("checkpoint", value=path)])
        self.get_logger().info(f"checkpoint '{path}' is in use")

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        values = {change.name: change.value for change in changes}
        reason = parameters.refusal(self.settings, values, self._worker is not None)
        if not reason:
            candidate = parameters.changed(self.settings, values)
            detector = self.detector
            reason = search.refusal(candidate, detector) if detector is not None else ""
            if not reason:
                self.settings = candidate
        return SetParametersResult(successful=not reason, reason=reason)


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM. Returns the exit status: 2 with one line for a parameter it cannot take."""
    return run(DetectorNode, _work, arguments)


def _work(node: DetectorNode) -> None:
    """Spin, started by itself where autostart asks for it; what the transitions took is given back."""
    executor = SingleThreadedExecutor(context=node.context)  # none can be made once SIGTERM has come, amid a load say
    executor.add_node(node)
    try:
        if node.get_parameter("autostart").value and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        executor.spin()
    finally:
        node.give_back()


if __name__ == "__main__":
    sys.exit(main())
