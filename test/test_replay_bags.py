"""`flowclas replay` from a bag to its results, on small bags and a small random checkpoint."""

from __future__ import annotations

import csv
import json
import re
import resource
import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="rosbags is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
from node_support import make_checkpoint, picture  # noqa: E402
from rosbags.highlevel import AnyReader  # noqa: E402
from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # noqa: E402
from test_frames import STORE, TYPES, compressed, raw, record  # noqa: E402

from flowclas_ros.cli import main  # noqa: E402
from flowclas_ros.replay.annotated import message_store  # noqa: E402
from flowclas_ros.training.corruptions import corrupt  # noqa: E402

TOPIC = "/front/image"
SECOND = 10**9
STAMPS = [5 * SECOND + index * SECOND // 10 for index in range(6)]
RESULTS = {"annotated.mcap", "metrics.csv", "metrics.json", "report.html"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small.safetensors")


def frames() -> list:
    """Six frames; in the last three stands an anomaly."""
    return [raw(picture(index, anomaly=index >= 3), "rgb8", stamp) for index, stamp in enumerate(STAMPS)]


def truth(index: int) -> np.ndarray:
    """(H, W) uint8, the mask of frame `index`."""
    mask = np.zeros((96, 128), np.uint8)
    if index >= 3:
        mask[32:64, 48:80] = 1
    return mask


@pytest.fixture
def bag(tmp_path):
    return record(tmp_path / "drive", {TOPIC: frames()})


def replay(bag: Path | list[Path], checkpoint: Path, output: Path, *options: str) -> int:
    bags = bag if isinstance(bag, list) else [bag]
    return main(["replay", *map(str, bags), "--checkpoint", str(checkpoint), "--output", str(output), *options])


def metrics(output: Path) -> dict:
    return json.loads((output / "metrics.json").read_text())


def read(path: Path) -> list:
    """(topic, time of recording, message) of an mcap that rosbags opens by what is in it alone."""
    with AnyReader([path], default_typestore=message_store()) as reader:
        return [
            (connection.topic, stamp, reader.deserialize(data, connection.msgtype))
            for connection, stamp, data in reader.messages()
        ]


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
    assert set(by_topic) == {TOPIC, *(f"/detector/{name}" for name in names)}
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


def test_broken_frames_and_changing_sizes_are_counted_and_named(tmp_path, checkpoint):
    broken = compressed(picture(1), STAMPS[1])
    broken.data[40:] = 0
    messages = [compressed(picture(0), STAMPS[0]), broken, compressed(picture(2)[:64, :100].copy(), STAMPS[2])]
    bag = record(tmp_path / "drive", {"/image/compressed": messages})
    assert replay(bag, checkpoint, tmp_path / "out") == 0
    result = metrics(tmp_path / "out")
    assert result["figures"]["frames"] == 2 and result["figures"]["broken_frames"] == 1
    assert result["broken"][0]["index"] == 1 and "corrupt" in result["broken"][0]["error"]
    states = [m for topic, _, m in read(tmp_path / "out" / "annotated.mcap") if topic == "/detector/state"]
    assert [state.level == state.FAULT for state in states] == [False, True, False]
    assert replay(bag, checkpoint, tmp_path / "out", "--require", "broken_frames<=0") == 1


def test_a_truncated_bag_is_one_line_and_leaves_nothing(tmp_path, checkpoint, bag, capsys):
    (file,) = bag.glob("*.mcap")
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    assert replay(cut, checkpoint, tmp_path / "out") == 2
    assert "cut.mcap" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_bag_without_images_lists_its_topics(tmp_path, checkpoint, capsys):
    bag = record(tmp_path / "talk", {"/chatter": [TYPES["std_msgs/msg/String"](data="hello")]})
    assert replay(bag, checkpoint, tmp_path / "out") == 2
    assert "/chatter (std_msgs/msg/String)" in capsys.readouterr().err


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


def test_masks_that_match_no_frame_are_an_error_and_some_are_a_note(tmp_path, checkpoint, bag, capsys):
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "000099.png"), truth(3))
    assert replay(bag, checkpoint, tmp_path / "out", "--masks", str(tmp_path / "masks")) == 2
    assert "no mask matches a frame" in capsys.readouterr().err
    cv2.imwrite(str(tmp_path / "masks" / "000004.png"), truth(4))
    assert replay(bag, checkpoint, tmp_path / "out", "--masks", str(tmp_path / "masks")) == 0
    notes = " ".join(metrics(tmp_path / "out")["notes"])
    assert "1 mask(s) belong to no frame" in notes and "5 frame(s) have no usable mask" in notes


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
    assert "the settings changed" in capsys.readouterr().err
    assert replay(folder, checkpoint, tmp_path / "out", "--threshold", "3", "--overwrite") == 0
    assert metrics(tmp_path / "out" / "a")["settings"]["threshold_used"] == 3


def test_the_nodes_parameter_file_rules_the_replay(tmp_path, checkpoint, bag, capsys):
    params = tmp_path / "params.yaml"
    params.write_text("detector:\n  ros__parameters:\n    confirm_frames: 2\n    smoothing: 1\n    min_area: 5\n")
    assert replay(bag, checkpoint, tmp_path / "out", "--params", str(params), "--min-area", "9") == 0
    settings = metrics(tmp_path / "out")["settings"]
    assert (settings["confirm_frames"], settings["smoothing"], settings["min_area"]) == (2, 1.0, 9)
    params.write_text("detector:\n  ros__parameters:\n    confirm_frames: many\n")
    assert replay(bag, checkpoint, tmp_path / "other", "--params", str(params)) == 2
    assert "confirm_frames is 'many'" in capsys.readouterr().err


