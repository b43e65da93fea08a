"""One stream of frames from an image, a folder, a video or a rosbag2."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from flowclas_ros.errors import FlowclasError
from flowclas_ros.replay.frames import count_frames, iter_frames

rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="rosbags is not installed")
from rosbags.typesys import Stores, get_typestore  # noqa: E402

RGB = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types


def header(stamp_ns: int):
    time = TYPES["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return TYPES["std_msgs/msg/Header"](stamp=time, frame_id="camera")


def raw(pixels: np.ndarray, encoding: str, stamp_ns: int, padding: int = 0):
    rows = np.pad(pixels.reshape(pixels.shape[0], -1), ((0, 0), (0, padding)))
    return TYPES["sensor_msgs/msg/Image"](
        header=header(stamp_ns),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.ravel(),
    )


def compressed(pixels: np.ndarray, stamp_ns: int):
    data = cv2.imencode(".png", pixels[..., ::-1])[1].ravel()
    return TYPES["sensor_msgs/msg/CompressedImage"](header=header(stamp_ns), format="png", data=data)


def record(path: Path, topics: dict[str, list], storage: str = "MCAP", start_ns: int = 1000, step_ns: int = 1) -> Path:
    """A bag at `path`; the messages of each topic are recorded `step_ns` apart, from `start_ns` on."""
    writer = rosbag2.Writer(path, version=9, storage_plugin=rosbag2.StoragePlugin[storage])
    with writer:
        for topic, messages in topics.items():
            msgtype = messages[0].__msgtype__
            connection = writer.add_connection(topic, msgtype, typestore=STORE)
            for index, message in enumerate(messages):
                writer.write(connection, start_ns + index * step_ns, STORE.serialize_cdr(message, msgtype))
    return path


def test_an_image_is_a_stream_of_one(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    (frame,) = iter_frames(tmp_path / "a.png")
    assert (frame.name, frame.stamp_ns) == ("a", None)
    np.testing.assert_array_equal(frame.image, RGB)
    assert count_frames(tmp_path / "a.png") == 1


def test_a_folder_streams_in_order_with_names_that_never_collide(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.png", "a.bmp", "sub/a.png"):
        Image.fromarray(RGB).save(tmp_path / name)
    assert [frame.name for frame in iter_frames(tmp_path)] == ["a_bmp", "a_png", "b", "sub/a"]
    assert count_frames(tmp_path) == 4


def test_a_broken_image_is_raised_or_reported_and_skipped_as_asked(tmp_path):
    for name in ("a.png", "c.png"):
        Image.fromarray(RGB).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"broken")
    errors: list[FlowclasError] = []
    assert [frame.name for frame in iter_frames(tmp_path, on_error=errors.append)] == ["a", "c"]
    assert len(errors) == 1
    assert "b.png" in str(errors[0])
    with pytest.raises(FlowclasError, match=r"b\.png"):
        list(iter_frames(tmp_path))


def test_a_video_streams_its_frames_in_rgb_with_rising_stamps(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write a video to test with")
    for _ in range(3):
        writer.write(np.full((48, 64, 3), (0, 0, 220), np.uint8))  # red, in BGR
    writer.release()
    frames = list(iter_frames(path))
    assert [frame.name for frame in frames] == ["clip_000000", "clip_000001", "clip_000002"]
    assert frames[0].image[..., 0].min() > 150 > 100 > frames[0].image[..., 2].max()
    stamps = [frame.stamp_ns for frame in frames]
    assert stamps == pytest.approx([0, 1e8, 2e8], abs=1e6)
    assert count_frames(path) == 3


def test_a_broken_video_is_an_error_naming_it(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"nothing")
    with pytest.raises(FlowclasError, match=r"clip\.mp4 has no readable frame|clip\.mp4 holds no readable frame"):
        list(iter_frames(tmp_path / "clip.mp4"))


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_a_bag_of_compressed_images_streams_with_header_stamps(tmp_path, storage):
    bag = record(
        tmp_path / "bag", {"/image/compressed": [compressed(RGB, 5 * 10**9 + 7), compressed(RGB // 2, 6)]}, storage
    )
    frames = list(iter_frames(bag))
    assert [frame.stamp_ns for frame in frames] == [5 * 10**9 + 7, 6]
    assert len({frame.name for frame in frames}) == 2
    np.testing.assert_array_equal(frames[0].image, RGB)
    np.testing.assert_array_equal(frames[1].image, RGB // 2)
    assert count_frames(bag) == 2


def test_a_bag_of_raw_images_gives_rgb_whatever_the_encoding_and_row_padding(tmp_path):
    pytest.importorskip("flowclas_ros.node.conversion", reason="the node is not here yet")
    messages = [
        raw(RGB, "rgb8", 1),
        raw(RGB[..., ::-1], "bgr8", 2, padding=5),
        raw(np.ascontiguousarray(RGB[..., 0]), "mono8", 3),
    ]
    frames = list(iter_frames(record(tmp_path / "bag", {"/image": messages})))
    np.testing.assert_array_equal(frames[0].image, RGB)
    np.testing.assert_array_equal(frames[1].image, RGB)
    np.testing.assert_array_equal(frames[2].image, np.stack([RGB[..., 0]] * 3, axis=-1))


def test_a_bag_file_opens_without_its_folder(tmp_path):
    bag = record(tmp_path / "bag", {"/image": [compressed(RGB, 1)]})
    (file,) = bag.glob("*.mcap")
    assert len(list(iter_frames(file))) == 1


def test_a_folder_of_bags_is_told_from_a_bag(tmp_path):
    for name in ("a", "b"):
        (file,) = record(tmp_path / name, {"/image": [compressed(RGB, 1)]}).glob("*.mcap")
        (tmp_path / "day").mkdir(exist_ok=True)
        file.rename(tmp_path / "day" / f"{name}.mcap")
    with pytest.raises(FlowclasError, match=r"day is no bag .* but holds 2, such as a\.mcap: name them one by one"):
        list(iter_frames(tmp_path / "day"))


def test_a_relative_path_with_a_colon_is_a_file_and_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = cv2.VideoWriter(str(tmp_path / "12:30.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    writer.write(np.zeros((24, 32, 3), np.uint8))
    writer.release()
    assert len(list(iter_frames("12:30.avi"))) == 1


def test_a_bag_with_several_image_topics_wants_one_chosen_and_lists_them(tmp_path):
    bag = record(tmp_path / "bag", {"/left": [compressed(RGB, 1)], "/right": [compressed(RGB // 2, 1)]})
    with pytest.raises(FlowclasError, match=r"2 image topics.*/left, /right"):
        list(iter_frames(bag))
    with pytest.raises(FlowclasError, match=r"no image topic /up; it has: /left, /right"):
        list(iter_frames(bag, "/up"))
    (frame,) = iter_frames(bag, "/right")
    np.testing.assert_array_equal(frame.image, RGB // 2)


def test_a_bag_without_images_lists_what_it_has(tmp_path):
    bag = record(tmp_path / "bag", {"/chatter": [TYPES["std_msgs/msg/String"](data="hello")]})
    with pytest.raises(FlowclasError, match=r"no image topic; its topics: /chatter \(std_msgs/msg/String\)"):
        list(iter_frames(bag))


def test_a_broken_message_in_a_bag_is_reported_and_the_rest_streams(tmp_path):
    bad = compressed(RGB, 2)
    bad.data[40:] = 0
    bag = record(tmp_path / "bag", {"/image": [compressed(RGB, 1), bad, compressed(RGB, 3)]})
    errors: list[FlowclasError] = []
    assert [frame.stamp_ns for frame in iter_frames(bag, on_error=errors.append)] == [1, 3]
    assert "message 1" in str(errors[0])


def test_a_damaged_bag_is_one_line_naming_it(tmp_path):
    (tmp_path / "x.mcap").write_bytes(b"\x89MCAP0\r\n nothing")
    with pytest.raises(FlowclasError, match=r"x\.mcap"):
        list(iter_frames(tmp_path / "x.mcap"))


def test_a_source_that_is_not_there_of_another_kind_or_with_a_needless_topic_is_refused(tmp_path):
    with pytest.raises(FlowclasError, match="does not exist"):
        iter_frames(tmp_path / "gone")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FlowclasError, match=r"notes\.txt is no image.*'\.txt'"):
        iter_frames(tmp_path / "notes.txt")
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(FlowclasError, match="/image was given"):
        iter_frames(tmp_path / "a.png", "/image")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_the_kits_real_drive_streams_in_both_storages(kit, storage):
    bag = kit / "wos_seq1_bag" / storage
    assert count_frames(bag) == 54
    frame = next(iter(iter_frames(bag)))
    assert frame.image.shape == (540, 960, 3)
    assert frame.stamp_ns == 1_700_000_000_000_000_000
