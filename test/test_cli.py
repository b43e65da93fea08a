"""`flowclas` itself: what it imports, which command gets what, and how a failure of any of them ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowclas_ros import cli

ROOT = Path(__file__).parents[1]


def test_help_and_version_import_neither_torch_nor_opencv():
    code = (
        "import sys; from flowclas_ros import cli\n"
        "for argv in (['--help'], ['--version']):\n"
        "    try: cli.main(argv)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'cv2', 'numpy', 'lightning', 'rclpy'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_the_detection_room_imports_no_ros_and_no_training_framework():
    code = (
        "import sys, flowclas_ros.detection.detector, flowclas_ros.detection.images, flowclas_ros.detection.overlay\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not {'rclpy', 'sensor_msgs', 'lightning', 'pytorch_lightning', 'rosbags'} & loaded\n"
        "assert not any(name.startswith(('flowclas_ros.node', 'flowclas_ros.training')) for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize(("command", "module"), [("fit", "training.fit"), ("demo", "node.demo")])
def test_fit_and_demo_get_the_rest_of_the_line_untouched_and_their_status_is_returned(monkeypatch, command, module):
    seen: list[list[str]] = []

    class Fake:
        @staticmethod
        def main(argv: list[str]) -> int:
            seen.append(argv)
            return 3

    monkeypatch.setitem(sys.modules, f"flowclas_ros.{module}", Fake)
    assert cli.main([command, "--config", "a.yaml", "--help", "--x=1"]) == 3
    assert seen == [["--config", "a.yaml", "--help", "--x=1"]]


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (OSError(28, "No space left on device", "a/b.ckpt"), 2, "error: a/b.ckpt: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ModuleNotFoundError("No module named 'lightning'", name="lightning"), 2, "lightning"),
        (MemoryError(), 2, "error: out of memory"),
    ],
)
def test_failures_of_a_command_are_one_line(monkeypatch, capsys, failure, code, words):
    class Fake:
        @staticmethod
        def main(argv: list[str]) -> int:
            raise failure

    monkeypatch.setitem(sys.modules, "flowclas_ros.training.fit", Fake)
    assert cli.main(["fit"]) == code
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