def test_a_ros_1_bag_replays(tmp_path, checkpoint):
    rosbag1 = pytest.importorskip("rosbags.rosbag1")
    store = get_typestore(Stores.ROS1_NOETIC)
    stamp = store.types["builtin_interfaces/msg/Time"](sec=5, nanosec=0)
    pixels = picture(0)
    message = store.types["sensor_msgs/msg/Image"](
        header=store.types["std_msgs/msg/Header"](seq=1, stamp=stamp, frame_id="camera"),
        height=96,
        width=128,
        encoding="rgb8",
        is_bigendian=0,
        step=384,
        data=pixels.ravel(),
    )
    roi = store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    matrices = {"D": np.zeros(5), "K": np.eye(3).ravel(), "R": np.eye(3).ravel(), "P": np.eye(3, 4).ravel()}
    info = store.types["sensor_msgs/msg/CameraInfo"](
        message.header, 96, 128, "plumb_bob", **matrices, binning_x=0, binning_y=0, roi=roi
    )
    with rosbag1.Writer(tmp_path / "old.bag") as writer:
        for topic, one in (("/camera_info", info), ("/image", message)):
            connection = writer.add_connection(topic, one.__msgtype__, typestore=store)
            writer.write(connection, 1000, store.serialize_ros1(one, one.__msgtype__))
    assert replay(tmp_path / "old.bag", checkpoint, tmp_path / "out") == 0
    written = {topic: message for topic, _, message in read(tmp_path / "out" / "annotated.mcap")}
    np.testing.assert_array_equal(written["/image"].data, pixels.ravel())
    assert written["/image"].header.frame_id == "camera"
    np.testing.assert_array_equal(written["/camera_info"].k, np.eye(3).ravel())


@pytest.mark.parametrize(
    ("storage", "mode"), [("MCAP", "STORAGE"), ("MCAP", "FILE"), ("SQLITE3", "FILE"), ("SQLITE3", "MESSAGE")]
)
def test_compressed_bags_replay(tmp_path, checkpoint, storage, mode):
    writer = rosbag2.Writer(tmp_path / "drive", version=9, storage_plugin=rosbag2.StoragePlugin[storage])
    writer.set_compression(rosbag2.CompressionMode[mode], rosbag2.CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(TOPIC, "sensor_msgs/msg/Image", typestore=STORE)
        for index, message in enumerate(frames()[:2]):
            writer.write(connection, 1000 + index, STORE.serialize_cdr(message, "sensor_msgs/msg/Image"))
    assert replay(tmp_path / "drive", checkpoint, tmp_path / "out") == 0
    assert metrics(tmp_path / "out")["figures"]["frames"] == 2


def test_a_bag_of_several_files_is_one_recording(tmp_path, checkpoint):
    first, second = (record(tmp_path / f"drive_{index}", {TOPIC: frames()[index * 3 :][:3]}) for index in range(2))
    (file,) = second.glob("*.mcap")
    file.rename(first / file.name)
    meta = yaml.safe_load((first / "metadata.yaml").read_text())
    info = meta["rosbag2_bagfile_information"]
    info["relative_file_paths"].append(file.name)
    info["files"].append({**info["files"][0], "path": file.name})
    info["message_count"] = 6
    info["topics_with_message_count"][0]["message_count"] = 6
    (first / "metadata.yaml").write_text(yaml.safe_dump(meta))
    assert replay(first, checkpoint, tmp_path / "out") == 0
    assert metrics(tmp_path / "out")["figures"]["frames"] == 6


def test_messages_of_an_unknown_type_are_no_hindrance_until_they_are_asked_for(tmp_path, checkpoint, capsys):
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg("int32 count", "our_msgs/msg/Odd"))
    odd = store.types["our_msgs/msg/Odd"](count=3)
    with rosbag2.Writer(tmp_path / "drive", version=9, storage_plugin=rosbag2.StoragePlugin.SQLITE3) as writer:
        for topic, message in (("/odd", odd), (TOPIC, frames()[0])):
            connection = writer.add_connection(topic, message.__msgtype__, typestore=store)
            writer.write(connection, 1000, store.serialize_cdr(message, message.__msgtype__))
    (file,) = (tmp_path / "drive").glob("*.db3")
    with sqlite3.connect(file) as database:  # as a bag from before Iron: no definitions
        database.execute("DELETE FROM message_definitions")
    assert replay(tmp_path / "drive", checkpoint, tmp_path / "out") == 0
    assert replay(tmp_path / "drive", checkpoint, tmp_path / "other", "--keep", "/odd") == 2
    assert "/odd" in (error := capsys.readouterr().err) and "unknown type our_msgs/msg/Odd" in error
    assert replay(tmp_path / "drive", checkpoint, tmp_path / "other", "--topic", "/odd") == 2
    assert f"no image topic /odd; it has: {TOPIC}" in capsys.readouterr().err


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_the_kits_real_drive_replays_whole_in_both_storages(kit, tmp_path, storage):
    coarse = make_checkpoint(
        tmp_path / "coarse.safetensors", short_side=96
    )  # the frames are large, the point is the bag
    assert replay(kit / "wos_seq1_bag" / storage, coarse, tmp_path / "out") == 0
    figures = metrics(tmp_path / "out")["figures"]
    assert (figures["frames"], figures["broken_frames"]) == (54, 0)
