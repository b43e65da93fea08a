"""One bag through the detector, in one pass, to a folder of results that is whole or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flowclas_ros.detection.detector import Detector
from flowclas_ros.detection.interpreter import Finding, Interpreter
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.messages import state_fields
from flowclas_ros.node.parameters import Settings
from flowclas_ros.node.search import rules
from flowclas_ros.node.self_mask import SelfMask
from flowclas_ros.node.status import Scene, Status
from flowclas_ros.progress import progress_bar
from flowclas_ros.replay.annotated import AnnotatedBag, annotated_bag
from flowclas_ros.replay.frames import open_bag
from flowclas_ros.replay.recording import Recorded, Recording
from flowclas_ros.replay.tally import Tally
from flowclas_ros.replay.truth import Judgement, MaskFolder, Masks, MaskTopic
from flowclas_ros.replay.video import OverlayVideo

ANNOTATED, TABLE, REPORT, VIDEO, METRICS = "annotated.mcap", "metrics.csv", "report.html", "overlay.mp4", "metrics.json"


@dataclass(frozen=True)
class Job:
    """What is asked of every bag. masks, mask_topic: ground truth, at most one. outputs: of the annotated bag."""

    topic: str | None
    keep: tuple[str, ...]
    outputs: tuple[str, ...]
    masks: Path | None
    mask_topic: str | None
    video: bool


class Pass:
    """One bag's frames from message to finding, and to all that is made of it."""

    def __init__(self, detector: Detector, settings: Settings, tally: Tally, masks: Masks | None):
        self._detector, self._tally, self._masks = detector, tally, masks
        self._settings = settings
        self._interpreter = Interpreter(rules(settings))
        self._self_mask = SelfMask.from_setting(settings.self_mask, settings.cameras[0])
        self._status: Status | None = None
        self._warm = False
        self.judgement = None if masks is None else Judgement(detector)
        self.notes: dict[str, int] = {}  # what happened, and how often

    def frame(self, recorded: Recorded, bag: AnnotatedBag, video: OverlayVideo | None) -> None:
        """A frame, broken or not."""
        now = recorded.bag_ns * 1e-9
        self._status = self._status or Status(now)
        self._status.received(now)
        if recorded.image is not None and not self._warm:  # as the node does: the first frame pays no lazy start
            self._detector.warm_up(*recorded.image.shape[:2])
            self._warm = True
        start = time.perf_counter()
        try:
            finding = self._find(recorded)
        except FlowclasError as error:
            self._status.failed(f"frame not searched: {error}")
            self._tally.failed(recorded, str(error))
        else:
            self._conclude(recorded, finding, recorded.seconds + time.perf_counter() - start, self._status)
            bag.finding(recorded, finding)
            if video is not None:
                video.add(recorded, finding)
        level, text = self._status.verdict(now, self._settings.stale_after)
        scene = self._status.scene
        bag.state(recorded, scene and scene.header, state_fields(level, text, self._status, self._detector))

    def _find(self, recorded: Recorded) -> Finding:
        if recorded.image is None:
            raise FlowclasError(recorded.error)
        scores, stages = self._detector.score_batch([recorded.image])
        ignore = None
        if self._self_mask is not None:
            ignore, remark = self._self_mask.of(scores[0].shape, 0.0, self._settings.stale_after)
            if remark:
                self._note(remark)
        judged = self._interpreter.judge(self._detector, scores[0], stamp=recorded.stamp_ns, ignore=ignore)
        return self._interpreter.interpret(judged, stages, stamp=recorded.stamp_ns)

    def _conclude(self, recorded: Recorded, finding: Finding, latency: float, status: Status) -> None:
        if finding.notice:
            self._note(finding.notice)
        judged = finding.judged
        scene = Scene(
            header=recorded.message.header,
            hazards=len(finding.hazards),
            candidates=finding.candidates,
            anomalous_share=judged.anomalous_share,
            peak_score=judged.peak,
            nearest_range=float("nan"),
            latency=latency,
            timings=finding.timings,
            drift=judged.drift.statistic,
            drifted=judged.drift.drifted,
        )
        status.remark("drift", judged.drift.text)
        status.processed(recorded.bag_ns * 1e-9, scene)
        self._tally.frame(recorded, finding, scene.level.name, latency)
        if self._masks is None or self.judgement is None:
            return
        try:
            mask = self._masks.of(recorded)
        except FlowclasError as error:
            self._note(f"mask left out: {error}")
            return
        if mask is not None:
            self.judgement.add(mask, finding, recorded.stamp_ns)

    def _note(self, text: str) -> None:
        self.notes[text] = self.notes.get(text, 0) + 1


def run_pass(
    detector: Detector, settings: Settings, job: Job, recording: Recording, folder: Path, name: str
) -> tuple[Tally, Pass]:
    """The whole bag; annotated bag, table and video go to `folder`. Raises FlowclasError when it cannot be read."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(folder / TABLE, "w", newline=""))
        tally = Tally(file, recording.seconds)
        masks = _masks(job, recording, stack)
        one = Pass(detector, settings, tally, masks)
        bag = stack.enter_context(annotated_bag(folder / ANNOTATED, recording, job.outputs))
        video = stack.enter_context(OverlayVideo(folder / VIDEO, recording)) if job.video else None
        advance = stack.enter_context(progress_bar(name, recording.count, "frames"))
        for recorded in recording.read():
            bag.copy(recorded)
            if recorded.index is not None:
                one.frame(recorded, bag, video)
                advance()
        if not tally.stamps:
            first = f", the first: {tally.broken[0]['error']}" if tally.broken else ""
            raise FlowclasError(f"bag {recording.path}: none of {tally.broken_count} frames could be searched{first}")
        _check_masks(one, masks, tally)
    return tally, one


def _masks(job: Job, recording: Recording, stack: contextlib.ExitStack) -> Masks | None:
    if job.masks is not None:
        return MaskFolder(job.masks)
    if job.mask_topic is not None:
        return MaskTopic(stack.enter_context(open_bag(recording.path)), recording.path, job.mask_topic)
    return None


def _check_masks(one: Pass, masks: Masks | None, tally: Tally) -> None:
    if masks is None or one.judgement is None:
        return
    if one.judgement.frames == 0:
        why = next((note for note in one.notes if note.startswith("mask left out")), "")
        raise FlowclasError(
            why
            or "no mask matches a frame: masks are named by the frame's index (from 0) or by its stamp in ns, "
            "and on a topic they carry its stamp"
        )
    unused, without = masks.unused(), len(tally.stamps) - one.judgement.frames
    if unused:
        one.notes[f"{unused} mask(s) belong to no frame that was searched"] = 1
    if without:
        one.notes[f"{without} frame(s) have no usable mask"] = 1


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder to write to; its files are in `target` once the block ends well, metrics.json last.

    That file says that the results are whole: it goes first when earlier results are replaced.
    """
    stage = target / f".unfinished.{os.getpid()}"
    try:
        stage.mkdir(parents=True)
        yield stage
        (target / METRICS).unlink(missing_ok=True)
        for name in (ANNOTATED, TABLE, REPORT, VIDEO, METRICS):
            if (stage / name).exists():
                os.replace(stage / name, target / name)
            else:
                (target / name).unlink(missing_ok=True)  # of an earlier run, and not of this one
    except OSError as error:
        reason = error.strerror or error
        raise FlowclasError(f"cannot write to {target}: {reason}; free the disk or choose another place") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
