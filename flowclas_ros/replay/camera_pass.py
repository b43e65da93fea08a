"""One camera's frames from message to finding, and to all that is made of it."""

from __future__ import annotations

import functools
import re
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from flowclas_ros.detection.detector import Detector
from flowclas_ros.detection.interpreter import Finding, Interpreter
from flowclas_ros.detection.overlay import overlay
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node import diagnostics
from flowclas_ros.node.conversion import header_ns
from flowclas_ros.node.depth_image import locate_hazards
from flowclas_ros.node.depth_sync import DepthSync, NearestStamp, SyncedFrame
from flowclas_ros.node.messages import nearest_range, state_fields
from flowclas_ros.node.parameters import Settings
from flowclas_ros.node.search import rules
from flowclas_ros.node.self_mask import SelfMask
from flowclas_ros.node.status import Scene, Status
from flowclas_ros.replay.annotated import AnnotatedBag, make, prefix
from flowclas_ros.replay.cameras import Camera
from flowclas_ros.replay.masks import Masks
from flowclas_ros.replay.recording import Recorded
from flowclas_ros.replay.tally import Tally
from flowclas_ros.replay.truth import Judgement
from flowclas_ros.replay.video import OverlayVideo

_KINDS = 50  # of notes that are told; a bag may be broken in as many ways as it is long
_WAITING = 8  # frames whose pictures may wait to be written: more would be memory, fewer make the detector wait


class Background:
    """Calls one after the other on a thread of their own, a few at most waiting; what one raises comes out of a later
    `do` or of the end. A context manager.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future] = deque()

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while error is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def do(self, call: Callable[[], None]) -> None:
        """Have it done; waits where too many wait already."""
        self._waiting.append(self._pool.submit(call))
        while len(self._waiting) > _WAITING or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()


@dataclass(frozen=True, eq=False)
class Sinks:
    """Where a camera's frames go, the bag and the video through the background."""

    tally: Tally
    bag: AnnotatedBag
    video: OverlayVideo | None
    background: Background


