"""`flowclas replay` of recordings of every kind: storages, compression, ROS 1, several files; damaged and odd ones."""

from __future__ import annotations

import sqlite3
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from node_support import make_checkpoint, picture
from replay_support import STAMPS, TOPIC, frames, metrics, read, replay
from rosbags import rosbag2
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from test_frames import STORE, TYPES, compressed, record

from flowclas_ros.replay.annotated import message_store


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


@pytest.mark.parametrize("size", [(2, 2000), (2000, 2)])
def test_a_slim_frame_takes_the_others_results_not_with_it(tmp_path, checkpoint, size):
    slim = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    messages = [compressed(image, stamp) for image, stamp in zip((picture(0), slim, picture(1)), STAMPS, strict=False)]
    bag = record(tmp_path / "drive", {"/image/compressed": messages})
    assert replay(bag, checkpoint, tmp_path / "out") == 0
    assert metrics(tmp_path / "out")["figures"]["frames"] == 3


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


def ros_1_bag(path, topics: dict[str, tuple[str, dict, list]], latched: tuple[str, ...] = ()):
    """A ROS 1 bag with one frame on /image and, by topic, messages of a type: its name, definition and contents."""
    rosbag1 = pytest.importorskip("rosbags.rosbag1")
    store = get_typestore(Stores.ROS1_NOETIC)
    for kind, definition, _ in topics.values():
        if kind not in store.fielddefs:
            store.register(get_types_from_msg(definition, kind))
    header = store.types["std_msgs/msg/Header"](1, store.types["builtin_interfaces/msg/Time"](5, 0), "camera")
    image = {"height": 96, "width": 128, "encoding": "rgb8", "is_bigendian": 0, "step": 384}
    frame = store.types["sensor_msgs/msg/Image"](header, **image, data=picture(0).ravel())
    with rosbag1.Writer(path) as writer:
        for topic, (kind, _, contents) in {"/image": ("sensor_msgs/msg/Image", "", [frame]), **topics}.items():
            connection = writer.add_connection(topic, kind, typestore=store, latching=int(topic in latched))
            for message in contents:
                writer.write(connection, 1000, store.serialize_ros1(message, kind))
    return path


def offered(path) -> dict[str, list]:
    """By topic the QoS with which a player publishes."""
    with AnyReader([path], default_typestore=message_store()) as reader:
        return {connection.topic: connection.ext.offered_qos_profiles for connection in reader.connections}


def test_what_ros_1_latched_reaches_whoever_comes_later(tmp_path, checkpoint):
    text = SimpleNamespace(data="hello")
    none = SimpleNamespace(transforms=[])
    transforms = "geometry_msgs/TransformStamped[] transforms"
    bag = ros_1_bag(
        tmp_path / "old.bag",
        {
            "/tf_static": ("tf2_msgs/msg/TFMessage", transforms, [none]),
            "/map": ("std_msgs/msg/String", "", [text]),
            "/chat": ("std_msgs/msg/String", "", [text]),
        },
        latched=("/map",),
    )
    assert replay(bag, checkpoint, tmp_path / "out", "--keep", "/map", "--keep", "/chat") == 0
    found = offered(tmp_path / "out" / "annotated.mcap")
    for topic in ("/tf_static", "/map"):
        (profile,) = found[topic]
        assert (profile.durability.name, profile.reliability.name) == ("TRANSIENT_LOCAL", "RELIABLE")
    assert found["/chat"] == found["/image"] == []


def test_the_transforms_of_ros_1s_first_years_are_kept_as_those_of_ros_2(tmp_path, checkpoint):
    transform = SimpleNamespace(
        header=SimpleNamespace(seq=1, stamp=SimpleNamespace(sec=5, nanosec=0), frame_id="map"),
        child_frame_id="camera",
        transform=SimpleNamespace(
            translation=SimpleNamespace(x=1.0, y=2.0, z=3.0), rotation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
        ),
    )
    definition = "geometry_msgs/TransformStamped[] transforms"
    tf = {"/tf": ("tf/msg/tfMessage", definition, [SimpleNamespace(transforms=[transform])])}
    assert replay(ros_1_bag(tmp_path / "old.bag", tf), checkpoint, tmp_path / "out") == 0
    (kept,) = (message for topic, _, message in read(tmp_path / "out" / "annotated.mcap") if topic == "/tf")
    assert kept.__msgtype__ == "tf2_msgs/msg/TFMessage"
    assert kept.transforms[0].child_frame_id == "camera" and kept.transforms[0].transform.translation.z == 3.0


