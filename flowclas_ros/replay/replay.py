"""`flowclas replay`: recorded bags through the very detector of the node, to a verdict.

Exit status: 0; 1 when a requirement does not hold; 2 when a bag cannot be read, or anything else goes wrong.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flowclas_ros
from flowclas_ros.detection.detector import Detector
from flowclas_ros.detection.images import write_bytes, write_json
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.parameters import Settings
from flowclas_ros.node.search import load
from flowclas_ros.replay.annotated import DEFAULT_OUTPUTS, OUTPUTS
from flowclas_ros.replay.recording import Recording, find_bags, open_recording
from flowclas_ros.replay.report import page
from flowclas_ros.replay.requirements import Requirement, line, parse
from flowclas_ros.replay.run_bag import METRICS, REPORT, Job, run_pass, staged
from flowclas_ros.replay.settings import add_setting_arguments, read_settings

FORMAT = 1  # of metrics.json
_SHOWN = ("frames", "broken_frames", "hazard_frames", "peak_max", "latency_p50_ms", "auprc", "fpr95")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options, beside those that name the checkpoint and the device."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="rosbag2, .mcap, .db3, .bag, or a folder")
    parser.add_argument("--output", required=True, type=Path, help="folder; with several bags a sub-folder each")
    parser.add_argument("--topic", help="image topic, where a bag has several")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="TOPIC", help="further input topic for the annotated bag"
    )
    parser.add_argument("--with-score", action="store_true", help="the annotated bag holds the float32 score too")
    parser.add_argument("--video", action="store_true", help="write overlay.mp4 too")
    truth = parser.add_mutually_exclusive_group()
    truth.add_argument("--masks", type=Path, help="folder of masks (0, 1, 255) named by frame index or stamp in ns")
    truth.add_argument("--mask-topic", help="topic of mono8 masks with the stamps of their frames")
    parser.add_argument(
        "--require", action="append", default=[], metavar="'fpr95<=0.1'", help="exit with 1 unless it holds"
    )
    parser.add_argument("--overwrite", action="store_true", help="replay what is finished again")
    add_setting_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Replay as asked; the exit status. Raises FlowclasError when nothing can be replayed at all."""
    with_masks = arguments.masks is not None or arguments.mask_topic is not None
    required = [parse(text, with_masks) for text in arguments.require]
    settings = read_settings(arguments)
    bags = find_bags(arguments.bags)
    outputs = tuple(OUTPUTS) if arguments.with_score else DEFAULT_OUTPUTS
    job = Job(arguments.topic, tuple(arguments.keep), outputs, arguments.masks, arguments.mask_topic, arguments.video)
    several = len(bags) > 1 or arguments.bags != bags
    if several and job.masks is not None:
        raise FlowclasError("--masks belongs to one bag: replay bags with masks one by one, or use --mask-topic")
    detector = load(settings)
    try:
        results = {}
        for bag, folder in zip(bags, _folders(bags, arguments.output, several), strict=True):
            results[bag] = _bag_or_error(bag, folder, detector, settings, job, required, arguments.overwrite)
    finally:
        detector.close()
    if several:
        _summarise(results, arguments.output)
    if any("error" in result for result in results.values()):
        return 2
    return 0 if all(one["met"] for result in results.values() for one in result["requirements"]) else 1


def _bag_or_error(
    bag: Path,
    folder: Path,
    detector: Detector,
    settings: Settings,
    job: Job,
    required: list[Requirement],
    overwrite: bool,
) -> dict[str, Any]:
    """metrics.json's content, or {"error": why}, printed: a bag that fails must not take the others with it."""
    try:
        result = _one(bag, folder, detector, settings, job, required, overwrite)
    except FlowclasError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return {"error": str(error)}
    figures = result["figures"]
    shown = "  ".join(f"{name} {_short(figures[name])}" for name in _SHOWN if figures.get(name) is not None)
    print(f"{bag}: {shown} -> {folder}")
    for one in result["broken"]:
        print(f"  broken: frame {one['index']}: {one['error']}")
    for note in result["notes"]:
        print(f"  note: {note}")
    for one in result["requirements"]:
        print(f"  {line(one)}")
    return result


