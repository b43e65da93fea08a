"""`flowclas predict`: score, heat, mask and overlay files for every frame of an image, folder, video or bag."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from flowclas_ros.detection.detector import DEFAULT_FALSE_ALARM_RATE, DEFAULT_MIN_AREA, Detection, Detector
from flowclas_ros.detection.images import write_png, write_tiff
from flowclas_ros.detection.overlay import heat_image, overlay
from flowclas_ros.errors import FlowclasError
from flowclas_ros.progress import progress_bar
from flowclas_ros.replay.frames import Frame, count_frames, is_bag, iter_frames


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options, beside those that name the checkpoint and the device."""
    parser.add_argument("--input", required=True, type=Path, help="image, folder of images, video or rosbag")
    parser.add_argument("--output", required=True, type=Path, help="folder for the results; created if missing")
    parser.add_argument("--topic", help="image topic, if a bag has several")
    parser.add_argument(
        "--false-alarm-rate",
        type=float,
        default=DEFAULT_FALSE_ALARM_RATE,
        help="share of normal pixels that may be flagged (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold", type=float, help="score threshold in nats per dimension, instead of the false-alarm rate"
    )
    parser.add_argument(
        "--min-area", type=int, default=DEFAULT_MIN_AREA, help="smallest hazard in pixels (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Predict as asked; the exit status: 0, or 2 when a frame was broken.

    A broken frame is named on stderr and counted, and the others still run. Raises FlowclasError when the input or
    the checkpoint cannot be used at all, or a result cannot be written.
    """
    around = (arguments.output / "result").resolve().parents
    if arguments.input.is_dir() and not is_bag(arguments.input) and arguments.input.resolve() in around:
        raise FlowclasError(
            f"--output {arguments.output} lies in the folder that is read, where the next run would take the results "
            "for images: choose another place"
        )
    broken: list[str] = []
    done = hazards = 0

    def report(error: FlowclasError) -> None:
        broken.append(str(error))
        print(f"skipped: {error}", file=sys.stderr)
        advance()

    frames = iter_frames(arguments.input, arguments.topic, on_error=report)
    total = count_frames(arguments.input, arguments.topic)
    detector = Detector(
        arguments.checkpoint,
        device=arguments.device,
        precision=arguments.precision,
        false_alarm_rate=arguments.false_alarm_rate,
        threshold=arguments.threshold,
        min_area=arguments.min_area,
        backbone_weights=arguments.backbone_weights,
    )
    with progress_bar("predict", total, "frames") as advance:
        for frame in frames:
            detection = detector.detect(frame.image)
            write_results(arguments.output, frame, detection)
            done += 1
            hazards += bool(detection.regions)
            advance()
    print(f"{done} frame(s) to {arguments.output}, {hazards} with hazards; threshold {detector.threshold:.4g}")
    met = done + len(broken)
    if total is not None and met < total:  # OpenCV ends at what it cannot decode as if the video did
        print(f"note: {arguments.input} ended after {met} of the {total} frames that it announces", file=sys.stderr)
    if broken:
        print(f"error: {len(broken)} frame(s) of {arguments.input} could not be read, see above", file=sys.stderr)
        return 2
    return 0


def write_results(folder: Path, frame: Frame, detection: Detection) -> None:
    """Write `<name>_score.tiff`, `_heat.png`, `_mask.png` (0 or 255) and `_overlay.png` for one frame."""
    stem = folder / frame.name
    write_tiff(stem.with_name(f"{stem.name}_score.tiff"), detection.score)
    write_png(stem.with_name(f"{stem.name}_heat.png"), heat_image(detection.heat))
    write_png(stem.with_name(f"{stem.name}_mask.png"), detection.mask.astype(np.uint8) * 255)
    write_png(stem.with_name(f"{stem.name}_overlay.png"), overlay(frame.image, detection))