class CameraPass:
    """The memory over one camera's frames, as the node's stream keeps it; time is the bag's."""

    def __init__(self, camera: Camera, detector: Detector, settings: Settings, masks: Masks | None, sinks: Sinks):
        self.camera, self.masks, self.tally = camera, masks, sinks.tally
        self._detector, self._settings, self._sinks = detector, settings, sinks
        self._interpreter = Interpreter(rules(settings))
        self._self_mask = SelfMask.from_setting(settings.self_mask, camera.name)
        self._now = 0.0  # seconds, time of recording
        self._status: Status | None = None
        self.judgement = None if masks is None else Judgement(detector)
        self.notes: dict[str, tuple[str, int]] = {}  # by kind: its first wording, and how often it was noted
        self._sync: DepthSync | None = None
        if settings.depth and camera.depth is None:
            self._note("the parameter depth is true, but there is no --depth-topic: hazards have no position")
        if camera.depth is not None:
            self._sync = DepthSync(
                self._search,
                slop=settings.depth_slop,
                queue=settings.depth_queue,
                wait=settings.depth_wait,
                clock=lambda: self._now,
                make_pairing=NearestStamp,  # message_filters takes rclpy's messages alone
            )

    def take(self, recorded: Recorded) -> None:
        """A message of any topic, in the order of recording: time passes with each."""
        self._now = recorded.bag_ns * 1e-9
        topic = recorded.connection.topic
        if topic == self.camera.image:
            self._image(recorded)
        elif self._sync is not None and topic in (self.camera.depth, self.camera.camera_info):
            if recorded.message is None:
                self._note(f"{topic}: a message cannot be read: {recorded.error}")
            elif topic == self.camera.depth:
                self._sync.depth(recorded.message)
            else:
                self._sync.camera_info(recorded.message)
        if self._sync is not None:
            self._sync.poll()

    def diagnostics(self) -> list[Any]:
        """What the node would say on /diagnostics now; nothing before the first frame."""
        if self._status is None:
            return []
        level, text = self._status.verdict(self._now, self._settings.stale_after)
        name = prefix(self.camera).rstrip("/")
        return diagnostics.diagnostics(name, level, text, self._status, self._detector, make)

    def end(self) -> None:
        """The bag is over: no frame waits for its depth any longer."""
        if self._sync is not None:
            self._sync.flush()

    def _image(self, recorded: Recorded) -> None:
        self._status = self._status or Status(self._now)
        self._status.received(self._now)
        if self._sync is not None and recorded.message is not None:
            self._sync.image(recorded)
        else:
            self._search(SyncedFrame(recorded, None, None))

    def _search(self, synced: SyncedFrame) -> None:
        """A frame, broken or not."""
        recorded: Recorded = synced.image
        status = self._status
        assert status is not None  # since the first frame came
        start = time.perf_counter()
        finding: Finding | None = None
        try:
            if recorded.image is not None:
                self._detector.warm_up(*recorded.image.shape[:2])  # as the node: the first frame pays no lazy start
                start = time.perf_counter()
            finding = self._find(recorded, synced, status)
        except FlowclasError as error:
            status.failed(f"frame not searched: {error}")
            self.tally.failed(recorded, str(error))
        else:
            self._conclude(recorded, finding, recorded.seconds + time.perf_counter() - start, status)
        level, text = status.verdict(self._now, self._settings.stale_after)
        header = status.scene and status.scene.header
        fields = state_fields(level, text, status, self._detector)
        self._sinks.background.do(lambda: self._keep(recorded, finding, header, fields))

    def _find(self, recorded: Recorded, synced: SyncedFrame, status: Status) -> Finding:
        if recorded.image is None:
            raise FlowclasError(recorded.error)
        scores, stages = self._detector.score_batch([recorded.image])
        stamp = header_ns(recorded.message)  # 0 for none, as the node has it
        ignore = None
        if self._self_mask is not None:
            ignore, remark = self._self_mask.of(scores[0].shape, self._settings.stale_after, stamp=stamp)
            status.remark("self mask", remark)
            if remark:
                self._note(remark)
        judged = self._interpreter.judge(self._detector, scores[0], stamp=stamp, ignore=ignore)
        locate = None if self._sync is None else functools.partial(locate_hazards, frame=synced)
        return self._interpreter.interpret(judged, stages, stamp=stamp, locate=locate)

    def _conclude(self, recorded: Recorded, finding: Finding, latency: float, status: Status) -> None:
        if finding.notice:
            self._note(finding.notice)
        if finding.located is not None:
            status.remark("depth", finding.located.text)
            if finding.located.text:
                self._note(finding.located.text)
        judged, nearest = finding.judged, nearest_range(finding.hazards)
        scene = Scene(
            header=recorded.header,
            hazards=len(finding.hazards),
            candidates=finding.candidates,
            anomalous_share=judged.anomalous_share,
            peak_score=judged.peak,
            nearest_range=nearest,
            latency=latency,
            timings=finding.timings,
            drift=judged.drift.statistic,
            drifted=judged.drift.drifted,
        )
        status.remark("drift", judged.drift.text)
        status.processed(self._now, scene)
        self.tally.frame(recorded, finding, scene.level.name, latency, nearest)
        if self.masks is None or self.judgement is None:
            return
        try:
            mask = self.masks.of(recorded)
        except FlowclasError as error:
            self._note(f"mask left out: {error}")
            return
        if mask is not None:
            self.judgement.add(mask, finding, recorded)

    def _keep(self, recorded: Recorded, finding: Finding | None, header: object, fields: dict) -> None:
        """Everything that is drawn and written of a frame, on the background's thread."""
        if finding is not None and recorded.image is not None:
            picture = overlay(recorded.image, finding)
            bgr = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), dtype=np.uint8)
            self._sinks.bag.finding(self.camera, recorded, finding, bgr)
            self.tally.show(recorded, finding, picture)
            if self._sinks.video is not None:
                self._sinks.video.add(bgr)
        self._sinks.bag.state(self.camera, recorded, header, fields)

    def _note(self, text: str) -> None:
        """For people. Texts that differ in numbers alone, as a distance or a stamp, are one kind: notes stay few."""
        kind = re.sub(r"\d+", "", text)
        if kind not in self.notes and len(self.notes) >= _KINDS:
            kind, text = "", f"a note of another kind than these {_KINDS}"
        first, times = self.notes.get(kind, (text, 0))
        self.notes[kind] = (first, times + 1)
