"""Masks beside a bag: each to its frame, whatever of either is missing, and what a finished replay owes to them."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from node_support import picture
from replay_support import SECOND, TOPIC, frames, metrics, replay, truth
from rosbags import rosbag2
from test_frames import STORE, raw, record

from flowclas_ros.replay.cameras import Camera
from flowclas_ros.replay.frames import open_bag
from flowclas_ros.replay.masks import MaskTopic
from flowclas_ros.replay.recording import open_recording

TRUTH = "/truth"


def drive(path, a_lap, lost=(), broken=(), unlabelled=()):
    """A bag of three laps with the same stamps, `a_lap` frames of 0.1 s each; numbers of images that are missing, of
    those that are broken, and of frames without a mask. The mask of frame n has n + 1 anomalous pixels.
    """
    kind, period = "sensor_msgs/msg/Image", SECOND // 10
    with rosbag2.Writer(path, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        images, masks = (writer.add_connection(topic, kind, typestore=STORE) for topic in (TOPIC, TRUTH))
        for number in range(3 * a_lap):
            recorded, stamp = number * period, 5 * SECOND + number % a_lap * period
            image = raw(picture(0), "rgb8", stamp)
            if number in broken:
                image.step = 5
            mask = np.zeros((96, 128), np.uint8)
            mask.flat[: number + 1] = 1
            if number not in lost:
                writer.write(images, recorded, STORE.serialize_cdr(image, kind))
            if number not in unlabelled:
                writer.write(masks, recorded + 1, STORE.serialize_cdr(raw(mask, "mono8", stamp), kind))
    return path


@pytest.mark.parametrize(
    ("a_lap", "missing"),
    [
        (12, {"broken": {11}}),
        (30, {"lost": set(range(14, 33))}),  # more than are read ahead
        (12, {"unlabelled": {8, 9, 10, 11}}),
        (12, {"broken": {0, 5}, "lost": {11, 12}, "unlabelled": {7, 24}}),
        (5, {"broken": {4}}),  # a lap that is hardly longer than messages are late
    ],
)
def test_a_mask_goes_to_the_frame_of_its_lap_whatever_is_missing(tmp_path, a_lap, missing):
    bag = drive(tmp_path / "loop", a_lap, **missing)
    unseen, unlabelled = missing.get("lost", set()) | missing.get("broken", set()), missing.get("unlabelled", set())
    seen = [number for number in range(3 * a_lap) if number not in unseen]
    with open_recording(bag, (Camera("", TOPIC),)) as recording, open_bag(bag) as reader:
        masks = MaskTopic(reader, bag, TRUTH)
        found = [masks.of(recorded) for recorded in recording.read() if recorded.image is not None]
        assert masks.unused() == len(unseen - unlabelled)
    numbers = [None if mask is None else int(mask.sum()) - 1 for mask in found]
    assert numbers == [None if number in unlabelled else number for number in seen]


@pytest.mark.parametrize(("images", "masks"), [((0, 1, 2, 3), (0, 2, 1, 3)), ((0, 2, 1, 3), (0, 1, 2, 3))])
def test_a_message_that_is_a_little_out_of_order_has_its_partner_all_the_same(tmp_path, images, masks):
    stamps = [5 * SECOND + number * SECOND // 10 for number in range(4)]
    pixels = [np.zeros((96, 128), np.uint8) for _ in stamps]
    for number, mask in enumerate(pixels):
        mask.flat[: number + 1] = 1
    topics = {
        TOPIC: [raw(picture(0), "rgb8", stamps[number]) for number in images],
        TRUTH: [raw(pixels[number], "mono8", stamps[number]) for number in masks],
    }
    bag = record(tmp_path / "drive", topics)
    with open_recording(bag, (Camera("", TOPIC),)) as recording, open_bag(bag) as reader:
        found = MaskTopic(reader, bag, TRUTH)
        seen = [int(found.of(one).sum()) for one in recording.read() if one.image is not None]
    assert seen == [number + 1 for number in images] and found.unused() == 0


@pytest.mark.parametrize("kind", ["masks", "self_mask"])
def test_a_finished_replay_is_not_kept_for_masks_of_another_content(tmp_path, checkpoint, capsys, kind):
    bag = record(tmp_path / "drive", {TOPIC: frames()})
    mask = tmp_path / "masks" / "000003.png"
    mask.parent.mkdir()
    cv2.imwrite(str(mask), truth(3))
    options = ["--masks", str(mask.parent)]
    if kind == "self_mask":
        options = ["--params", str(tmp_path / "params.yaml")]
        (tmp_path / "params.yaml").write_text(f"detector:\n  ros__parameters:\n    self_mask: {mask}\n")
    assert replay(bag, checkpoint, tmp_path / "out", *options) == 0
    mask.touch()  # a copy, say
    assert replay(bag, checkpoint, tmp_path / "out", *options) == 0
    assert "finished before" in capsys.readouterr().out
    before = mask.stat()
    cv2.imwrite(str(mask), np.roll(truth(3), 8))
    os.utime(mask, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert replay(bag, checkpoint, tmp_path / "out", *options) == 2
    assert f"the settings ({kind}_sha256) changed since: give --overwrite" in capsys.readouterr().err
    mask.unlink()
    assert replay(bag, checkpoint, tmp_path / "out", *options) == 2
    assert str(mask if kind == "self_mask" else mask.parent) in capsys.readouterr().err


def test_false_alarms_a_minute_count_the_time_of_every_lap(tmp_path, checkpoint):
    stamps = [5 * SECOND + index % 3 * SECOND // 10 for index in range(6)]  # two laps of 0.2 s
    images = [raw(picture(index, anomaly=index >= 3), "rgb8", stamp) for index, stamp in enumerate(stamps)]
    masks = [raw(truth(0), "mono8", stamp) for stamp in stamps]
    bag = record(tmp_path / "loop", {TOPIC: images, TRUTH: masks})
    assert replay(bag, checkpoint, tmp_path / "out", "--topic", TOPIC, "--mask-topic", TRUTH) == 0
    figures = metrics(tmp_path / "out")["figures"]
    assert figures["labelled_frames"] == 6 and figures["false_alarm_episodes"] == 1
    assert figures["false_alarm_episodes_per_minute"] == pytest.approx(60 / 0.4)


def test_masks_of_0_and_255_are_told_to_ignore_what_they_mean_to_show(tmp_path, checkpoint, capsys):
    bag = record(tmp_path / "drive", {TOPIC: frames()})
    (tmp_path / "masks").mkdir()
    for index in range(6):
        cv2.imwrite(str(tmp_path / "masks" / f"{index}.png"), truth(index) * 255)
    assert replay(bag, checkpoint, tmp_path / "out", "--masks", str(tmp_path / "masks")) == 0
    assert "note: no pixel of the 6 mask(s) is labelled 1 (anomaly)" in capsys.readouterr().out
