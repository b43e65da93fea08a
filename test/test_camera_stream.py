"""The camera for a machine that has none: what it sends, with which stamps, and when it ends."""

from __future__ import annotations

import itertools
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from node_support import HEIGHT, WIDTH, picture, ros_context, spinning

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
from sensor_msgs.msg import Image  # noqa: E402

from flowclas_ros.detection.images import write_png  # noqa: E402
from flowclas_ros.errors import FlowclasError  # noqa: E402
from flowclas_ros.node import camera  # noqa: E402
from flowclas_ros.node.conversion import header_ns, to_rgb  # noqa: E402

pytestmark = pytest.mark.alone

PATIENCE = 60.0  # seconds; ends a hung test, no test measures by it


@pytest.fixture
def ros():
    """.node for the camera, what was .heard by a listener in a thread of its own, by topic."""
    with ros_context() as context:
        node, listener = (rclpy.create_node(name, context=context) for name in ("camera", "listener"))
        heard = {"image": [], "ground_truth": []}
        for topic, messages in heard.items():
            listener.create_subscription(Image, topic, messages.append, 50)
        with spinning(listener):
            yield SimpleNamespace(node=node, heard=heard)
        node.destroy_node()


def folder_of(path, count):
    for number in range(count):
        write_png(path / f"{number}.png", picture(number))
    return str(path)


def bag_of(path, encoding):
    """Two frames, of which the first has a mask with the same stamp."""
    bags = pytest.importorskip("test_frames", reason="rosbags is not installed")
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    truth[:9] = 1
    images = [bags.raw(picture(number), encoding, 10**9 + number) for number in range(2)]
    return str(bags.record(path, {"/image": images, "/mask": [bags.raw(truth, "mono8", 10**9)]})), truth


def test_a_folder_is_begun_anew_when_it_ends(tmp_path):
    pictures = list(itertools.islice(camera.frames(folder_of(tmp_path, 2), None, ""), 5))
    for number, (pixels, truth) in enumerate(pictures):
        np.testing.assert_array_equal(pixels, picture(number % 2))
        assert truth is None


def test_a_bags_frames_come_with_what_is_true_of_them(tmp_path):
    bag, truth = bag_of(tmp_path / "bag", "rgb8")
    for number, (pixels, found) in enumerate(itertools.islice(camera.frames(bag, "/image", "/mask"), 4)):
        np.testing.assert_array_equal(pixels, picture(number % 2))
        if number % 2:
            assert found is None
        else:
            np.testing.assert_array_equal(found, truth)


def test_a_source_without_a_frame_that_can_be_read_ends_with_one_line(ros, tmp_path):
    bag, _ = bag_of(tmp_path / "bag", "no_such_encoding")
    with pytest.raises(FlowclasError, match="the source holds no frame"):
        camera.stream(ros.node, camera.frames(bag, "/image", "/mask"), 10.0, 0, "camera")


def test_a_frame_and_what_is_true_of_it_go_out_with_one_stamp_of_the_nodes_clock(ros):
    end = time.monotonic() + PATIENCE
    sent = []

    def pictures():
        while len(ros.heard["ground_truth"]) < 3:  # nobody tells when the second topic's listener has been found
            assert time.monotonic() < end
            sent.append(picture(len(sent)))
            yield sent[-1], np.full((HEIGHT, WIDTH), len(sent) % 200, np.uint8) if len(sent) % 2 else None

    before = ros.node.get_clock().now().nanoseconds
    result = camera.stream(ros.node, pictures(), 20.0, 1, "front_optical")
    assert result["sent"] == len(sent) and result["seconds"] >= (len(sent) - 1) / 20
    images = {header_ns(message): message for message in ros.heard["image"]}
    assert min(images) > before and list(images) == sorted(images)
    assert {message.header.frame_id for message in images.values()} == {"front_optical"}
    pairs = [(images[header_ns(truth)], truth) for truth in ros.heard["ground_truth"] if header_ns(truth) in images]
    assert pairs
    for image, truth in pairs:
        assert truth.encoding == "mono8" and truth.data[0] % 2 == 1  # the others have no truth, and none goes out
        np.testing.assert_array_equal(to_rgb(image), sent[truth.data[0] - 1])


def test_listeners_that_do_not_come_end_it_with_one_line_and_nothing_sent(ros, monkeypatch):
    monkeypatch.setattr(camera, "PATIENCE", 0.0)
    with pytest.raises(FlowclasError, match=r"only [01] of 2 listeners came to /image in 0 s"):
        camera.stream(ros.node, iter([(picture(), None)]), 10.0, 2, "camera")
    assert not ros.heard["image"]


def test_a_shutdown_between_two_frames_is_the_end_and_no_error():
    def pictures(context):
        yield picture(), None
        yield picture(), None
        context.try_shutdown()
        yield picture(), None

    with ros_context() as context:
        node = rclpy.create_node("camera", context=context)
        assert camera.stream(node, pictures(context), 100.0, 0, "camera")["sent"] == 2
        node.destroy_node()


@pytest.mark.parametrize(("seconds", "sent"), [(0.12, 6), (0.001, 1)])
def test_the_command_sends_so_many_seconds_of_frames_and_one_at_least(tmp_path, capsys, seconds, sent):
    options = ["--source", folder_of(tmp_path, 2), "--rate", "50", "--seconds", str(seconds), "--listeners", "0"]
    assert camera.main(options) == 0
    ready, summary = capsys.readouterr().out.splitlines()
    assert ready == "ready" and json.loads(summary)["sent"] == sent


def test_a_source_that_is_not_there_is_one_line_on_stderr(tmp_path, capsys):
    assert camera.main(["--source", str(tmp_path / "gone"), "--listeners", "0"]) == 2
    error = capsys.readouterr().err
    assert "gone" in error and len(error.splitlines()) == 1
