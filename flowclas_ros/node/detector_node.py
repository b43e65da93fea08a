"""The lifecycle node `detector`: an image topic in; score, heatmap, mask, overlay and state out, with its header.

configure loads the checkpoint and warms up, activate subscribes, deactivate and cleanup give back what those took.
The executor's thread only parks frames and watches the clock; the worker's thread does everything with the model.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node import parameters, reporting
from flowclas_ros.node.conversion import to_rgb
from flowclas_ros.node.outputs import Outputs
from flowclas_ros.node.parameters import Settings
from flowclas_ros.node.quality import image_qos, subscription_events
from flowclas_ros.node.status import Level, Status
from flowclas_ros.node.worker import Worker

WARM_UP_SIZE = (480, 640)  # height, width in pixels: most cameras' default
HAND_OVER = 30.0  # seconds that a transition waits for the frame in hand before it counts the device as hung
TICK = 0.1  # seconds between two looks at whether the input is stale
HEARTBEAT = 0.5  # seconds after which the state is said again while no frame is processed
DIAGNOSTICS_PERIOD = 1.0  # seconds

Transition = Callable[["DetectorNode", Any], TransitionCallbackReturn]


def _logged(transition: Transition) -> Transition:
    """Log what a transition raises, which rclpy turns into ERROR without a word."""

    @functools.wraps(transition)
    def wrapped(self: DetectorNode, state: Any) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Exception as error:
            self.get_logger().error(f"{transition.__name__[3:]} failed: {type(error).__name__}: {error}")
            return TransitionCallbackReturn.ERROR

    return wrapped


class DetectorNode(LifecycleNode):
    """See the module. Raises rclpy's InvalidParameter... errors for a parameter override out of range or mistyped."""

    def __init__(self, **node_arguments: Any):
        super().__init__("detector", **node_arguments)
        parameters.declare(self)
        reason = parameters.refusal({name: self.get_parameter(name).value for name in parameters.TABLE}, False)
        if reason:
            raise FlowclasError(reason)
        self._worker: Worker[Image] | None = None
        self._detector: Any = None  # a detection.Detector; its module brings torch, so it is imported by the worker
        self._settings: Settings = parameters.read(self)
        self._status = Status(time.monotonic())
        self._active = False
        self._subscription: Any = None
        self._outputs: Outputs | None = None
        self._timer: Any = None
        self._said: tuple[Level, float] = (Level.STALE, 0.0)  # last state published, and when (monotonic seconds)
        self._diagnosed = 0.0
        self.add_on_set_parameters_callback(self._on_set_parameters)

    # ---------------------------------------------------------------- lifecycle

    @_logged
    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load, check and warm up on the worker; create the outputs. FAILURE, with the reason in the log, lets the
        parameters be corrected and configure be tried again.
        """
        self._settings = parameters.read(self)
        self._worker = Worker(self._search, self._failed, name="detector_worker")
        try:
            self._detector = self._worker.call(self._load)
        except FlowclasError as error:
            self.get_logger().error(f"not configured: {error}")
            self._give_back()
            return TransitionCallbackReturn.FAILURE
        self._outputs = Outputs(self, self._on_mismatch)
        # steady: with use_sim_time a stopped /clock would stop a ROS timer, and a stalled camera would go unnoticed
        self._timer = self.create_timer(TICK, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(
            f"checkpoint '{self._detector.header.get('name', '')}' on {self._detector.device}, "
            f"threshold {self._detector.threshold:.4f} nats per dimension"
            + ("" if self._detector.guaranteed else " (set or empirical: no guaranteed false-alarm rate)")
        )
        return super().on_configure(state)

    @_logged
    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Start looking."""
        result = super().on_activate(state)  # opens the gate of the lifecycle publishers
        self._status = Status(time.monotonic())
        self._active = True
        self._subscription = self.create_subscription(
            Image,
            "image",
            self._on_image,
            image_qos(self._settings.qos),
            event_callbacks=subscription_events(self._on_mismatch, lambda: self.resolve_topic_name("image")),
        )
        self.get_logger().info(f"active, looking at {self.resolve_topic_name('image')}")
        return result

    @_logged
    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Stop looking, and say so."""
        self._stop_looking()
        self._say(Level.STALE, "deactivated: the view is not searched")
        return super().on_deactivate(state)

    @_logged
    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Give back the model, its thread and the outputs."""
        self._give_back()
        return super().on_cleanup(state)

    @_logged
    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """Give back everything, from any state."""
        self._give_back()
        return super().on_shutdown(state)

    @_logged
    def on_error(self, state: Any) -> TransitionCallbackReturn:
        """Give back everything and go to unconfigured, from where configure may be tried again."""
        self._give_back()
        return super().on_error(state)

    def _load(self) -> Any:
        """On the worker's thread: the detector, warmed up."""
        from flowclas_ros.detection.detector import Detector

        chosen = self._settings
        if not chosen.checkpoint:
            raise FlowclasError("parameter checkpoint is empty: set it to the path of a .safetensors checkpoint")
        detector = Detector(
            chosen.checkpoint,
            device=chosen.device,
            precision=chosen.precision,
            false_alarm_rate=chosen.false_alarm_rate,
            min_area=chosen.min_area,
            threshold=None if math.isnan(chosen.threshold) else chosen.threshold,
            backbone_weights=chosen.backbone_weights or None,
        )
        detector.warm_up(*WARM_UP_SIZE)
        return detector

    def _stop_looking(self) -> None:
        """Unsubscribe, let the frame in hand finish, let the parked one go. Raises TimeoutError for a hung device."""
        self._active = False
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._worker is not None:
            if self._worker.clear():
                self._status.replaced()
            self._worker.call(lambda: None, HAND_OVER)

    def _give_back(self) -> None:
        """Undo configure and activate, as far as they came. Never raises."""
        self._active = False
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        if self._worker is not None:
            self._stop_worker(self._worker)
            self._worker = None
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    def _stop_worker(self, worker: Worker) -> None:
        detector, self._detector = self._detector, None
        try:
            worker.clear()
            if detector is not None:
                worker.call(detector.close, HAND_OVER)
        except Exception as error:  # a hung or broken device: the rest must be given back all the same
            self.get_logger().error(f"the device was not given back: {type(error).__name__}: {error}")
        if not worker.stop(timeout=1.0):
            self.get_logger().error("the worker hangs in the device's driver: restart the node")

    # ---------------------------------------------------------------- one frame

    def _on_image(self, message: Image) -> None:
        """On the executor's thread: park, nothing else."""
        if self._worker is None or not self._active:
            return
        self._status.received(time.monotonic())
        if self._worker.offer(message):
            self._status.replaced()

    def _search(self, message: Image) -> None:
        """On the worker's thread: one frame from message to messages."""
        stamp = _nanoseconds(message.header.stamp)
        age = self._age(stamp)
        max_age = self._settings.max_age
        if max_age > 0 and age > max_age:
            self._status.too_old(age, max_age)
            return
        detector, outputs = self._detector, self._outputs
        if detector is None or outputs is None:
            return  # given back while this frame hung in the driver
        image = to_rgb(message)
        detection = detector.detect(image)
        outputs.frame(message.header, image, detection)
        self._status.processed(time.monotonic(), message.header, detection, self._age(stamp))
        self._say_verdict()

    def _failed(self, message: Image, error: Exception) -> None:
        """On the worker's thread: a frame that could not be searched is a fault, the next frame goes on."""
        if not self.context.ok():
            return  # publishing fails while the process shuts down
        reason = str(error) if isinstance(error, FlowclasError) else f"{type(error).__name__}: {error}"
        self._status.failed(f"frame not searched: {reason}")
        self.get_logger().error(f"frame not searched: {reason}", throttle_duration_sec=1.0)
        self._say_verdict()

    def _age(self, stamp: int) -> float:
        """Seconds from `stamp` (ns) to now on the node's clock; NaN for no stamp, below zero for one in the future.

        Both pass the max_age test: an unstamped frame and a camera whose clock runs ahead are searched, since fresh
        they are by receipt, and a detector that drops them would be blind for good.
        """
        return (self.get_clock().now().nanoseconds - stamp) * 1e-9 if stamp else float("nan")

    # ---------------------------------------------------------------- what it says of itself

    def _tick(self) -> None:
        """On the executor's thread: notice what no frame would tell."""
        now = time.monotonic()
        level, since = self._said
        if self._active and (self._verdict(now)[0] != level or now - since > HEARTBEAT):
            self._say_verdict()
        if now - self._diagnosed > DIAGNOSTICS_PERIOD:
            self._diagnosed = now
            self._diagnose(now)

    def _verdict(self, now: float) -> tuple[Level, str]:
        level, text = self._status.verdict(now, self._settings.stale_after)
        if level == Level.STALE and self._status.silent(now, self._settings.stale_after):
            topic = self.resolve_topic_name("image")
            text += f" on {topic}" if self.count_publishers(topic) else f": nobody publishes {topic}"
        return level, text

    def _say_verdict(self) -> None:
        self._say(*self._verdict(time.monotonic()))

    def _say(self, level: Level, text: str) -> None:
        self._said = (level, time.monotonic())
        outputs, detector = self._outputs, self._detector
        if outputs is not None and detector is not None:
            outputs.state(lambda: reporting.state_message(level, text, self._status, detector))

    def _diagnose(self, now: float) -> None:
        if self._outputs is None:
            return
        stamp, name = self.get_clock().now().to_msg(), self.get_fully_qualified_name()
        if self._active:
            level, text = self._verdict(now)
            message = reporting.diagnostics(name, stamp, level, text, self._status, self._detector)
        else:
            message = reporting.idle_diagnostics(name, stamp, "configured, not active")
        self._outputs.diagnostics(message)

    def _on_mismatch(self, topic: str, text: str) -> None:
        self.get_logger().error(text)
        self._status.mismatch(topic, text)

    # ---------------------------------------------------------------- parameters

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        reason = parameters.refusal({change.name: change.value for change in changes}, self._worker is not None)
        if not reason:
            self._settings = parameters.changed(self._settings, {change.name: change.value for change in changes})
        return SetParametersResult(successful=not reason, reason=reason)

    def close(self) -> None:
        """Give back everything at the end of the process."""
        self._give_back()


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM. Returns the exit status: 2 with one line for a parameter it cannot take."""
    rclpy.init(args=arguments)
    node = None
    try:
        node = DetectorNode()
        if node.get_parameter("autostart").value and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (FlowclasError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
