"""One bag through the detector, in one pass, to folders of results that are whole or not there."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flowclas_ros.detection.detector import Detector
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.diagnostics import PERIOD
from flowclas_ros.node.parameters import Settings
from flowclas_ros.progress import progress_bar
from flowclas_ros.replay.annotated import annotated_bag
from flowclas_ros.replay.camera_pass import Background, CameraPass, Sinks
from flowclas_ros.replay.cameras import Camera
from flowclas_ros.replay.frames import open_bag
from flowclas_ros.replay.masks import MaskFolder, Masks, MaskTopic
from flowclas_ros.replay.recording import Recording
from flowclas_ros.replay.requirements import Requirement
from flowclas_ros.replay.tally import Tally
from flowclas_ros.replay.video import OverlayVideo

ANNOTATED, TABLE, REPORT, VIDEO, METRICS = "annotated.mcap", "metrics.csv", "report.html", "overlay.mp4", "metrics.json"
_PER_CAMERA = (TABLE, REPORT, VIDEO, METRICS)  # metrics.json last: it says that the rest is whole


@dataclass(frozen=True)
class Job:
    """What is asked of every bag. masks: folder of ground truth, of a single camera. outputs: of the annotated bag."""

    settings: Settings
    cameras: tuple[Camera, ...]
    keep: tuple[str, ...]
    outputs: tuple[str, ...]
    masks: Path | None
    video: bool
    required: tuple[Requirement, ...]
    overwrite: bool
    quiet: bool  # no progress bar: several bags run at once


def run_pass(detector: Detector, job: Job, recording: Recording, folder: Path) -> list[CameraPass]:
    """The whole bag; annotated bag, tables and videos go to `folder`. Raises FlowclasError when it cannot be read."""
    with contextlib.ExitStack() as stack:
        bag = stack.enter_context(annotated_bag(folder / ANNOTATED, recording, job.outputs))
        background = Background()
        passes = []
        for camera in recording.cameras:
            own = folder / camera.name
            own.mkdir(exist_ok=True)
            tally = Tally(stack.enter_context(open(own / TABLE, "w", newline="")), recording.seconds)
            spaces = recording.count(camera) - 1
            rate = spaces / recording.seconds if spaces > 0 and recording.seconds > 0 else 10.0
            video = stack.enter_context(OverlayVideo(own / VIDEO, rate)) if job.video else None
            masks = _masks(job, camera, recording, stack)
            passes.append(CameraPass(camera, detector, job.settings, masks, Sinks(tally, bag, video, background)))
        stack.enter_context(background)  # after what it writes to, so that it is done before they close
        advance = None
        if not job.quiet:
            advance = stack.enter_context(progress_bar(recording.path.name, recording.count(), "frames"))
        said = -math.inf  # ns, when the diagnostics last were
        for recorded in recording.read():
            background.do(functools.partial(bag.copy, recorded))
            for one in passes:
                one.take(recorded)
            if recorded.bag_ns - said >= PERIOD * 1e9:
                if statuses := [status for one in passes for status in one.diagnostics()]:
                    said = recorded.bag_ns
                    background.do(functools.partial(bag.diagnostics, said, statuses))
            if advance is not None and recorded.index is not None:
                advance()
        for one in passes:
            one.end()
            _check(one, recording.path)
    for topic, count in bag.lost.items():  # all of it is written now
        for one in passes:
            one.notes[topic] = (
                f"{count} message(s) of {topic} are none of ROS 2's, so the annotated bag lacks them",
                1,
            )
    return passes


def _masks(job: Job, camera: Camera, recording: Recording, stack: contextlib.ExitStack) -> Masks | None:
    if job.masks is not None:
        return MaskFolder(job.masks)
    if camera.mask is not None:
        return MaskTopic(stack.enter_context(open_bag(recording.path)), recording.path, camera.mask)
    return None


def _check(one: CameraPass, bag: Path) -> None:
    """Raises FlowclasError when no frame was searched, or none against ground truth that was given."""
    tally = one.tally
    if not tally.stamps:
        first = f", the first: {tally.broken[0]['error']}" if tally.broken else ""
        of = f" on {one.camera.image}"
        raise FlowclasError(f"bag {bag}: none of {tally.broken_count} frames{of} could be searched{first}")
    if one.masks is None or one.judgement is None:
        return
    if one.judgement.frames == 0:
        why = next((text for text, _ in one.notes.values() if text.startswith("mask left out")), "")
        raise FlowclasError(
            why
            or "no mask matches a frame: masks are named by the frame's index (from 0) or by its stamp in ns, "
            "and on a topic they carry its stamp"
        )
    unused, without = one.masks.unused(), len(tally.stamps) - one.judgement.frames
    if unused:
        one.notes["unused"] = (f"{unused} mask(s) belong to no frame that was searched", 1)
    if without:
        one.notes["without"] = (f"{without} frame(s) have no usable mask", 1)


def finished(folder: Path) -> set[Path]:
    """Where whole results lie that the annotated bag in `folder` belongs to: there itself, or in a folder a camera."""
    below = {path.parent for path in folder.glob(f"*/{METRICS}") if not path.parent.name.startswith(".")}
    others = {place for place in below if (place / ANNOTATED).exists()}  # of bags of their own: a run of many
    return (below - others) | ({folder} if (folder / METRICS).is_file() else set())


@contextlib.contextmanager
def staged(target: Path, cameras: list[str]) -> Iterator[Path]:
    """A folder to write to; its files, with a sub-folder for each camera that has a name, are in `target` once the
    block ends well.

    metrics.json says that a camera's results are whole: it goes first when earlier ones are replaced, and comes last.
    Those of other cameras go altogether, since their annotated bag does.
    """
    stage = target / f".unfinished.{os.getpid()}"
    try:
        _sweep(target)
        stage.mkdir(parents=True)
        yield stage
        earlier = finished(target)
        for place in earlier:
            (place / METRICS).unlink(missing_ok=True)
        os.replace(stage / ANNOTATED, target / ANNOTATED)
        for place in earlier.difference(target / camera for camera in cameras):
            for name in _PER_CAMERA:
                (place / name).unlink(missing_ok=True)
        for camera in cameras:
            (target / camera).mkdir(exist_ok=True)
            for name in _PER_CAMERA:
                if (stage / camera / name).exists():
                    os.replace(stage / camera / name, target / camera / name)
                else:
                    (target / camera / name).unlink(missing_ok=True)  # of an earlier run, and not of this one
    except OSError as error:
        reason = error.strerror or error
        raise FlowclasError(f"cannot write to {target}: {reason}; free the disk or choose another place") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Take away what a run that was killed left behind."""
    for left in target.glob(".unfinished.*"):
        if not _other_runs(left.suffix[1:]):
            shutil.rmtree(left, ignore_errors=True)


def _other_runs(process: str) -> bool:
    """Whether another process than this has the id. One of our own was left behind: a process replays one bag at a
    time, and in a container every run may have the same id.
    """
    try:
        if int(process) == os.getpid():
            return False
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:  # somebody else's, and running
        return True
    return True
