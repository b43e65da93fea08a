"""`flowclas replay` by the node's parameter file and the command line."""

from __future__ import annotations

import pytest
from replay_support import TOPIC, frames, metrics, replay
from test_frames import record


@pytest.fixture
def bag(tmp_path):
    return record(tmp_path / "drive", {TOPIC: frames()})


def test_the_nodes_parameter_file_rules_the_replay_where_the_command_line_is_silent(tmp_path, checkpoint, bag):
    params = tmp_path / "params.yaml"
    lines = ("confirm_frames: 2", "smoothing: 1", "min_area: 5", "precision: bf16", "device: cpu")
    params.write_text("\n    ".join(["detector:\n  ros__parameters:", *lines]))
    assert replay(bag, checkpoint, tmp_path / "out", "--params", str(params), "--min-area", "9") == 0
    settings = metrics(tmp_path / "out")["settings"]
    assert (settings["confirm_frames"], settings["smoothing"], settings["min_area"]) == (2, 1.0, 9)
    assert (settings["precision"], metrics(tmp_path / "out")["model"]["device"]) == ("bf16", "cpu")
    assert replay(bag, checkpoint, tmp_path / "other", "--params", str(params), "--precision", "fp32") == 0
    assert metrics(tmp_path / "other")["settings"]["precision"] == "fp32"


def test_numbers_of_the_parameter_file_are_read_as_rclpy_reads_them(tmp_path, checkpoint, bag):
    params = tmp_path / "params.yaml"
    lines = "false_alarm_rate: 2e-3\n    region_of_interest: [0.0, 5e-1, 1, 1.0]\n"
    params.write_text(f"detector:\n  ros__parameters:\n    {lines}")
    assert replay(bag, checkpoint, tmp_path / "out", "--params", str(params)) == 0
    settings = metrics(tmp_path / "out")["settings"]
    assert settings["false_alarm_rate_asked"] == 0.002 and settings["region_of_interest"] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("confirm_frames: many", "confirm_frames is 'many', where 1 is of the right kind"),
        ("confirm_frames: true", "confirm_frames is True"),
        ("smoothing: [1.0]", "smoothing is [1.0], where 0.0"),
        ("region_of_interest: [0.0, low, 1.0, 1.0]", "'low', 1.0, 1.0], where [0.0, 0.0, 1.0, 1.0] is"),
        ("region_of_interest: 5e-1", "region_of_interest is '5e-1'"),
        ("cameras: [1]", "cameras is [1]"),
    ],
)
def test_a_parameter_of_another_kind_is_one_line(tmp_path, checkpoint, bag, capsys, line, words):
    params = tmp_path / "params.yaml"
    params.write_text(f"detector:\n  ros__parameters:\n    {line}\n")
    assert replay(bag, checkpoint, tmp_path / "out", "--params", str(params)) == 2
    assert words in (error := capsys.readouterr().err) and error.count("\n") == 1
