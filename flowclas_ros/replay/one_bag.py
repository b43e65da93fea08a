"""A bag's results: replayed, or found finished by an earlier run of the same bag, checkpoint and settings."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flowclas_ros
from flowclas_ros.detection.detector import Detector
from flowclas_ros.detection.images import list_images, write_bytes, write_json
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.self_mask import mask_file
from flowclas_ros.replay.annotated import prefix
from flowclas_ros.replay.camera_pass import CameraPass
from flowclas_ros.replay.cameras import Camera
from flowclas_ros.replay.recording import Recording, open_recording
from flowclas_ros.replay.report import page, with_verdict
from flowclas_ros.replay.run_bag import ANNOTATED, METRICS, REPORT, Job, finished, run_pass, staged

FORMAT = 2  # of metrics.json
_PLACES = {"masks", "self_mask"}  # settings that say where masks lay, which makes no difference to what they hold
Result = dict[str, Any]  # what metrics.json holds of one camera, with "folder", and "kept" where it is an earlier one's


def replay_bag(bag: Path, folder: Path, detector: Detector, job: Job) -> list[Result]:
    """The results of every camera, in `folder` or, by name, in folders below it. Raises FlowclasError."""
    with open_recording(bag, job.cameras, job.keep) as recording:
        asked = {camera: _asked(recording, camera, detector, job) for camera in recording.cameras}
        places = {camera: folder / camera.name for camera in asked}
        there = finished(folder)
        if there and not job.overwrite:
            if there.issuperset(places.values()):
                return [_finished(place, asked[camera], job) for camera, place in places.items()]
            other = min(there.difference(places.values()) or there)
            raise FlowclasError(
                f"{other} holds a finished replay, of another choice of cameras: give --overwrite, or another --output"
            )
        with staged(folder, [camera.name for camera in asked]) as stage:
            passes = run_pass(detector, job, recording, stage)
            results = [_result(one, asked[one.camera], job, stage) for one in passes]
    return [{**result, "folder": str(folder / camera.name)} for camera, result in zip(asked, results, strict=True)]


def provenance() -> dict[str, Any]:
    """Versions, machine, date and command."""
    names = ("torch", "numpy", "rosbags")
    return {
        "versions": {
            "flowclas_ros": flowclas_ros.__version__,
            **{name: version(name) for name in names},
            "python": platform.python_version(),
        },
        "machine": platform.machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
    }


def _result(one: CameraPass, asked: dict[str, Any], job: Job, stage: Path) -> Result:
    """Judged, and written as report and metrics.json below `stage`."""
    figures = one.tally.figures()
    notes = [text + (f" (first of {times})" if times > 1 else "") for text, times in one.notes.values()]
    truth: dict[str, Any] = {}
    if one.judgement is not None:
        figures.update(one.judgement.figures())
        if "pixels_note" in figures:  # why there is no AUPRC
            notes.append(figures["pixels_note"])
        truth = {"objects": one.judgement.objects(), "calibration": one.judgement.calibration()}
    result = {
        **asked,
        "figures": figures,
        **truth,
        "requirements": [requirement.check(figures) for requirement in job.required],
        "broken": one.tally.broken,
        "notes": notes,
        **provenance(),
    }
    curves = None if one.judgement is None or figures["auprc"] is None else one.judgement.pixels.curves()
    write_bytes(stage / one.camera.name / REPORT, page(result, one.tally, curves).encode(errors="backslashreplace"))
    write_json(stage / one.camera.name / METRICS, result)
    return result


def _asked(recording: Recording, camera: Camera, detector: Detector, job: Job) -> dict[str, Any]:
    """What the result depends on: a finished one stands as long as all of this is the same."""
    settings = job.settings
    names = ["min_area", "hysteresis", "region_of_interest", "self_mask", "smoothing", "confirm_frames"]
    names += ["forget_frames", "drift_window", "precision"]
    if camera.depth is not None:
        names += ["depth_slop", "depth_queue", "depth_wait"]
    chosen = {name: getattr(settings, name) for name in names}
    return {
        "format": FORMAT,
        "bag": recording.identity(camera),
        "annotated": {
            "file": f"../{ANNOTATED}" if camera.name else ANNOTATED,  # as seen from metrics.json
            "topics": prefix(camera),
        },
        "model": {
            "name": detector.header.get("name", ""),
            "sha256": detector.header.get("sha256", ""),
            "checkpoint": settings.checkpoint,
            "device": detector.device,
        },
        "settings": {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()},
            "false_alarm_rate_asked": detector.false_alarm_rate,
            "threshold_used": detector.threshold,
            "threshold_guaranteed": detector.guaranteed,
            "masks": None if job.masks is None else str(job.masks),
            "mask_topic": camera.mask,
            **_masks_digests(camera, job),
            "outputs": list(job.outputs),
            "keep": list(job.keep),
            "video": job.video,
        },
    }


def _masks_digests(camera: Camera, job: Job) -> dict[str, str]:
    """A digest of what the masks hold, by name; of those that were given alone, so that earlier results without any
    still stand. Raises FlowclasError for one that cannot be read.

    By content and not by times: a folder that was copied is the same ground truth, a pixel that was mended is not, and
    masks are small beside the frames that a finished result saves.
    """
    digests = {}
    try:
        if job.masks is not None:
            digests["masks_sha256"] = _digest(list_images(job.masks), job.masks)
        if job.settings.self_mask:
            path = mask_file(job.settings.self_mask, camera.name)
            digests["self_mask_sha256"] = _digest([path], path.parent)
    except OSError as error:
        raise FlowclasError(f"mask {error.filename} cannot be read: {error.strerror}") from error
    return digests


def _digest(files: list[Path], root: Path) -> str:
    """Of names and contents."""
    digest = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.read_bytes()).digest()
        digest.update(file.relative_to(root).as_posix().encode() + content)
    return digest.hexdigest()


def _finished(folder: Path, asked: dict[str, Any], job: Job) -> Result:
    """The result that is there, judged by today's requirements. Raises FlowclasError for one of something else."""
    way_out = "give --overwrite, or another --output"
    try:
        result: Result = json.loads((folder / METRICS).read_text())
        same = {
            "the format": result["format"] == asked["format"],
            "the bag": all(
                result["bag"][name] == asked["bag"][name]
                for name in ("sha256_of_ends", "topic", "depth_topic", "camera_info_topic")
            ),
            "the checkpoint": result["model"]["sha256"] == asked["model"]["sha256"],
        }
        if any(requirement.name.startswith("latency_") for requirement in job.required):
            same["the device"] = result["model"]["device"] == asked["model"]["device"]
        before, now = result["settings"], asked["settings"]
        names = {**before, **now}.keys() - _PLACES
        changed = sorted(name for name in names if before.get(name) != now.get(name))
        same[f"the settings ({', '.join(changed)})"] = not changed
        judged = [requirement.check(result["figures"]) for requirement in job.required]
        anew = judged not in ([], result["requirements"])
    except (ValueError, KeyError, TypeError) as error:
        raise FlowclasError(f"{folder / METRICS} is not one that this version wrote ({error}): {way_out}") from error
    other = [name for name, equal in same.items() if not equal]
    if other:
        raise FlowclasError(f"{folder} holds a finished replay, but {' and '.join(other)} changed since: {way_out}")
    result["requirements"] = judged
    if anew:
        try:
            _write_verdict(folder, result)
        except (OSError, FlowclasError) as error:  # somebody else's results, say
            result["notes"].append(f"the report and {METRICS} keep their earlier verdict: {error}")
    return {**result, "folder": str(folder), "kept": True}


def _write_verdict(folder: Path, result: Result) -> None:
    """Into the report and, last, into metrics.json, so that compare and people see the one that was told."""
    report = folder / REPORT
    if report.is_file():
        write_bytes(report, with_verdict(report.read_text(), result).encode(errors="backslashreplace"))
    write_json(folder / METRICS, result)
