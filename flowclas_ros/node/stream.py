"""One camera of the detector: its frames in, its results out, and what is remembered between two of them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowclas_ros.node.conversion import header_ns, to_picture
from flowclas_ros.node.depth_image import locate_hazards
from flowclas_ros.node.depth_sync import SyncedFrame
from flowclas_ros.node.inputs import Inputs
from flowclas_ros.node.messages import nearest_range
from flowclas_ros.node.outputs import Outputs
from flowclas_ros.node.parameters import Settings
from flowclas_ros.node.quality import Unmatched
from flowclas_ros.node.reporting import Reporter
from flowclas_ros.node.search import reason_of, rules
from flowclas_ros.node.self_mask import SelfMask
from flowclas_ros.node.status import Scene, Status

if TYPE_CHECKING:
    import numpy as np

    from flowclas_ros.detection.detector import Detector


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame as it was parked. synced.image: sensor_msgs/Image or CompressedImage. received: monotonic seconds, with
    depth when its depth was there too.
    """

    stream: Stream
    synced: SyncedFrame
    received: float = field(default_factory=time.monotonic)

    @property
    def message(self) -> Any:
        """The image."""
        return self.synced.image


class Stream:
    """Made at configure. Its subscriptions live from `open` to `shut`, everything else until `destroy`.

    `settings()` gives the values in force, `park(frame)` hands a frame to the worker and says whether it replaced one.
    Raises FlowclasError for a self mask that cannot be read.
    """

    def __init__(
        self,
        node: Any,
        camera: str,
        settings: Callable[[], Settings],
        detector: Callable[[], Detector | None],
        park: Callable[[Frame], bool],
    ):
        from flowclas_ros.detection.interpreter import Interpreter  # brings torch

        self._node, self.camera, self._settings, self._park = node, camera, settings, park
        chosen = settings()
        self._self_mask = SelfMask.from_setting(chosen.self_mask, camera)
        self._rules = rules(chosen)
        self._interpreter = Interpreter(self._rules)
        self._forget = False  # to begin anew with the next frame: set by the executor's thread, done by the worker's
        self.status = Status(time.monotonic())
        self._depth = chosen.depth
        self._unmatched_inputs = Unmatched(node.count_publishers, self._remark)
        self._unmatched_outputs = Unmatched(node.count_subscribers, self._remark)
        self.outputs = Outputs(node, camera, chosen.depth, self._unmatched_outputs.heard)
        self.inputs = Inputs(node, camera, self._unmatched_inputs.heard, self._came, self._deliver)
        self.reporter = Reporter(node, self.inputs, self.outputs, settings, detector)

    # ---------------------------------------------------------------- on the executor's thread

    def open(self) -> None:
        """Start to look, with counts at zero and nothing remembered."""
        self.status = Status(time.monotonic())
        self._unmatched_inputs.forget()  # new subscriptions hear of their publishers anew, the outputs stay as they are
        self._unmatched_outputs.repeat()
        self.reporter.begin(self.status)
        self._forget = True
        self.inputs.open(self._settings(), self._self_mask)

    def shut(self) -> None:
        """Look no more."""
        for _ in range(self.inputs.shut()):
            self.status.replaced()

    def destroy(self) -> None:
        """Take everything out of the graph."""
        self.inputs.shut()
        self.outputs.destroy()

    def resume(self) -> None:
        """Look again after a pause."""
        self._forget = True
        self.status.resumed(time.monotonic())
        self.reporter.idle = ""

    def tick(self, now: float) -> None:
        """Notice at `now` (monotonic seconds) what no frame would tell."""
        self._unmatched_inputs.tick(now)
        self._unmatched_outputs.tick(now)
        self.reporter.tick(now)

    def _came(self) -> bool:
        """An image: whether it is wanted."""
        self.status.received(time.monotonic())
        if self.reporter.idle:
            self.status.replaced()
        return not self.reporter.idle

    def _deliver(self, synced: SyncedFrame) -> None:
        if self.reporter.idle or self._park(Frame(self, synced)):
            self.status.replaced()

    def _remark(self, topic: str, text: str) -> None:
        if text:
            self._node.get_logger().error(text)
        self.status.remark(topic, text)

    # ---------------------------------------------------------------- on the worker's thread

    def picture(self, frame: Frame) -> np.ndarray | None:
        """(H, W, 3) uint8 RGB, or None for a frame that is too old to be searched. Raises BrokenImageError."""
        self.status.taken(time.monotonic())
        age = self._age(header_ns(frame.message))
        max_age = self._settings().max_age
        if max_age > 0 and age > max_age:
            self.status.too_old(age, max_age)
            return None
        return to_picture(frame.message)

    def conclude(
        self, frame: Frame, picture: np.ndarray, detector: Detector, score: np.ndarray, stages: dict[str, float]
    ) -> None:
        """From the frame's score (H, W) to everything that is published of it."""
        header = frame.message.header
        stamp = header_ns(frame.message)
        self._prepare()
        settings = self._settings()
        judged = self._interpreter.judge(detector, score, stamp=stamp, ignore=self._ignored(frame, score.shape))
        self.outputs.mask(header, judged.mask, settings)  # at once: the rest takes time
        locate = functools.partial(locate_hazards, frame=frame.synced) if self._depth else None
        finding = self._interpreter.interpret(judged, stages, stamp=stamp, locate=locate)
        if finding.located is not None:
            self.status.remark("depth", finding.located.text)
        self.status.remark("drift", judged.drift.text)  # a warning of diagnostics; the level stays the scene's
        if finding.notice:
            self._node.get_logger().warning(finding.notice, throttle_duration_sec=5.0)
        self.outputs.frame(header, picture, finding, settings, frame.synced.camera_info)
        self.status.processed(
            time.monotonic(),
            Scene(
                header=header,
                hazards=len(finding.hazards),
                candidates=finding.candidates,
                anomalous_share=judged.anomalous_share,
                peak_score=judged.peak,
                nearest_range=nearest_range(finding.hazards),
                latency=self._age(stamp),
                timings=finding.timings,
                drift=judged.drift.statistic,
                drifted=judged.drift.drifted,
            ),
        )
        self.reporter.say_verdict()

    def failed(self, error: Exception) -> None:
        """A frame that could not be searched is a fault; the next frame goes on."""
        if not self._node.context.ok():
            return  # publishing fails while the process shuts down
        reason = reason_of(error)
        self.status.failed(f"frame not searched: {reason}")
        self._node.get_logger().error(f"frame not searched: {reason}", throttle_duration_sec=1.0)
        self.reporter.say_verdict()

    def model_changed(self) -> None:
        """The scores to come are another model's."""
        self._interpreter.model_changed()

    def _prepare(self) -> None:
        """Take over what changed since the last frame."""
        chosen = rules(self._settings())
        if chosen != self._rules:
            self._rules = chosen
            self._interpreter.set_rules(chosen)
        if self._forget:
            self._forget = False
            self._interpreter.reset()

    def _ignored(self, frame: Frame, shape: tuple[int, ...]) -> np.ndarray | None:
        if self._self_mask is None:
            return None
        stale_after, stamp = self._settings().stale_after, header_ns(frame.message)
        mask, remark = self._self_mask.of(shape, stale_after, stamp=stamp, received=frame.received)
        self.status.remark("self mask", remark)
        return mask

    def _age(self, stamp: int) -> float:
        """Seconds from `stamp` (ns) to now on the node's clock; NaN for no stamp, below zero for one in the future.

        Both pass the max_age test: an unstamped frame and a camera whose clock runs ahead are searched, since fresh
        they are by receipt, and a detector that drops them would be blind for good.
        """
        return (self._node.get_clock().now().nanoseconds - stamp) * 1e-9 if stamp else float("nan")
