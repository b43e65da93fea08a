"""`flowclas demo`: camera, detector and listener as processes of one real ROS 2 graph, then a table and pictures.

Without a checkpoint a small one is fitted first, on roads that the demo draws. Everything runs under the namespace
/flowclas_demo, on this machine alone unless the environment says otherwise, so that no robot takes it for a camera.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.environment import settings_for_large_images

NAMESPACE = "/flowclas_demo"
FALSE_ALARM_RATE = 0.0005  # share of the pixels of normal scenes, for the checkpoint fitted here
MIN_AREA = 150  # pixels
START_TIMEOUT = 180.0  # seconds: importing torch and loading a large checkpoint on a busy machine
LAST_FRAMES = 10.0  # seconds for what is under way when the camera stops
GRACE = 5.0  # seconds from SIGTERM to SIGKILL
PATIENCE = 60.0  # seconds that the stream may last beyond its length


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo. Returns 0; raises FlowclasError with one line for whatever went wrong."""
    options = parse(argv)
    for module in ("rclpy", "flowclas_ros.msg"):
        if not _there(module):
            raise FlowclasError(
                f"the demo needs ROS 2, and '{module}' is not to be had: run `make demo`, or source a "
                "ROS 2 workspace in which flowclas_ros is built"
            )
    if options.source and not Path(options.source).exists():
        raise FlowclasError(f"source '{options.source}' does not exist: give a bag, a folder of images or a video")
    if options.checkpoint and not Path(options.checkpoint).is_file():
        raise FlowclasError(f"checkpoint '{options.checkpoint}' does not exist: leave it out to fit one on drawn roads")
    options.output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.update(settings_for_large_images(os.environ))
    # three processes share the cores: idle OpenMP threads must not spin on them
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with processes(options.output) as start:
            run(options, start, Console())
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="flowclas demo",
        description="A detector in a real ROS 2 graph on a camera stream; ends by itself with a table and pictures.",
    )
    parser.add_argument("--checkpoint", help="checkpoint to detect with; without: a small one is fitted on drawn roads")
    parser.add_argument("--source", help="bag, folder of images, video or image; without: a drawn road")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for pictures and logs")
    parser.add_argument("--seconds", type=_positive, default=20.0, help="length of the stream")
    parser.add_argument("--rate", type=_positive, default=10.0, help="frames a second")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    return parser.parse_args(argv)


class Start:
    """Starts the demo's processes; each logs to a file of its own in the output folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.running: list[subprocess.Popen] = []
        self.logs: dict[int, Path] = {}

    def __call__(self, name: str, *arguments: str, pipe: bool = False, **environment: str) -> subprocess.Popen:
        """Start `python -m flowclas_ros.node.<name> <arguments>`; `pipe`: its stdout is read by the caller."""
        log = self._folder / f"{name}.log"
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", f"flowclas_ros.node.{name}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else file,
                stderr=file,
                text=True,
                env={**os.environ, **environment},
            )
        self.running.append(process)
        self.logs[process.pid] = log
        return process

    def check(self, process: subprocess.Popen, name: str) -> None:
        """Raise FlowclasError when the process has ended with an error."""
        if process.poll():
            raise self.failure(process, f"the {name} ended with status {process.returncode}")

    def failure(self, process: subprocess.Popen, what: str) -> FlowclasError:
        """One line: what happened, the process's last words, where its log is."""
        log = self.logs[process.pid]
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        reason = lines[-1].split("]: ")[-1].removeprefix("error: ") if lines else "it said nothing"
        return FlowclasError(f"{what}: {reason} (log: {log})")


@contextmanager
def processes(folder: Path) -> Iterator[Start]:
    """A starter whose processes have all ended when the block does, however it ends."""
    start = Start(folder)
    try:
        yield start
    finally:
        stop(start.running)


def stop(running: list[subprocess.Popen]) -> None:
    """SIGTERM, and SIGKILL for those that have not ended after GRACE seconds."""
    for process in running:
        if process.poll() is None:
            process.terminate()
    for process in running:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def run(options: argparse.Namespace, start: Start, console: Console) -> None:
    """Fit if need be, stream, report."""
    from flowclas_ros.node import demo_report
    from flowclas_ros.node.demo_listener import Listener

    # the road is drawn ahead while the checkpoint is made or loaded
    checkpoint = options.checkpoint or fit(options, start, console)
    rate, seconds = str(options.rate), str(options.seconds)
    source = ["--source", options.source] if options.source else []
    camera = start(
        "camera",
        "--rate",
        rate,
        "--seconds",
        seconds,
        "--listeners",
        "2",
        *source,
        "--ros-args",
        "-r",
        f"__ns:={NAMESPACE}",
        pipe=True,
    )
    chosen = (
        [] if options.checkpoint else ["-p", f"false_alarm_rate:={FALSE_ALARM_RATE}", "-p", f"min_area:={MIN_AREA}"]
    )
    detector = start(
        "detector_node",
        "--ros-args",
        "-r",
        f"__ns:={NAMESPACE}",
        "-p",
        f"checkpoint:={checkpoint}",
        "-p",
        f"device:={options.device}",
        "-p",
        "forget_frames:=1",  # the table counts what is seen, not what is held
        *chosen,
    )
    listener = Listener(NAMESPACE, round(options.rate * options.seconds))
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
    outcome = demo_report.Outcome(
        listener.frames, sent, state.frames_received, state.frames_processed, state.frames_dropped
    )
    console.print(demo_report.table(outcome))
    for path in demo_report.write_pictures(outcome, options.output):
        console.print(f"wrote {path}")


def fit(options: argparse.Namespace, start: Start, console: Console) -> Path:
    """A checkpoint fitted on drawn roads, in the output folder."""
    checkpoint: Path = options.output / "demo.safetensors"
    console.print("no checkpoint given: fitting a small one on drawn roads, about a minute")
    process = start("demo_fit", str(checkpoint), pipe=True, **({} if hub_reachable() else {"HF_HUB_OFFLINE": "1"}))
    for line in _lines(process.stdout):
        console.print(f"  {line}", highlight=False)
    process.wait()
    start.check(process, "fit")
    console.print(f"  wrote {checkpoint} (use it again with --checkpoint)", highlight=False)
    return checkpoint


def watch(listener, camera, detector, start: Start, options: argparse.Namespace, console: Console) -> int:  # type: ignore[no-untyped-def]
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
        sent = int(json.loads(list(_lines(camera.stdout))[-1])["sent"])

        def through() -> bool:
            state = listener.last_state
            return state is not None and state.frames_received == state.frames_processed + state.frames_dropped

        try:
            listener.spin_until(through, look, LAST_FRAMES, "the last frame")
        except FlowclasError:
            start.check(detector, "detector")  # else a frame is stuck: the table shows it as missing
    return sent


def hub_reachable() -> bool:
    """Whether a name look-up and a connection to timm's hub succeed: its own retries take most of a minute."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError:
        return False
    return True


def _lines(stream: IO[str] | None) -> Iterator[str]:
    for line in stream or ():
        if line.strip():
            yield line.strip()


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
