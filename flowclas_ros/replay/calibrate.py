"""`flowclas calibrate`: a checkpoint's thresholds, heat and drift anew, from normal recordings of one's own robot.

The weights stay as they are. What is normal is shown by recordings of the camera, place and weather that the detector
is for, in the precision that it will run in.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Callable, Iterator
from itertools import chain, groupby
from pathlib import Path

import numpy as np

from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.images import write_png
from flowclas_ros.detection.overlay import contact_sheet, heat_image
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.errors import FlowclasError
from flowclas_ros.files import require_writable
from flowclas_ros.model.checkpoint import load_checkpoint, save_checkpoint
from flowclas_ros.progress import progress_bar
from flowclas_ros.replay.frames import Frame, OnError, count_frames, is_bag, iter_frames
from flowclas_ros.training.calibrate import software
from flowclas_ros.training.data import list_frames
from flowclas_ros.training.data_config import DataConfig

RATES = (1e-2, 1e-3, 1e-4)  # whose thresholds are told
SHOWN = 6  # frames of the highest scores, for the sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options, beside those that name the checkpoint and the device."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="folder of images, video or rosbag with nothing foreign in it"
    )
    parser.add_argument("--output", required=True, type=Path, help="the new checkpoint; a picture is written beside it")
    parser.add_argument("--topic", help="image topic, if a bag has several")
    parser.add_argument(
        "--sequence-regex", help="its first group in an image's file name names the scene (default: a folder is one)"
    )
    parser.add_argument(
        "--scene-block", type=int, help="consecutive frames that make a scene (default: all of a bag, video or folder)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Calibrate as asked; the exit status: 0, or 2 when a frame was broken, which is named and left out.

    Raises FlowclasError when a source or the checkpoint cannot be used at all, or nothing can be written.
    """
    output: Path = arguments.output
    if output.suffix != ".safetensors":
        raise FlowclasError(f"--output {output} is no .safetensors file, and a detector loads nothing else")
    require_writable(output)
    cut = DataConfig(sequence_regex=arguments.sequence_regex, scene_block=arguments.scene_block)
    broken: list[str] = []

    def report(error: FlowclasError) -> None:
        broken.append(str(error))
        print(f"skipped: {error}", file=sys.stderr)
        advance()

    opened = [open_source(Path(source), arguments.topic, cut, report) for source in arguments.sources]
    counts = [count for count, _ in opened]
    total = None if None in counts else sum(count or 0 for count in counts)
    scorer = Scorer(
        arguments.checkpoint,
        device=arguments.device,
        precision=arguments.precision,
        backbone_weights=arguments.backbone_weights,
    )
    with progress_bar("calibrate", total, "frames") as advance:
        seen = Seen(scorer, advance)
        calibration = Calibration.fit_with_drift(
            seen.scores(frames) for _, scenes in opened for frames in _filled(scenes)
        )
    before = scorer.header["calibration"]
    scorer.close()
    save(arguments, calibration, seen.count)
    write_png(output.with_suffix(".png"), seen.sheet(calibration))
    print(f"{output}: calibrated on {seen.count} frames of {calibration.scenes} scenes; the highest of them are in "
          f"{output.with_suffix('.png')}: is there nothing foreign?")  # fmt: skip
    print(table(None if before is None else Calibration.from_dict(before), calibration))
    if broken:
        print(f"error: {len(broken)} frame(s) could not be read, see above", file=sys.stderr)
        return 2
    return 0


def open_source(
    source: Path, topic: str | None, cut: DataConfig, on_error: OnError
) -> tuple[int | None, Iterator[Iterator[Frame]]]:
    """How many frames a source has, None where nobody knows, and those of each scene, to be read one after the other.

    Raises FlowclasError, before the long work, for a source that cannot be read, and for a sequence_regex that does
    not match a file's name.
    """
    if source.is_dir() and not is_bag(source):
        files = sorted(list_frames([str(source)], cut), key=lambda file: (file.scene, file.path))
        return len(files), (
            (frame for file in members for frame in iter_frames(file.path, on_error=on_error))
            for _, members in groupby(files, key=lambda file: file.scene)
        )
    topic = topic if is_bag(source) else None
    numbered = enumerate(iter_frames(source, topic, on_error=on_error))
    blocks = groupby(numbered, key=lambda one: one[0] // cut.scene_block if cut.scene_block else 0)
    return count_frames(source, topic), ((frame for _, frame in block) for _, block in blocks)


def _filled(scenes: Iterator[Iterator[Frame]]) -> Iterator[Iterator[Frame]]:
    """Without those of which no frame could be read."""
    for frames in scenes:
        first = next(frames, None)
        if first is not None:
            yield chain([first], frames)


class Seen:
    """Scores frames; keeps how many there were, and the few of the highest scores."""

    def __init__(self, scorer: Scorer, advance: Callable[[], None]) -> None:
        self.count = 0
        self._scorer, self._advance = scorer, advance
        self._highest: list[tuple[float, int, Frame, np.ndarray]] = []  # a heap: peak, number, frame, scores

    def scores(self, frames: Iterator[Frame]) -> Iterator[np.ndarray]:
        """Score maps (H, W) float32, nats per dimension, of a scene's frames."""
        for frame in frames:
            score = self._scorer.score_batch([frame.image])[0][0]
            heapq.heappush(self._highest, (float(score.max()), self.count, frame, score))
            if len(self._highest) > SHOWN:
                heapq.heappop(self._highest)
            self.count += 1
            self._advance()
            yield score

    def sheet(self, calibration: Calibration) -> np.ndarray:
        """The frames of the highest scores beside their heat, (H, W, 3) uint8 RGB."""
        rows = [
            [(frame.name, frame.image), (f"peak {peak:.2f}", heat_image(calibration.heat(score)))]
            for peak, _, frame, score in sorted(self._highest, key=lambda one: -one[0])
        ]
        return contact_sheet(rows, title="highest scores: normal?")


def save(arguments: argparse.Namespace, calibration: Calibration, frames: int) -> None:
    """Write the checkpoint with the new calibration; where that comes from joins its provenance."""
    loaded = load_checkpoint(arguments.checkpoint, backbone_weights=arguments.backbone_weights)
    about = {
        **software(),
        "from": {"name": loaded.header["name"], "sha256": loaded.header["sha256"]},
        "sources": arguments.sources,
        "frames": frames,
        "scenes": calibration.scenes,
        "precision": arguments.precision,
    }
    save_checkpoint(
        arguments.output,
        loaded.model,
        calibration=calibration.to_dict(),
        provenance={**loaded.header["provenance"], "calibrated": about},
        embed_backbone=loaded.header["backbone_embedded"],
    )


def table(before: Calibration | None, now: Calibration) -> str:
    """The thresholds of some rates, before and now, and what those of before would have flagged in these frames."""
    lines = ["false-alarm rate   threshold (nats per dimension)   guaranteed   flagged here by the one before"]
    for rate in RATES:
        old = None if before is None else before.threshold(rate)
        was, flagged = ("none", "") if old is None else (f"{old:.3f}", f"{now.share_above(old):.4%}")
        change = f"{was} -> {now.threshold(rate):.3f}"
        lines.append(f"{rate:<18g} {change:<32} {'yes' if now.guaranteed(rate) else 'no':<12} {flagged}".rstrip())
    lines.append(f"{now.scenes} scene(s) guarantee rates down to {now.lowest_guaranteed:.2g}")
    return "\n".join(lines)
