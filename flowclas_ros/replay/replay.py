"""`flowclas replay`: recorded bags through the very detector of the node, to a verdict.

Exit status: 0; 1 when a requirement does not hold; 2 when a bag cannot be read, or anything else goes wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from flowclas_ros.detection.images import files_below, write_json
from flowclas_ros.errors import FlowclasError
from flowclas_ros.progress import progress_bar
from flowclas_ros.replay.annotated import DEFAULT_OUTPUTS, OUTPUTS
from flowclas_ros.replay.cameras import cameras_of
from flowclas_ros.replay.frames import BAG_SUFFIXES
from flowclas_ros.replay.one_bag import Result, provenance
from flowclas_ros.replay.pages import number
from flowclas_ros.replay.requirements import line, parse
from flowclas_ros.replay.run_bag import ANNOTATED, Job, finished
from flowclas_ros.replay.settings import add_setting_arguments, read_settings
from flowclas_ros.replay.workers import Outcome, in_parallel, in_turn

_SHOWN = ("frames", "broken_frames", "hazard_frames", "peak_max", "latency_p50_ms", "auprc", "fpr95")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options, beside those that name the checkpoint and the device."""
    several: dict[str, Any] = {"action": "append", "default": [], "metavar": "TOPIC"}
    parser.add_argument(
        "bags",
        nargs="+",
        type=Path,
        metavar="BAG",
        help="rosbag2 folder, .mcap, .db3 or .bag file, or a folder that holds several",
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="folder for the results; with several bags, a sub-folder for each"
    )
    parser.add_argument("--workers", type=int, default=1, help="bags to replay at the same time (default: %(default)s)")
    parser.add_argument(
        "--topic", **several, help="image topic, if a bag has several; repeat it, or write a,b, for several cameras"
    )
    parser.add_argument(
        "--depth-topic", **several, help="depth registered to the image, one per --topic; gives hazards a position"
    )
    parser.add_argument("--camera-info-topic", **several, help="if it is not beside the image topic")
    parser.add_argument("--keep", **several, help="another input topic to copy to the annotated bag")
    parser.add_argument("--with-score", action="store_true", help="also write the float32 score to the annotated bag")
    parser.add_argument("--video", action="store_true", help="also write overlay.mp4")
    truth = parser.add_mutually_exclusive_group()
    truth.add_argument("--masks", type=Path, help="folder of masks (0, 1, 255), named by frame index or stamp in ns")
    truth.add_argument("--mask-topic", **several, help="mono8 masks with the stamps of their frames, one per --topic")
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="'fpr95<=0.1'",
        help="requirement; the exit status is 1 if it does not hold (repeatable)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replay finished bags again")
    add_setting_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Replay as asked; the exit status. Raises FlowclasError when nothing can be replayed at all."""
    bags = _find_bags(arguments.bags)
    several = len(bags) > 1 or arguments.bags != bags
    job = _job(arguments, quiet=several and arguments.workers > 1)
    if job.masks is not None and (several or len(job.cameras) > 1):
        raise FlowclasError("--masks belongs to one bag and one topic: replay them one by one, or use --mask-topic")
    if arguments.workers < 1:
        raise FlowclasError(f"--workers {arguments.workers} is below 1: 1 replays the bags one after the other")
    tasks = dict(zip(bags, _folders(bags, arguments.output, several), strict=True))
    outcomes: dict[Path, Outcome] = {}
    if job.quiet:
        with progress_bar("replay", len(bags), "bags") as advance:
            for bag, outcome in in_parallel(tasks, job, min(arguments.workers, len(bags))):
                outcomes[bag] = outcome
                _tell(bag, outcome)
                advance()
    else:
        for bag, outcome in in_turn(tasks, job):
            outcomes[bag] = outcome
            _tell(bag, outcome)
    if several or len(job.cameras) > 1:
        _summarise({bag: outcomes[bag] for bag in bags}, arguments.output)
    if any(isinstance(outcome, FlowclasError) for outcome in outcomes.values()):
        return 2
    return 0 if all(one["met"] for result in _results(outcomes) for one in result["requirements"]) else 1


def _find_bags(paths: list[Path]) -> list[Path]:
    """The bags that `paths` name: each a bag, or a folder that is searched for some; a replay's results are none.
    Raises FlowclasError for a folder without.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir() or (path / "metadata.yaml").is_file():
            found.append(path)
            continue
        # hidden is what a killed run left behind, or a simulation has not done with
        files = [file for file in files_below(path) if not file.name.startswith(".")]
        folders = {file.parent for file in files if file.name == "metadata.yaml"}
        bags = [file for file in files if file.suffix.lower() in BAG_SUFFIXES and file.is_file()]
        loose = [bag for bag in bags if not folders & set(bag.parents) and not _is_result(bag)]
        if not folders and not loose:
            raise FlowclasError(f"folder {path} holds no bag: give rosbag2 folders, .mcap, .db3 or .bag files")
        found += sorted([*folders, *loose])
    return list(dict.fromkeys(found))