def _one(
    bag: Path,
    folder: Path,
    detector: Detector,
    settings: Settings,
    job: Job,
    required: list[Requirement],
    overwrite: bool,
) -> dict[str, Any]:
    with open_recording(bag, job.topic, job.keep) as recording:
        asked = _asked(recording, detector, settings, job)
        if (folder / METRICS).is_file() and not overwrite:
            return _finished(folder, asked, required)
        with staged(folder) as stage:
            tally, done = run_pass(detector, settings, job, recording, stage, bag.name)
            figures = tally.figures()
            curves = None
            if done.judgement is not None:
                figures.update(done.judgement.figures())
                curves = done.judgement.pixels.curves() if figures["auprc"] is not None else None
            result = {
                **asked,
                "figures": figures,
                "requirements": [requirement.check(figures) for requirement in required],
                "broken": tally.broken,
                "notes": [text + (f" ({times} times)" if times > 1 else "") for text, times in done.notes.items()],
                **_provenance(),
            }
            write_bytes(stage / REPORT, page(result, tally, curves).encode())
            write_json(stage / METRICS, result)
    return result


def _asked(recording: Recording, detector: Detector, settings: Settings, job: Job) -> dict[str, Any]:
    """What the result depends on: a finished one stands as long as all of this is the same."""
    names = ("min_area", "hysteresis", "region_of_interest", "self_mask", "smoothing", "confirm_frames", "drift_window")
    chosen = {name: getattr(settings, name) for name in (*names, "forget_frames", "precision")}
    return {
        "format": FORMAT,
        "bag": recording.identity(),
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
            "mask_topic": job.mask_topic,
            "outputs": list(job.outputs),
            "keep": list(job.keep),
            "video": job.video,
        },
    }


def _finished(folder: Path, asked: dict[str, Any], required: list[Requirement]) -> dict[str, Any]:
    """The result that is there, judged by today's requirements. Raises FlowclasError for one of something else."""
    way_out = "give --overwrite, or another --output"
    try:
        result: dict[str, Any] = json.loads((folder / METRICS).read_text())
        same = {
            "the format": result["format"] == asked["format"],
            "the bag": result["bag"]["sha256_of_ends"] == asked["bag"]["sha256_of_ends"]
            and result["bag"]["topic"] == asked["bag"]["topic"],
            "the checkpoint": result["model"]["sha256"] == asked["model"]["sha256"],
            "the settings": result["settings"] == asked["settings"],
        }
        result["requirements"] = [requirement.check(result["figures"]) for requirement in required]
    except (ValueError, KeyError, TypeError) as error:
        raise FlowclasError(f"{folder / METRICS} is not one that this version wrote ({error}): {way_out}") from error
    other = [name for name, equal in same.items() if not equal]
    if other:
        raise FlowclasError(f"{folder} holds a finished replay, but {' and '.join(other)} changed since: {way_out}")
    print(f"{folder}: finished before, kept (--overwrite replays it)")
    return result


def _folders(bags: list[Path], output: Path, several: bool) -> list[Path]:
    """Where each bag's results go; equal names are told apart by their parents'."""
    if not several:
        return [output]
    names = [bag.resolve().stem for bag in bags]
    folders = []
    for bag, name in zip(bags, names, strict=True):
        parent = bag.resolve().parent.name
        folders.append(output / (name if names.count(name) == 1 else f"{parent}_{name}"))
    for folder, bag in zip(folders, bags, strict=True):
        if folders.count(folder) > 1:
            raise FlowclasError(f"bag {bag} shares its name and its parent's with another: replay them one by one")
    return folders


def _summarise(results: dict[Path, dict[str, Any]], output: Path) -> None:
    """A line a bag on stdout, and all of it in summary.json."""
    rows: list[tuple[str, ...]] = [("bag", *_SHOWN, "verdict")]
    for bag, result in results.items():
        figures = result.get("figures", {})
        failed = [one["requirement"] for one in result.get("requirements", []) if not one["met"]]
        verdict = "ERROR" if "error" in result else "FAILED " + ", ".join(failed) if failed else "ok"
        rows.append((bag.name, *(_short(figures.get(name)) for name in _SHOWN), verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    plain = {
        str(bag): {key: result[key] for key in ("error", "figures", "requirements") if key in result}
        for bag, result in results.items()
    }
    write_json(output / "summary.json", {"bags": plain, **_provenance()})


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _provenance() -> dict[str, Any]:
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
