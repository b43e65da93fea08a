"""`flowclas replay` of several cameras, and of cameras with depth."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from node_support import picture
from replay_support import SECOND, STAMPS, frames, metrics, read, replay, truth
from test_frames import TYPES, compressed, header, raw, record

from flowclas_ros.errors import FlowclasError
from flowclas_ros.replay.cameras import cameras_of

FOCAL, METRES = 100.0, 2.5


def info(stamp_ns: int):
    """A camera of 128x96 pixels."""
    k = np.array([FOCAL, 0, 63.5, 0, FOCAL, 47.5, 0, 0, 1.0])
    return TYPES["sensor_msgs/msg/CameraInfo"](
        header=header(stamp_ns),
        height=96,
        width=128,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=k,
        r=np.eye(3).ravel(),
        p=np.insert(k, [3, 6, 9], 0.0),
        binning_x=0,
        binning_y=0,
        roi=TYPES["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


def depths() -> list:
    """A wall at 2.5 m in millimetres, 5 ms after each frame; none for the last."""
    wall = np.full((48, 64), METRES * 1000, np.uint16)
    messages = [raw(wall.view(np.uint8), "16UC1", stamp + SECOND // 200) for stamp in STAMPS[:5]]
    for message in messages:
        message.width = 64
    return messages


@pytest.mark.parametrize(
    ("topics", "names"),
    [
        (["/a/image_raw"], [""]),
        (["/front/image_raw", "/left/image/compressed"], ["front", "left"]),
        (["/one/cam/image", "/two/cam/image"], ["one_cam", "two_cam"]),
        (["/cam/image", "/cam/image_rect"], ["cam_image", "cam_image_rect"]),
    ],
)
def test_cameras_are_called_after_the_part_of_the_topic_that_tells_them_apart(topics, names):
    assert [camera.name for camera in cameras_of(topics, [], [], [])] == names


def test_the_nodes_names_are_taken_where_there_are_as_many_cameras():
    assert [camera.name for camera in cameras_of(["/x", "/y"], [], [], [], ("left", "right"))] == ["left", "right"]


def test_lists_of_topics_must_be_of_one_length():
    with pytest.raises(FlowclasError, match="1 --depth-topic for 2 image"):
        cameras_of(["/a/image", "/b/image"], ["/a/depth"], [], [])


def test_each_camera_has_its_results_and_all_share_the_annotated_bag(tmp_path, checkpoint, capsys):
    normal = [compressed(picture(index), stamp) for index, stamp in enumerate(STAMPS)]
    masks = [raw(truth(index), "mono8", stamp) for index, stamp in enumerate(STAMPS)]
    empty = [raw(np.zeros((96, 128), np.uint8), "mono8", stamp) for stamp in STAMPS]
    topics = {"/front/image": frames(), "/left/image/compressed": normal, "/front/truth": masks, "/left/truth": empty}
    bag = record(tmp_path / "drive", topics)
    names = ["--topic", "/front/image,/left/image/compressed", "--mask-topic", "/front/truth,/left/truth"]
    assert replay(bag, checkpoint, tmp_path / "out", *names, "--require", "peak_max<=1000") == 0
    for name in ("front", "left"):
        files = {path.name for path in (tmp_path / "out" / name).iterdir()}
        assert files == {"metrics.csv", "metrics.json", "report.html"}
        assert metrics(tmp_path / "out" / name)["figures"]["frames"] == 6
    front, left = (metrics(tmp_path / "out" / name)["figures"] for name in ("front", "left"))
    assert front["peak_max"] > left["peak_max"] and (front["objects"], left["objects"]) == (1, 0)
    by_topic: dict[str, list] = {}
    for topic, _, message in read(tmp_path / "out" / "annotated.mcap"):
        by_topic.setdefault(topic, []).append(message)
    outputs = ("hazards", "state", "mask", "heatmap", "overlay")
    expected = {f"/detector/{name}/{output}" for name in ("front", "left") for output in outputs}
    assert expected <= set(by_topic)
    assert len(by_topic["/detector/front/hazards"][-1].hazards) > 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["bags"][str(bag)]) == ["/front/image", "/left/image/compressed"]
    assert replay(bag, checkpoint, tmp_path / "out", *names) == 0
    assert "finished before" in capsys.readouterr().out


def test_a_finished_replay_of_other_cameras_is_kept_unless_it_is_to_be_overwritten(tmp_path, checkpoint, capsys):
    normal = [raw(picture(index), "rgb8", stamp) for index, stamp in enumerate(STAMPS)]
    bag = record(tmp_path / "drive", {"/front/image": frames()[:2], "/left/image": normal[:2]})
    one, both = ["--topic", "/front/image"], ["--topic", "/front/image,/left/image"]
    out = tmp_path / "out"
    assert replay(bag, checkpoint, out, *one) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert replay(bag, checkpoint, out, *both) == 2
    assert f"{out} holds a finished replay, of another choice of cameras: give --overw" in capsys.readouterr().err
    after = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "summary.json"}
    assert after == before
    assert replay(bag, checkpoint, out, *both, "--overwrite") == 0
    assert {path.name for path in out.iterdir()} == {"annotated.mcap", "front", "left", "summary.json"}
    assert replay(bag, checkpoint, out, *one) == 2
    assert f"{out / 'front'} holds a finished replay, of another choice" in capsys.readouterr().err


def test_depth_gives_hazards_their_place_as_in_the_node(tmp_path, checkpoint):
    topics = {"/cam/image": frames(), "/cam/depth": depths(), "/cam/camera_info": [info(stamp) for stamp in STAMPS]}
    bag = record(tmp_path / "drive", topics)
    options = ("--topic", "/cam/image", "--depth-topic", "/cam/depth")
    assert replay(bag, checkpoint, tmp_path / "out", *options) == 0
    by_topic: dict[str, list] = {}
    for topic, _, message in read(tmp_path / "out" / "annotated.mcap"):
        by_topic.setdefault(topic, []).append(message)
    assert {"/cam/depth", "/cam/camera_info", "/detector/points", "/detector/markers"} <= set(by_topic)
    # frame 4 has its own depth; frame 5 has none and goes on without
    found = by_topic["/detector/hazards"][4].hazards[0]
    assert found.has_position and found.position.z == pytest.approx(METRES, abs=1e-3)
    column = found.bbox.x_offset + found.bbox.width / 2
    assert found.position.x == pytest.approx((column - 63.5) / FOCAL * METRES, abs=0.3)
    cloud = by_topic["/detector/points"][4]
    points = cloud.data.view(np.float32).reshape(-1, 4)
    assert len(points) == cloud.width > 0 and np.allclose(points[:, 2], METRES, atol=1e-3)
    boxes = [marker for marker in by_topic["/detector/markers"][4].markers if marker.ns == "box"]
    assert len(boxes) == len(by_topic["/detector/hazards"][4].hazards)
    assert [len(array.hazards) > 0 for array in by_topic["/detector/hazards"]] == [False] * 3 + [True] * 3
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert [int(row["stamp_ns"]) for row in rows] == STAMPS
    assert float(rows[4]["nearest_m"]) == pytest.approx(METRES, rel=0.2) and rows[0]["nearest_m"] == ""
    assert any("without a position: no depth within" in note for note in metrics(tmp_path / "out")["notes"])
    state = by_topic["/detector/state"][4]
    assert state.nearest_range == pytest.approx(float(rows[4]["nearest_m"]), abs=1e-3)


def test_the_last_frame_is_searched_though_its_depth_never_comes(tmp_path, checkpoint):
    infos = [info(stamp) for stamp in STAMPS]
    topics = {"/cam/image": frames(), "/cam/depth": depths()[:3], "/cam/camera_info": infos}
    bag = record(tmp_path / "drive", topics, start_ns=1_700_000_000 * SECOND)
    assert replay(bag, checkpoint, tmp_path / "out", "--topic", "/cam/image", "--depth-topic", "/cam/depth") == 0
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert [int(row["stamp_ns"]) for row in rows] == STAMPS


def test_ros_reads_points_and_markers(tmp_path, checkpoint):
    serialization = pytest.importorskip("rclpy.serialization", reason="needs ROS 2 (rclpy)")
    from rosbags.highlevel import AnyReader
    from sensor_msgs.msg import PointCloud2
    from visualization_msgs.msg import Marker, MarkerArray

    topics = {"/cam/image": frames(), "/cam/depth": depths(), "/cam/camera_info": [info(stamp) for stamp in STAMPS]}
    bag = record(tmp_path / "drive", topics)
    assert replay(bag, checkpoint, tmp_path / "out", "--topic", "/cam/image", "--depth-topic", "/cam/depth") == 0
    with AnyReader([tmp_path / "out" / "annotated.mcap"]) as reader:
        raws: dict[str, list] = {}
        for connection, _, data in reader.messages():
            raws.setdefault(connection.topic, []).append(data)
    markers = serialization.deserialize_message(raws["/detector/markers"][4], MarkerArray).markers
    assert markers[0].action == Marker.DELETEALL and {marker.type for marker in markers[1:]} == {1, 9}
    assert markers[1].pose.orientation.w == 1.0 and markers[1].lifetime.sec == 1
    cloud = serialization.deserialize_message(raws["/detector/points"][4], PointCloud2)
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "score"]
    assert len(cloud.data) == cloud.row_step == 16 * cloud.width


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--depth-topic", "/cam/range"],
            "no depth topic /cam/range (sensor_msgs/msg/Image); it has: /cam/depth",
        ),
        (["--depth-topic", "/cam/depth"], "has no camera_info beside /cam/image"),
        (["--depth-topic", "/cam/depth", "--camera-info-topic", "/chat"], "no camera info topic /chat"),
        (["--camera-info-topic", "/chat"], "give --depth-topic too"),
        (["--topic", "/other"], "no image topic /other; it has: /cam/depth"),
    ],
)
def test_a_topic_that_is_not_there_lists_those_that_are(tmp_path, checkpoint, capsys, options, words):
    chat = [TYPES["std_msgs/msg/String"](data="hello")]
    bag = record(tmp_path / "drive", {"/cam/image": frames()[:1], "/cam/depth": depths()[:1], "/chat": chat})
    given = options if options[0] == "--topic" else ["--topic", "/cam/image", *options]
    assert replay(bag, checkpoint, tmp_path / "out", *given) == 2
    assert words in capsys.readouterr().err
