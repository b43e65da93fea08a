"""How launches end: with the bag, in one line and an exit status, nothing left running; where launch is installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    "launch_ros", reason="launch_ros is not installed (not on PyPI; apt install ros-$ROS_DISTRO-launch-ros)"
)

from node_support import LOAD_TIMEOUT

pytestmark = pytest.mark.alone

LAUNCH = Path(__file__).resolve().parent.parent / "launch"
AS_ROS2_LAUNCH = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

arguments = [word.split(":=", 1) for word in sys.argv[2:]]
service = LaunchService(noninteractive=True)
service.include_launch_description(
    IncludeLaunchDescription(PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=arguments)
)
sys.exit(service.run())
"""


def launched(folder, name, player_status=0, **arguments):
    """The exit status and the words of launch/<name>.launch.py; it and all that it started end in time.

    `ros2 bag play` is a stand-in that plays nothing and exits with `player_status`.
    """
    player = folder / "ros2"
    player.write_text(f"#!/bin/sh\nexit {player_status}\n")
    player.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", AS_ROS2_LAUNCH, LAUNCH / f"{name}.launch.py"]
        + [f"{argument}:={value}" for argument, value in arguments.items()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "ROS_LOG_DIR": str(folder)},
    )
    try:
        words, _ = process.communicate(timeout=LOAD_TIMEOUT)  # until the last process has closed its output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"still running: {process.communicate()[0]}")
    return process.returncode, words


@pytest.mark.parametrize(
    ("player_status", "words"), [(0, "finished cleanly"), (1, "launch (see debug for traceback): the bag could not be")]
)
def test_a_replay_ends_with_the_bag_and_fails_if_that_cannot_be_played(tmp_path, checkpoint, player_status, words):
    status, text = launched(
        tmp_path, "replay", player_status, bag=tmp_path, checkpoint=checkpoint, rviz="false", device="cpu"
    )
    assert words in text and status == player_status
    assert text.count("Caught exception") == player_status


def test_a_replay_fails_in_one_line_if_the_detector_cannot_start(tmp_path):
    status, text = launched(tmp_path, "replay", bag=tmp_path, checkpoint=tmp_path / "none.safetensors", rviz="false")
    assert status == 1 and "not configured: checkpoint" in text
    assert "the detector has failed, see above" in text and text.count("Caught exception") == 1


def test_the_launch_does_not_wait_for_a_detector_that_has_died(tmp_path):
    parameters = tmp_path / "mistyped.yaml"
    parameters.write_text("/**: {ros__parameters: {min_area: many}}")
    _, text = launched(tmp_path, "detect", params_file=parameters)
    assert "min_area" in text and "process has died" in text and "Caught exception" not in text


@pytest.mark.parametrize("name", ["detect", "servo_guard", "autoware"])
@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("params_file", "none.yaml", "params_file:=none.yaml is not a file"),
        ("transport", "theora", "transport 'theora' is none of raw, compressed"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_left_running(tmp_path, name, argument, value, words):
    status, text = launched(tmp_path, name, **{argument: value})
    assert status == 1 and words in text and "Traceback" not in text
