"""`flowclas replay` of recordings of every kind: storages, compression, ROS 1, several files; damaged and odd ones."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
import yaml
from node_support import make_checkpoint, picture
from replay_support import STAMPS, TOPIC, frames, metrics, read, replay
from rosbags import rosbag2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from test_frames import STORE, TYPES, compressed, record


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


def test_a_truncated_bag_is_one_line_and_leaves_nothing(tmp_path, checkpoint, capsys):
    (file,) = record(tmp_path / "drive", {TOPIC: frames()}).glob("*.mcap")
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    assert replay(cut, checkpoint, tmp_path / "out") == 2
    assert "cut.mcap" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_bag_without_images_lists_its_topics(tmp_path, checkpoint, capsys):
    bag = record(tmp_path / "talk", {"/chatter": [TYPES["std_msgs/msg/String"](data="hello")]})
    assert replay(bag, checkpoint, tmp_path / "out") == 2
    assert "/chatter (std_msgs/msg/String)" in capsys.readouterr().err


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
    # the frames are large, the point is the bag
    coarse = make_checkpoint(tmp_path / "coarse.safetensors", short_side=96)
    assert replay(kit / "wos_seq1_bag" / storage, coarse, tmp_path / "out") == 0
    figures = metrics(tmp_path / "out")["figures"]
    assert (figures["frames"], figures["broken_frames"]) == (54, 0)
