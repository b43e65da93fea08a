"""`flowclas replay` from a bag to its results, on small bags and a small random checkpoint."""

from __future__ import annotations

import csv
import json
import re
import resource
from pathlib import Path

import cv2
import numpy as np
import pytest
from node_support import make_checkpoint, picture
from replay_support import RESULTS, SECOND, STAMPS, TOPIC, frames, metrics, read, replay, truth
from rosbags.highlevel import AnyReader
from test_frames import TYPES, raw, record

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.corruptions import corrupt


@pytest.fixture
def bag(tmp_path):
    return record(tmp_path / "drive", {TOPIC: frames()})


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_a_bag_becomes_an_annotated_bag_metrics_and_a_report(tmp_path, checkpoint, storage):
    bag = record(tmp_path / "drive", {TOPIC: frames()}, storage)
    assert replay(bag, checkpoint, tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS
    result = metrics(tmp_path / "out")
    assert result["figures"]["frames"] == 6 and result["figures"]["broken_frames"] == 0
    assert result["model"]["sha256"] and result["bag"]["topic"] == TOPIC and result["versions"]["flowclas_ros"]
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert [int(row["stamp_ns"]) for row in rows] == STAMPS
    assert all(float(row["latency_ms"]) > 0 for row in rows)
    assert min(float(row["peak"]) for row in rows[3:]) > max(float(row["peak"]) for row in rows[:3])


def test_the_annotated_bag_holds_input_and_outputs_at_the_inputs_stamps(tmp_path, checkpoint, bag):
    assert replay(bag, checkpoint, tmp_path / "out", "--with-score") == 0
    messages = read(tmp_path / "out" / "annotated.mcap")
    by_topic: dict[str, list] = {}
    for topic, stamp, message in messages:
        by_topic.setdefault(topic, []).append((stamp, message))
    names = ("hazards", "state", "mask", "heatmap", "overlay", "score")
    assert set(by_topic) == {TOPIC, "/diagnostics", *(f"/detector/{name}" for name in names)}
    assert len(by_topic.pop("/diagnostics")) == 1  # of 6 ns
    for entries in by_topic.values():
        assert [stamp for stamp, _ in entries] == list(range(1000, 1006))
        assert [m.header.stamp.sec * SECOND + m.header.stamp.nanosec for _, m in entries] == STAMPS
        assert {message.header.frame_id for _, message in entries} == {"camera"}
    np.testing.assert_array_equal(by_topic[TOPIC][0][1].data, frames()[0].data)
    last = {topic: entries[-1][1] for topic, entries in by_topic.items()}
    score = last["/detector/score"].data.view(np.float32).reshape(96, 128)
    mask = last["/detector/mask"].data.reshape(96, 128)
    state, hazards = last["/detector/state"], last["/detector/hazards"].hazards
    assert np.array_equal(mask == 255, score > np.float32(state.threshold))
    assert state.peak_score == pytest.approx(score.max()) and state.hazard_count == len(hazards) > 0
    assert state.level == state.HAZARD and state.frames_processed == 6
    assert last["/detector/overlay"].encoding == "bgr8" and last["/detector/heatmap"].encoding == "mono8"
    cool = last["/detector/heatmap"].data.reshape(96, 128)[80:] < 60  # below everything that is outlined
    overlay = last["/detector/overlay"].data.reshape(96, 128, 3)[80:]
    assert cool.any() and np.array_equal(overlay[cool], picture(5)[80:][cool][:, ::-1])


def test_ros_reads_the_annotated_messages(tmp_path, checkpoint, bag):
    serialization = pytest.importorskip("rclpy.serialization", reason="needs ROS 2 (rclpy)")
    kinds = pytest.importorskip("flowclas_ros.msg", reason="needs the generated messages (make, or colcon build)")
    assert replay(bag, checkpoint, tmp_path / "out") == 0
    with AnyReader([tmp_path / "out" / "annotated.mcap"]) as reader:
        raws = {connection.topic: data for connection, _, data in reader.messages()}  # the last of each
    state = serialization.deserialize_message(raws["/detector/state"], kinds.DetectorState)
    hazards = serialization.deserialize_message(raws["/detector/hazards"], kinds.HazardArray)
    assert state.header == hazards.header and state.header.stamp.sec == 5
    assert state.hazard_count == len(hazards.hazards) > 0 and len(state.checkpoint_sha256) == 64
    diagnostics = pytest.importorskip("diagnostic_msgs.msg", reason="needs diagnostic_msgs")
    array = serialization.deserialize_message(raws["/diagnostics"], diagnostics.DiagnosticArray)
    assert [status.name for status in array.status] == ["/detector: health", "/detector: hazard"]


def test_camera_info_and_transforms_are_kept_and_other_topics_when_asked_for(tmp_path, checkpoint):
    text = [TYPES["std_msgs/msg/String"](data="hello")]
    transforms = [TYPES["tf2_msgs/msg/TFMessage"](transforms=[])]
    bag = record(tmp_path / "drive", {TOPIC: frames()[:2], "/tf_static": transforms, "/chat": text, "/other": text})
    assert replay(bag, checkpoint, tmp_path / "out", "--keep", "/chat") == 0
    topics = {topic for topic, *_ in read(tmp_path / "out" / "annotated.mcap")}
    assert {"/tf_static", "/chat"} <= topics and "/other" not in topics


def test_the_report_needs_nothing_but_itself(tmp_path, checkpoint, bag):
    assert replay(bag, checkpoint, tmp_path / "out", "--video") == 0
    text = (tmp_path / "out" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) >= 3 and all(source.startswith("data:image/") for source in sources)
    assert metrics(tmp_path / "out")["model"]["sha256"] in text
    video = cv2.VideoCapture(str(tmp_path / "out" / "overlay.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 6


def test_drift_is_told_frame_by_frame_in_the_figures_the_report_and_the_state(tmp_path):
    model = make_checkpoint(tmp_path / "drift.safetensors", drift=True)
    clear = [raw(picture(100), "rgb8", stamp) for stamp in STAMPS[:3]]
    foggy = [raw(corrupt(picture(100), "fog", 5), "rgb8", stamp) for stamp in STAMPS[3:]]
    bag = record(tmp_path / "fog", {TOPIC: clear + foggy})
    assert replay(bag, model, tmp_path / "out", "--require", "drifted_share<=0") == 1
    figures = metrics(tmp_path / "out")["figures"]
    assert figures["drifted_share"] == 0.5
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    drifts = [float(row["drift"]) for row in rows]
    assert max(drifts) == pytest.approx(figures["drift_max"], abs=1e-4)
    assert max(drifts[:3]) < min(drifts[3:])
    assert "Drift: in 50.0% of the frames" in (tmp_path / "out" / "report.html").read_text()
    states = [message for topic, _, message in read(tmp_path / "out" / "annotated.mcap") if topic.endswith("state")]
    assert [state.drifted for state in states] == [False] * 3 + [True] * 3
    assert "drifted" in states[-1].message and "drifted" not in states[0].message


def test_a_checkpoint_from_before_drift_replays_and_says_that_it_is_not_known(tmp_path, checkpoint, bag):
    assert replay(bag, checkpoint, tmp_path / "out") == 0
    assert metrics(tmp_path / "out")["figures"]["drift_max"] is None
    assert "Drift: not known" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("most", [4096, 60_000])  # bytes a file may have: the table's fault, the annotated bag's
def test_a_full_disk_is_told_and_leaves_the_earlier_result(tmp_path, checkpoint, bag, capsys, most):
    assert replay(bag, checkpoint, tmp_path / "out") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        assert replay(bag, checkpoint, tmp_path / "out", "--overwrite") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert "cannot write to" in error and "File too large" in error
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_candidate_that_is_never_confirmed_counts_as_no_hazard(tmp_path, checkpoint):
    square = picture(0, anomaly=True)[32:64, 48:80]
    pictures = [picture(index, anomaly=index >= 4) for index in range(6)]
    pictures[0][:32, :32] = pictures[2][64:, 96:] = square  # each in one frame alone: candidates
    bag = record(tmp_path / "drive", {TOPIC: [raw(one, "rgb8", at) for one, at in zip(pictures, STAMPS, strict=True)]})
    params = tmp_path / "params.yaml"
    params.write_text("detector:\n  ros__parameters:\n    confirm_frames: 2\n    forget_frames: 1\n")
    assert replay(bag, checkpoint, tmp_path / "out", "--params", str(params)) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    (listed,) = {number for row in rows for number in row["hazard_ids"].split()}
    assert int(listed) > 2 and metrics(tmp_path / "out")["figures"]["hazards"] == 1


def test_an_object_that_is_never_found_leaves_no_time_of_detection_that_would_be_met(tmp_path, checkpoint, capsys):
    (tmp_path / "masks").mkdir()
    for index in range(6):
        mask = truth(index)
        mask[0:24, 100:128] = 1  # where nothing is to be seen
        cv2.imwrite(str(tmp_path / "masks" / f"{index:06d}.png"), mask)
    bag = record(tmp_path / "drive", {TOPIC: frames()})
    options = ("--masks", str(tmp_path / "masks"), "--require", "detection_frames_max<=5")
    assert replay(bag, checkpoint, tmp_path / "out", *options) == 1
    figures = metrics(tmp_path / "out")["figures"]
    assert (figures["objects"], figures["objects_missed"], figures["detection_frames_max"]) == (2, 1, None)
    assert "FAILED detection_frames_max<=5: no figure" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["index", "stamp", "topic"])
def test_ground_truth_gives_figures_and_a_verdict(tmp_path, checkpoint, kind, capsys):
    topics, options = {TOPIC: frames()}, ["--mask-topic", "/truth"]
    if kind == "topic":
        topics["/truth"] = [raw(truth(index), "mono8", stamp) for index, stamp in enumerate(STAMPS)]
        options += ["--topic", TOPIC]
    else:
        (tmp_path / "masks").mkdir()
        for index, stamp in enumerate(STAMPS):
            name = f"{index:06d}" if kind == "index" else str(stamp)
            cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), truth(index))
        options = ["--masks", str(tmp_path / "masks")]
    bag = record(tmp_path / "drive", topics)
    required = ["--require", "auroc>=0.9", "--require", "objects_missed<=0"]
    assert replay(bag, checkpoint, tmp_path / "out", *options, *required) == 0
    figures = metrics(tmp_path / "out")["figures"]
    assert figures["labelled_frames"] == 6 and figures["objects"] == 1 and figures["detection_frames_max"] == 0
    assert 0 < figures["siou"] <= 1 and 0 < figures["ppv"] <= 1 and 0 < figures["f1_star"] <= 1
    (found,) = metrics(tmp_path / "out")["objects"]
    assert (found["visible_frame"], found["found_frame"], found["frames"], found["seconds"]) == (3, 3, 0, 0.0)
    assert found["visible_ns"] == STAMPS[3] and found["largest_pixels"] == 32 * 32
    calibration = metrics(tmp_path / "out")["calibration"]
    assert calibration["asked"] == 0.001 and calibration["kept"] == (calibration["observed"] <= 0.001)
    assert 0 < figures["auprc"] <= 1 and 0 <= figures["false_alarm_rate_observed"] < 1
    # judged again, though not replayed, by another requirement
    assert replay(bag, checkpoint, tmp_path / "out", *options, "--require", "auroc>=1.5") == 1
    out = capsys.readouterr().out
    assert "FAILED auroc>=1.5" in out and "finished before" in out
    verdict = re.findall(r"(?:met|FAILED) +[a-z0-9_]+&[lg]t;=[0-9.]+", (tmp_path / "out" / "report.html").read_text())
    assert verdict == ["FAILED auroc&gt;=1.5"]
    assert [one["requirement"] for one in metrics(tmp_path / "out")["requirements"]] == ["auroc>=1.5"]
    # nor are the masks' places anything to replay for, nor is a verdict lost where none is asked for
    if kind != "topic":
        options = ["--masks", str((tmp_path / "masks").rename(tmp_path / "moved"))]
    assert replay(bag, checkpoint, tmp_path / "out", *options) == 0
    assert [one["met"] for one in metrics(tmp_path / "out")["requirements"]] == [False]


