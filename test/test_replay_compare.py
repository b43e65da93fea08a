"""`flowclas compare`: two replays side by side."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest
from node_support import picture
from replay_support import STAMPS, TOPIC, frames, replay, truth
from rosbags import rosbag2
from test_frames import STORE, raw, record

from flowclas_ros.cli import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory, checkpoint):
    """The same bag at two thresholds: A sees the anomaly, B is blind."""
    folder = tmp_path_factory.mktemp("runs")
    masks = [raw(truth(index), "mono8", stamp) for index, stamp in enumerate(STAMPS)]
    bag = record(folder / "drive", {TOPIC: frames(), "/truth": masks})
    given = ["--topic", TOPIC, "--mask-topic", "/truth", "--require", "objects_missed<=0"]
    assert replay(bag, checkpoint, folder / "a", *given) == 0
    assert replay(bag, checkpoint, folder / "b", *given, "--threshold", "100000") == 1
    return folder


def compare(first, second, *options) -> int:
    return main(["compare", str(first), str(second), *map(str, options)])


def test_a_run_that_sees_less_is_told_in_figures_frames_pictures_and_status(runs, tmp_path, capsys):
    assert compare(runs / "a", runs / "b", "--output", tmp_path / "out") == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"compare.html", "compare.json", "frames.csv"}
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    figures = {row["name"]: row for row in content["figures"]}
    assert figures["objects_missed"] == {"name": "objects_missed", "a": 0, "b": 1, "b_is": "worse"}
    assert figures["auprc"]["b_is"] == "same" and figures["false_alarm_rate_observed"]["b_is"] == "better"
    assert content["requirements"] == [{"requirement": "objects_missed<=0", "a": "met", "b": "failed", "b_is": "worse"}]
    assert content["hazards_alone"]["b"] == [] and content["hazards_alone"]["a"][0]["frames"] == 3
    assert content["hazards_alone"]["a"][0]["first_ns"] == STAMPS[3]
    rows = list(csv.DictReader((tmp_path / "out" / "frames.csv").open()))
    assert [int(row["stamp_ns"]) for row in rows] == STAMPS
    assert [float(row["alone_a"]) > 0.02 for row in rows] == [False] * 3 + [True] * 3
    assert all(float(row["alone_b"]) == 0 for row in rows)
    text = (tmp_path / "out" / "compare.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert all(source.startswith("data:image/") for source in sources)
    assert len([source for source in sources if "jpeg" in source]) >= 2  # overlays of both
    assert content["runs"]["a"]["model"]["sha256"] in text and "B fails what A met" in text
    assert "objects_missed" in capsys.readouterr().out


def test_the_other_way_round_is_better_and_a_run_against_itself_the_same(runs, tmp_path):
    assert compare(runs / "b", runs / "a") == 0
    assert compare(runs / "a", runs / "a", "--output", tmp_path / "out") == 0
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert {row["b_is"] for row in content["figures"]} <= {"same", ""}
    assert content["hazards_alone"] == {"a": [], "b": []}


def test_runs_that_were_judged_by_other_masks_are_not_called_better_or_worse_by_them(tmp_path, checkpoint):
    topics = {"/truth": 0, "/others": 20}
    masks = {
        name: [raw(np.roll(truth(index), shift, axis=1), "mono8", stamp) for index, stamp in enumerate(STAMPS)]
        for name, shift in topics.items()
    }
    bag = record(tmp_path / "drive", {TOPIC: frames(), **masks})
    for name, topic in (("a", "/truth"), ("b", "/others")):
        given = ("--topic", TOPIC, "--mask-topic", topic, "--require", "auroc>=0.99", "--require", "frames>=6")
        replay(bag, checkpoint, tmp_path / name, *given)
    assert compare(tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out") == 0
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    words = {row["name"]: row["b_is"] for row in content["figures"]}
    assert words["auroc"] == "" and words["latency_p50_ms"] in ("same", "better", "worse")
    assert [row["requirement"] for row in content["requirements"]] == ["frames>=6"]
    assert "judged by other masks" in str(content["notes"])


def test_without_the_annotated_bag_the_figures_are_compared_and_a_note_says_so(runs, tmp_path, capsys):
    hidden = (runs / "b" / "annotated.mcap").rename(tmp_path / "away.mcap")
    try:
        assert compare(runs / "a", runs / "b", "--output", tmp_path / "out") == 1
    finally:
        hidden.rename(runs / "b" / "annotated.mcap")
    assert "pixels, hazards and pictures are not compared" in capsys.readouterr().out
    assert len(list(csv.DictReader((tmp_path / "out" / "frames.csv").open()))) == 6


def test_another_annotated_bag_in_the_place_of_a_runs_own_is_an_error(runs, tmp_path, capsys):
    annotated = runs / "b" / "annotated.mcap"
    (other,) = record(tmp_path / "other", {"/detector/front/mask": [raw(truth(3), "mono8", STAMPS[3])]}).glob("*.mcap")
    own = annotated.rename(tmp_path / "own.mcap")
    try:
        other.rename(annotated)
        assert compare(runs / "a", runs / "b") == 2
    finally:
        own.rename(annotated)
    assert f"{annotated} has no /detector/hazards and no /detector/mask" in capsys.readouterr().err


def test_runs_of_different_bags_are_an_error(runs, tmp_path, checkpoint, capsys):
    other = record(tmp_path / "other", {TOPIC: [raw(picture(9), "rgb8", STAMPS[0])]})
    assert replay(other, checkpoint, tmp_path / "c") == 0
    capsys.readouterr()
    assert compare(runs / "a", tmp_path / "c") == 2
    assert "are of different bags" in capsys.readouterr().err


def test_what_is_no_run_is_an_error(runs, tmp_path, capsys):
    assert compare(runs / "a", tmp_path / "nowhere") == 2
    assert "does not exist" in capsys.readouterr().err
    assert compare(runs / "a", tmp_path) == 2
    assert "holds no finished replay" in capsys.readouterr().err
    (tmp_path / "metrics.json").write_text("{")
    assert compare(runs / "a", tmp_path) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_folders_of_many_bags_are_compared_bag_by_bag(runs, tmp_path, checkpoint, capsys):
    (tmp_path / "day").mkdir()
    record(tmp_path / "day" / "one", {TOPIC: frames()[2:4]})
    record(tmp_path / "day" / "two", {TOPIC: frames()[3:5]})
    assert replay(tmp_path / "day", checkpoint, tmp_path / "a") == 0
    assert replay([tmp_path / "day" / "one"], checkpoint, tmp_path / "b" / "one") == 0
    assert compare(tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out") == 0
    assert (tmp_path / "out" / "one" / "compare.html").is_file()
    assert f"{tmp_path / 'a' / 'two'} has no counterpart" in capsys.readouterr().out


@pytest.mark.parametrize("time", ["stands still", "is never set", "begins anew"])
def test_frames_of_one_stamp_are_compared_each_with_its_own(tmp_path, checkpoint, time):
    count = len(STAMPS)
    stamps = {"stands still": STAMPS[:1] * count, "is never set": [0] * count, "begins anew": STAMPS[:3] * 2}[time]
    pictures = [raw(picture(index, anomaly=index >= 3), "rgb8", stamp) for index, stamp in enumerate(stamps)]
    bag = record(tmp_path / "drive", {TOPIC: pictures})
    assert replay(bag, checkpoint, tmp_path / "a") == 0
    assert replay(bag, checkpoint, tmp_path / "b", "--threshold", "100000") == 0
    assert compare(tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out") == 0
    rows = list(csv.DictReader((tmp_path / "out" / "frames.csv").open()))
    assert [int(row["index"]) for row in rows] == list(range(count))
    assert [float(row["alone_a"]) > 0.02 for row in rows] == [False] * 3 + [True] * 3
    (alone,) = json.loads((tmp_path / "out" / "compare.json").read_text())["hazards_alone"]["a"]
    assert alone["frames"] == 3


def test_frames_recorded_at_one_time_are_all_compared_and_shown(tmp_path, checkpoint):
    with rosbag2.Writer(tmp_path / "drive", version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, "sensor_msgs/msg/Image", typestore=STORE)
        for message in frames():
            writer.write(connection, 1000, STORE.serialize_cdr(message, message.__msgtype__))
    assert replay(tmp_path / "drive", checkpoint, tmp_path / "a") == 0
    assert replay(tmp_path / "drive", checkpoint, tmp_path / "b", "--threshold", "100000") == 0
    assert compare(tmp_path / "a", tmp_path / "b", "--output", tmp_path / "out") == 0
    rows = list(csv.DictReader((tmp_path / "out" / "frames.csv").open()))
    assert [float(row["alone_a"]) > 0.02 for row in rows] == [False] * 3 + [True] * 3
    shown = re.findall(r"figcaption>([AB]), frame (\d)", (tmp_path / "out" / "compare.html").read_text())
    assert sorted(shown) == [(run, index) for run in "AB" for index in "345"]


def test_figures_that_differ_in_the_last_digits_alone_are_the_same(runs, tmp_path):
    shutil.copytree(runs / "a", tmp_path / "again")
    metrics = json.loads((tmp_path / "again" / "metrics.json").read_text())
    metrics["figures"]["fpr95"] *= 1 + 2e-5  # as two threads for one make of it
    metrics["figures"]["auroc"] *= 1 - 1e-3
    (tmp_path / "again" / "metrics.json").write_text(json.dumps(metrics))
    assert compare(runs / "a", tmp_path / "again", "--output", tmp_path / "out") == 0
    figures = {row["name"]: row for row in json.loads((tmp_path / "out" / "compare.json").read_text())["figures"]}
    assert (figures["fpr95"]["b_is"], figures["auroc"]["b_is"]) == ("same", "worse")
