"""`flowclas replay` by the node's parameter file and the command line."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from node_support import picture
from replay_support import STAMPS, TOPIC, frames, metrics, read, replay
from test_frames import raw, record

from flowclas_ros.detection.detector import Detector
from flowclas_ros.detection.images import write_png
from flowclas_ros.errors import FlowclasError


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


def test_frames_without_a_stamp_are_not_smoothed_as_in_the_node(tmp_path, checkpoint):
    bag = record(tmp_path / "drive", {TOPIC: [raw(picture(i, anomaly=i >= 3), "rgb8", 0) for i in range(6)]})
    for smoothing in (0, 1):
        params = tmp_path / "params.yaml"
        params.write_text(f"detector:\n  ros__parameters:\n    smoothing: {smoothing}\n")
        assert replay(bag, checkpoint, tmp_path / str(smoothing), "--params", str(params)) == 0
    rows = [list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in "01"]
    peaks = [[row["peak"] for row in of] for of in rows]
    assert peaks[0] == peaks[1] and float(peaks[0][3]) > float(peaks[0][0])
    assert any("cannot be smoothed over time" in note for note in metrics(tmp_path / "1")["notes"])


def test_a_frame_that_the_device_has_no_room_for_is_a_broken_one_and_the_others_are_searched(
    tmp_path, checkpoint, monkeypatch
):
    large = raw(np.zeros((200, 300, 3), np.uint8), "rgb8", STAMPS[2])
    bag = record(tmp_path / "drive", {TOPIC: [*frames()[:2], large, *frames()[3:]]})
    score_batch = Detector.score_batch

    def with_little_room(self, images):
        if images[0].shape[0] == 200:
            raise FlowclasError("out of memory for these frames")
        return score_batch(self, images)

    monkeypatch.setattr(Detector, "score_batch", with_little_room)
    assert replay(bag, checkpoint, tmp_path / "out") == 0
    figures = metrics(tmp_path / "out")["figures"]
    assert (figures["frames"], figures["broken_frames"]) == (5, 1)


def test_a_self_mask_that_is_not_used_is_told_in_the_recorded_state_too(tmp_path, checkpoint, bag):
    write_png(tmp_path / "mask.png", np.full((20, 50), 255, np.uint8))
    params = tmp_path / "params.yaml"
    params.write_text(f"detector:\n  ros__parameters:\n    self_mask: {tmp_path / 'mask.png'}\n")
    assert replay(bag, checkpoint, tmp_path / "out", "--params", str(params)) == 0
    states = [one for topic, _, one in read(tmp_path / "out" / "annotated.mcap") if topic.endswith("/state")]
    assert len(states) == 6 and all("differ in aspect, nothing is masked" in one.message for one in states)


def test_a_rate_on_the_command_line_goes_before_the_threshold_of_the_file(tmp_path, checkpoint, bag):
    params = tmp_path / "params.yaml"
    params.write_text("detector:\n  ros__parameters:\n    threshold: 5.0\n")
    options = ("--params", str(params))
    assert replay(bag, checkpoint, tmp_path / "file", *options) == 0
    assert replay(bag, checkpoint, tmp_path / "rate", *options, "--false-alarm-rate", "0.05") == 0
    of_file, of_rate = (metrics(tmp_path / name)["settings"] for name in ("file", "rate"))
    assert (of_file["threshold_used"], of_file["false_alarm_rate_asked"]) == (5.0, None)
    assert of_rate["false_alarm_rate_asked"] == 0.05 and of_rate["threshold_used"] != 5.0


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
