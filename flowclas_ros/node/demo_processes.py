"""The demo's processes: each with a log of its own, all of them ended when the demo is."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flowclas_ros.errors import FlowclasError

GRACE = 5.0  # seconds from SIGTERM to SIGKILL


class Start:
    """Starts processes; each logs to a file of its own."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen] = []
        self.logs: dict[int, Path] = {}

    def __call__(self, module: str, *arguments: str, log: Path, pipe: bool = False) -> subprocess.Popen:
        """Start `python -m flowclas_ros.<module> <arguments>`; `pipe`: its stdout is read by the caller."""
        with open(log, "wb") as file, _interrupts_held_back():
            process = subprocess.Popen(
                [sys.executable, "-m", f"flowclas_ros.{module}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else file,
                stderr=file,
                text=True,
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
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is over: within Popen they would lose a process that has begun."""
    waiting: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    caught = {number: handler for number, handler in handlers.items() if callable(handler)}  # not those ignored
    for number in caught:
        signal.signal(number, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)
        for late in waiting:
            signal.raise_signal(late)


@contextmanager
def processes() -> Iterator[Start]:
    """A starter whose processes have all ended when the block does, however it ends."""
    start = Start()
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


def lines(stream: IO[str] | None) -> Iterator[str]:
    """What a process printed, without empty lines."""
    for line in stream or ():
        if line.strip():
            yield line.strip()