def _is_result(file: Path) -> bool:
    """Whether it is a finished replay's annotated bag."""
    return file.name == ANNOTATED and bool(finished(file.parent))


def _job(arguments: argparse.Namespace, quiet: bool) -> Job:
    images, depths, infos, masks = (
        [topic for given in lists for topic in given.split(",") if topic]
        for lists in (arguments.topic, arguments.depth_topic, arguments.camera_info_topic, arguments.mask_topic)
    )
    settings = read_settings(arguments)
    with_masks = arguments.masks is not None or bool(masks)
    return Job(
        settings=settings,
        cameras=cameras_of(images, depths, infos, masks, settings.cameras),
        keep=tuple(arguments.keep),
        outputs=tuple(OUTPUTS) if arguments.with_score else DEFAULT_OUTPUTS,
        masks=arguments.masks,
        video=arguments.video,
        required=tuple(parse(text, with_masks) for text in arguments.require),
        overwrite=arguments.overwrite,
        quiet=quiet,
    )


def _tell(bag: Path, outcome: Outcome) -> None:
    """A bag's outcome, for people."""
    if isinstance(outcome, FlowclasError):
        text = " ".join(str(outcome).split())
        print(f"error: {text if str(bag) in text else f'bag {bag}: {text}'}", file=sys.stderr)
        return
    for result in outcome:
        figures = result["figures"]
        shown = "  ".join(f"{name} {number(figures[name])}" for name in _SHOWN if figures.get(name) is not None)
        print(f"{bag} {result['bag']['topic']}: {shown} -> {result['folder']}")
        if result.get("kept"):
            print("  finished before, kept (--overwrite replays it)")
        for one in result["broken"]:
            print(f"  broken: frame {one['index']}: {one['error']}")
        for note in result["notes"]:
            print(f"  note: {note}")
        for one in result["requirements"]:
            print(f"  {line(one)}")


def _folders(bags: list[Path], output: Path, several: bool) -> list[Path]:
    """Where each bag's results go; equal names are told apart by their parents'."""
    if not several:
        return [output]
    names = [bag.resolve().name if bag.is_dir() else bag.resolve().stem for bag in bags]  # run_2024.05.01 is a folder
    folders = []
    for bag, name in zip(bags, names, strict=True):
        parent = bag.resolve().parent.name
        folders.append(output / (name if names.count(name) == 1 else f"{parent}_{name}"))
    for folder, bag in zip(folders, bags, strict=True):
        if folders.count(folder) > 1:
            raise FlowclasError(f"bag {bag} shares its name and its parent's with another: replay them one by one")
    return folders


def _results(outcomes: dict[Path, Outcome]) -> list[Result]:
    return [result for outcome in outcomes.values() if not isinstance(outcome, FlowclasError) for result in outcome]


def _summarise(outcomes: dict[Path, Outcome], output: Path) -> None:
    """A line for each bag and camera on stdout, and all of it in summary.json."""
    rows: list[tuple[str, ...]] = [("bag", "topic", *_SHOWN, "verdict")]
    plain: dict[str, Any] = {}
    for bag, outcome in outcomes.items():
        if isinstance(outcome, FlowclasError):
            plain[str(bag)] = {"error": str(outcome)}
            rows.append((bag.name, "-", *("-" for _ in _SHOWN), "ERROR"))
            continue
        names = ("folder", "figures", "requirements", "notes")
        plain[str(bag)] = {one["bag"]["topic"]: {name: one[name] for name in names} for one in outcome}
        for one in outcome:
            failed = [check["requirement"] for check in one["requirements"] if not check["met"]]
            verdict = "FAILED " + ", ".join(failed) if failed else "ok"
            figures = (number(one["figures"].get(name)) for name in _SHOWN)
            rows.append((bag.name, one["bag"]["topic"], *figures, verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    write_json(output / "summary.json", {"bags": plain, **provenance()})