def test_kept_messages_that_ros_2_cannot_take_are_noted(tmp_path, checkpoint):
    sonar = SimpleNamespace(  # ROS 2's has a variance
        header=SimpleNamespace(seq=1, stamp=SimpleNamespace(sec=5, nanosec=0), frame_id=""),
        radiation_type=0,
        **dict.fromkeys(("field_of_view", "min_range", "max_range", "range"), 1.0),
    )
    topics = {"/sonar": ("sensor_msgs/msg/Range", "", [sonar] * 2)}
    bag = ros_1_bag(tmp_path / "old.bag", topics)
    assert replay(bag, checkpoint, tmp_path / "out", "--keep", "/sonar") == 0
    (note,) = metrics(tmp_path / "out")["notes"]
    assert note.startswith("2 message(s) of /sonar are none of ROS 2's")


def test_the_recorded_qos_is_kept_in_the_notation_that_every_distribution_reads(tmp_path, checkpoint):
    unset = QosTime(0, 0)
    qos = Qos(
        *(QosHistory.KEEP_LAST, 5, QosReliability.BEST_EFFORT, QosDurability.VOLATILE, unset, unset),
        *(QosLiveliness.AUTOMATIC, unset, False),
    )
    with rosbag2.Writer(tmp_path / "drive", version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, "sensor_msgs/msg/Image", typestore=STORE, offered_qos_profiles=[qos])
        writer.write(connection, 1000, STORE.serialize_cdr(frames()[0], "sensor_msgs/msg/Image"))
    assert replay(tmp_path / "drive", checkpoint, tmp_path / "out") == 0
    assert offered(tmp_path / "out" / "annotated.mcap")[TOPIC] == [qos]
    content = (tmp_path / "out" / "annotated.mcap").read_bytes()
    # Humble's and Iron's players read numbers alone, and refuse the whole bag for a word
    assert b"reliability: 2" in content and b"best_effort" not in content


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


def test_the_video_plays_as_fast_as_the_bag(tmp_path, checkpoint):
    with rosbag2.Writer(tmp_path / "drive", version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, "sensor_msgs/msg/Image", typestore=STORE)
        for stamp, message in zip(STAMPS, frames(), strict=True):  # ten a second
            writer.write(connection, stamp, STORE.serialize_cdr(message, "sensor_msgs/msg/Image"))
    assert replay(tmp_path / "drive", checkpoint, tmp_path / "out", "--video") == 0
    video = cv2.VideoCapture(str(tmp_path / "out" / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10, abs=0.01)
    assert int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little") in (b"h264", b"avc1")  # browsers show it


def test_a_video_without_its_encoder_says_what_to_install(tmp_path, checkpoint, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    bag = record(tmp_path / "drive", {TOPIC: frames()[:1]})
    assert replay(bag, checkpoint, tmp_path / "out", "--video") == 2
    assert "--video needs PyAV: pip install av" in capsys.readouterr().err


def test_a_bag_with_messages_that_are_not_ros_says_so(tmp_path, checkpoint, capsys):
    (file,) = record(tmp_path / "drive", {TOPIC: frames()[:1]}).glob("*.mcap")
    mixed = tmp_path / "mixed.mcap"
    mixed.write_bytes(file.read_bytes().replace(b"ros2msg", b"flatbuf"))  # a schema's encoding
    assert replay(mixed, checkpoint, tmp_path / "out") == 2
    assert "messages of encoding 'flatbuf' beside ROS's" in capsys.readouterr().err


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