def test_masks_that_match_no_frame_are_an_error_and_some_are_a_note(tmp_path, checkpoint, bag, capsys):
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "000099.png"), truth(3))
    assert replay(bag, checkpoint, tmp_path / "out", "--masks", str(tmp_path / "masks")) == 2
    assert "no mask matches a frame" in capsys.readouterr().err
    cv2.imwrite(str(tmp_path / "masks" / "000004.png"), truth(4))
    assert replay(bag, checkpoint, tmp_path / "out", "--masks", str(tmp_path / "masks")) == 0
    notes = " ".join(metrics(tmp_path / "out")["notes"])
    assert "1 mask(s) belong to no frame" in notes and "5 frame(s) have no usable mask" in notes


@pytest.mark.parametrize("numbered", [True, False])
def test_a_long_bag_full_of_faults_has_few_notes(tmp_path, checkpoint, numbered):
    count, most = 55, 50
    stamps = [SECOND + index * SECOND // 10 for index in range(count)]
    bag = record(tmp_path / "drive", {TOPIC: [raw(picture(0), "rgb8", stamp) for stamp in stamps]})
    (tmp_path / "masks").mkdir()
    for index in range(count):
        name = "mask" if numbered else "".join(chr(ord("a") + int(digit)) for digit in f"{index:02d}")
        cv2.imwrite(str(tmp_path / "masks" / f"{name}_{index:06d}.png"), truth(3) + 7 * (index > 0))
    assert replay(bag, checkpoint, tmp_path / "out", "--masks", str(tmp_path / "masks")) == 0
    *notes, last = metrics(tmp_path / "out")["notes"]
    assert last == f"{count - 1} frame(s) have no usable mask" and "_000001.png holds value 7" in notes[0]
    if numbered:
        assert len(notes) == 1 and notes[0].endswith(f"(first of {count - 1})")
    else:
        assert len(notes) == most + 1 and notes[-1] == f"a note of another kind than these {most} (first of 4)"


def test_unknown_requirements_list_the_known_and_are_told_before_any_work(tmp_path, checkpoint, bag, capsys):
    assert replay(bag, checkpoint, tmp_path / "out", "--require", "speed>=1") == 2
    assert "unknown metric 'speed'" in (error := capsys.readouterr().err) and "latency_p99_ms" in error
    assert replay(bag, checkpoint, tmp_path / "out", "--require", "fpr95<=0.1") == 2
    assert "needs ground truth" in capsys.readouterr().err
    assert replay(bag, checkpoint, tmp_path / "out", "--require", "frames=1") == 2
    assert not (tmp_path / "out").exists()


def test_many_bags_go_on_past_a_bad_one_and_are_not_done_twice(tmp_path, checkpoint, capsys):
    folder = tmp_path / "day"
    folder.mkdir()
    for name in ("a", "b"):
        record(folder / name, {TOPIC: frames()[:2]})
    (folder / "bad.mcap").write_bytes(b"\x89MCAP0\r\n nothing")
    assert replay(folder, checkpoint, tmp_path / "out") == 2
    printed = capsys.readouterr()
    assert "bad.mcap" in printed.err and re.search(r"bad\.mcap .*ERROR", printed.out)
    assert RESULTS == {path.name for path in (tmp_path / "out" / "a").iterdir()}
    first = (tmp_path / "out" / "b" / "metrics.json").stat().st_mtime_ns
    (folder / "bad.mcap").unlink()
    assert replay(folder, checkpoint, tmp_path / "out") == 0
    assert (tmp_path / "out" / "b" / "metrics.json").stat().st_mtime_ns == first
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [Path(name).name for name in summary["bags"]] == ["a", "b"]
    # another threshold is another result: the old one is neither passed off as it nor lost
    assert replay(folder, checkpoint, tmp_path / "out", "--threshold", "3") == 2
    assert "the settings (false_alarm_rate_asked, threshold_used) changed" in capsys.readouterr().err
    assert replay(folder, checkpoint, tmp_path / "out", "--threshold", "3", "--overwrite") == 0
    assert metrics(tmp_path / "out" / "a")["settings"]["threshold_used"] == 3


def test_results_inside_a_bags_own_folder_do_not_change_the_bag(tmp_path, checkpoint, bag, capsys):
    for output in (bag, bag / "results"):
        assert replay(bag, checkpoint, output) == 0
    for output in (bag, bag / "results"):
        assert replay(bag, checkpoint, output) == 0
    assert capsys.readouterr().out.count("finished before") == 2


def test_a_verdict_is_told_though_the_earlier_results_cannot_be_written(tmp_path, checkpoint, bag, capsys, monkeypatch):
    assert replay(bag, checkpoint, tmp_path / "out") == 0

    def refuse(path, *_):
        raise FlowclasError(f"cannot write {path}: Read-only file system")

    monkeypatch.setattr("flowclas_ros.replay.one_bag.write_bytes", refuse)
    assert replay(bag, checkpoint, tmp_path / "out", "--require", "frames>=7") == 1
    out = capsys.readouterr().out
    assert "FAILED frames>=7" in out and "keep their earlier verdict: cannot write" in out
    assert metrics(tmp_path / "out")["requirements"] == []


def test_masks_without_a_normal_pixel_leave_the_calibration_untold(tmp_path, checkpoint, bag):
    (tmp_path / "masks").mkdir()
    for index in range(len(STAMPS)):
        cv2.imwrite(str(tmp_path / "masks" / f"{index:06d}.png"), np.full((96, 128), 255 if index else 1, np.uint8))
    assert replay(bag, checkpoint, tmp_path / "out", "--masks", str(tmp_path / "masks")) == 0
    assert metrics(tmp_path / "out")["calibration"]["kept"] is None
    text = (tmp_path / "out" / "report.html").read_text()
    assert "no pixel is labelled normal" in text and "a threshold was set" not in text
