"""What a replay's figures take from ground truth: what was searched, over the time that was judged."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from replay_support import TOPIC, frames, metrics, replay, truth
from test_frames import record

from flowclas_ros.detection.images import write_png


@pytest.fixture
def bag(tmp_path):
    return record(tmp_path / "drive", {TOPIC: frames()})


def test_what_is_not_searched_counts_neither_as_right_nor_as_wrong(tmp_path, checkpoint, bag):
    """The robot's own arm under its mask would else be a false alarm of every threshold."""
    write_png(tmp_path / "arm.png", truth(5) * np.uint8(255))
    (tmp_path / "params.yaml").write_text(f"detector:\n  ros__parameters:\n    self_mask: {tmp_path / 'arm.png'}\n")
    figures = []
    for name, arm in (("normal", 0), ("ignored", 255)):
        (tmp_path / name).mkdir()
        for index in range(6):
            mask = np.where(truth(index) == 1, arm, 0).astype(np.uint8)
            mask[0:24, 100:128] = 1
            cv2.imwrite(str(tmp_path / name / f"{index:06d}.png"), mask)
        options = ("--params", str(tmp_path / "params.yaml"), "--masks", str(tmp_path / name))
        assert replay(bag, checkpoint, tmp_path / "out" / name, *options) == 0
        figures.append(metrics(tmp_path / "out" / name)["figures"])
    for name in ("auprc", "auroc", "fpr95", "false_alarm_rate_observed"):
        assert figures[0][name] == figures[1][name]


def test_false_alarm_episodes_are_of_the_time_that_was_judged(tmp_path, checkpoint, bag):
    (tmp_path / "masks").mkdir()
    found = []
    for labelled in ((3, 5), (4,)):  # then with the frame between the two
        for index in labelled:
            cv2.imwrite(str(tmp_path / "masks" / f"{index:06d}.png"), np.zeros((96, 128), np.uint8))
        output = tmp_path / str(len(labelled))
        assert replay(bag, checkpoint, output, "--masks", str(tmp_path / "masks")) == 0
        found.append(metrics(output)["figures"])
    assert found[0]["false_alarm_episodes"] > 0 and found[0]["false_alarm_episodes_per_minute"] is None
    assert found[1]["false_alarm_episodes_per_minute"] == pytest.approx(found[1]["false_alarm_episodes"] * 60 / 0.2)
