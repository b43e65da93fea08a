"""`flowclas demo`: camera, detector and listener as processes of one real ROS 2 graph, then a table and pictures.

Without arguments the samples that ship are played, one after the other, with their ground truth beside; each is then
replayed to a report. Everything runs under the namespace /flowclas_demo, on this machine alone unless the environment
says otherwise, so that no robot takes it for a camera.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flowclas_ros import samples
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.demo_processes import Start, lines, processes
from flowclas_ros.node.environment import settings_for_large_images, settings_for_this_machine_alone

if TYPE_CHECKING:
    from flowclas_ros.node.demo_report import Outcome

NAMESPACE = "/flowclas_demo"
START_TIMEOUT = 180.0  # seconds: importing torch and loading a large checkpoint on a busy machine
LAST_FRAMES = 10.0  # seconds for what is under way when the camera stops
PATIENCE = 60.0  # seconds that the stream may last beyond its length


@dataclass(frozen=True)
class Act:
    """What is played with what. judged: a sample, whose bag holds the ground truth. folder: for pictures and logs."""

    name: str
    source: Path
    checkpoint: Path
    judged: bool
    folder: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo. Returns 0; raises FlowclasError with one line for whatever went wrong."""
    options = parse(argv)
    for module in ("rclpy", "flowclas_ros.msg"):
        if not _there(module):
            raise FlowclasError(
                f"the demo needs ROS 2, and '{module}' is not to be had: run `make demo`, or source a "
                "ROS 2 workspace in which flowclas_ros is built"
            )
    acts = plan(options)
    for act in acts:
        act.folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(settings_for_this_machine_alone(os.environ))
    os.environ.update(settings_for_large_images(os.environ))
    # three processes share the cores: idle OpenMP threads must not spin on them
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        run(options, acts, Console())
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="flowclas demo",
        description="Run a detector on a camera stream in a real ROS 2 graph. Ends with a table and pictures.",
    )
    parser.add_argument("--checkpoint", type=Path, help="checkpoint to detect with (default: the sample's own)")
    parser.add_argument("--source", type=Path, help="bag, folder of images, video or image (default: the samples)")
    parser.add_argument("--topic", help="image topic of a bag that has several")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for pictures and logs")
    parser.add_argument(
        "--seconds", type=_positive, default=samples.SECONDS, help="length of a stream (default: %(default)s)"
    )
    parser.add_argument("--rate", type=_positive, default=samples.RATE, help="frames per second (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    return parser.parse_args(argv)


def plan(options: argparse.Namespace) -> list[Act]:
    """What is to be played. Raises FlowclasError for paths that do not exist."""
    source, checkpoint, output = options.source, options.checkpoint, options.output
    if source is not None and not source.exists():
        raise FlowclasError(f"source '{source}' does not exist: give a bag, a folder of images or a video")
    if checkpoint is not None and not checkpoint.is_file():
        raise FlowclasError(f"checkpoint '{checkpoint}' does not exist: leave it out for the samples' own")
    if source is not None:
        if checkpoint is None:
            raise FlowclasError("--source needs --checkpoint, fitted on the source's world (`flowclas fit`)")
        return [Act(source.stem, source, checkpoint, False, output)]
    found = [samples.sample(domain) for domain in samples.DOMAINS]
    return [Act(one.domain, one.bag, checkpoint or one.checkpoint, True, output / one.domain) for one in found]


def run(options: argparse.Namespace, acts: list[Act], console: Console) -> None:
    """Play and replay every act; table and pictures."""
    from flowclas_ros.node import demo_report

    outcomes, figures = {}, {}
    for act in acts:
        console.print(f"[bold]{act.name}[/bold]: {act.source.name}, checkpoint {act.checkpoint.name}")
        outcomes[act.name] = play(options, act, console)
        if act.judged:
            figures[act.name] = replay(options, act, console)
    console.print(demo_report.table(outcomes, figures))
    for act in acts:
        for path in demo_report.write_pictures(outcomes[act.name], act.folder):
            console.print(f"wrote {path}", highlight=False)
    for act in acts:
        if act.judged:
            console.print(f"open {(act.folder / 'replay' / 'report.html').resolve()}", highlight=False, soft_wrap=True)


def play(options: argparse.Namespace, act: Act, console: Console) -> Outcome:
    """Stream the act's source into a live detector; what came of it."""
    from flowclas_ros.node.demo_listener import Listener
    from flowclas_ros.node.demo_report import Outcome

    listener = Listener(NAMESPACE, round(options.rate * options.seconds))
    with processes() as start:
        camera = start("node.camera", *_camera_arguments(options, act), log=act.folder / "camera.log", pipe=True)
        detector = start("node.detector_node", *_detector_arguments(options, act), log=act.folder / "detector_node.log")
        try:
            console.print("starting the detector ...")
            if not listener.start_detector(lambda: start.check(detector, "detector"), START_TIMEOUT):
                raise start.failure(detector, "the detector refused")
            sent = watch(listener, camera, detector, start, options, console)
            state = listener.last_state
        finally:
            listener.close()
        if state is None or not state.frames_processed:
            raise start.failure(detector, f"of {sent} frames none was processed")
    return Outcome(listener.frames, sent, state.frames_received, state.frames_processed, state.frames_dropped)


def _camera_arguments(options: argparse.Namespace, act: Act) -> list[str]:
    stream = ["--source", str(act.source), "--rate", str(options.rate), "--seconds", str(options.seconds)]
    chosen = ["--topic", options.topic] if options.topic else []
    topics = _topics() if act.judged else chosen
    return [*stream, *topics, "--listeners", "2", "--ros-args", "-r", f"__ns:={NAMESPACE}"]


def _topics() -> list[str]:
    """Of a sample's bag, for the camera and for `flowclas replay` alike."""
    return ["--topic", samples.IMAGE_TOPIC, "--mask-topic", samples.MASK_TOPIC]


def _detector_arguments(options: argparse.Namespace, act: Act) -> list[str]:
    parameters = {
        "checkpoint": act.checkpoint,
        "device": options.device,
        "forget_frames": 1,  # the table counts what is seen, not what is held
    }
    chosen = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    return ["--ros-args", "-r", f"__ns:={NAMESPACE}", *chosen]


def replay(options: argparse.Namespace, act: Act, console: Console) -> dict[str, Any]:
    """`flowclas replay` of the act's bag against its ground truth; its figures."""
    output = act.folder / "replay"
    arguments = [str(act.source), "--checkpoint", str(act.checkpoint), *_topics()]
    arguments += ["--output", str(output), "--device", options.device, "--overwrite"]
    with processes() as start, console.status("replaying the bag against its ground truth ..."):
        process = start("cli", "replay", *arguments, log=act.folder / "replay.log")
        process.wait()
        start.check(process, "replay")
    figures: dict[str, Any] = json.loads((output / "metrics.json").read_text())["figures"]
    return figures


def watch(
    listener: Any,
    camera: subprocess.Popen,
    detector: subprocess.Popen,
    start: Start,
    options: argparse.Namespace,
    console: Console,
) -> int:
    """Listen until the camera has sent its frames and the last of them are through; the number sent."""
    expected = round(options.rate * options.seconds)
    columns = (
        TextColumn("streaming"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} frames"),
        TimeRemainingColumn(),
    )

    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=expected)

        def look() -> None:
            start.check(detector, "detector")
            start.check(camera, "camera")
            if detector.poll() is not None:
                raise start.failure(detector, "the detector ended before the stream did")
            if listener.last_state is not None:
                progress.update(task, completed=listener.last_state.frames_received)

        listener.spin_until(
            lambda: camera.poll() is not None, look, options.seconds + START_TIMEOUT + PATIENCE, "the stream"
        )
        look()
        sent = int(json.loads(list(lines(camera.stdout))[-1])["sent"])

        def through() -> bool:
            state = listener.last_state
            return state is not None and state.frames_received == state.frames_processed + state.frames_dropped

        try:
            listener.spin_until(through, look, LAST_FRAMES, "the last frame")
        except FlowclasError:
            start.check(detector, "detector")  # else a frame is stuck: the table shows it as missing
    return sent


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FlowclasError as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(2)
