"""The detector in a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ANSWER_TIMEOUT = 30.0  # seconds; ends a hung test, no test measures by it


def options(**parameters: Any) -> list[str]:
    """Parameters as arguments of the command line."""
    words = {True: "true", False: "false"}
    texts = {
        name: words[value]
        if isinstance(value, bool)
        else "[" + ",".join(map(str, value)) + "]"
        if isinstance(value, (list, tuple))
        else str(value)
        for name, value in parameters.items()
    }
    return [word for name, text in texts.items() for word in ("-p", f"{name}:={text}")]


class DetectorProcess:
    """The detector as a user starts it; its log goes to a file that a failing test can show."""

    def __init__(self, log: Path, *arguments: str):
        self.log = log
        self._file = open(log, "wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flowclas_ros.node.detector_node", "--ros-args", *arguments],
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    @property
    def text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text(errors="replace")

    def threads(self) -> list[str]:
        """Names of the process's threads that are the worker's, by the kernel's count."""
        names = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
                names.append((task / "comm").read_text().strip())
        return names

    def memory(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self) -> int:
        """End it as Ctrl-C does; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(ANSWER_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._file.close()
        return self.process.returncode
