"""One camera's stream in this process: its counts add up, and what is remembered ends when it must."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from node_support import hand, image_message, ros_context

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.msg", reason="needs the generated messages (make, or colcon build)")
from builtin_interfaces.msg import Time  # noqa: E402
from rclpy.lifecycle import LifecycleNode  # noqa: E402
from sensor_msgs.msg import CameraInfo  # noqa: E402

from flowclas_ros.detection.detector import Detector  # noqa: E402
from flowclas_ros.node import stream  # noqa: E402
from flowclas_ros.node.depth_sync import SyncedFrame  # noqa: E402
from flowclas_ros.node.parameters import Settings  # noqa: E402
from flowclas_ros.node.status import Level  # noqa: E402
from flowclas_ros.node.stream import Frame, Stream  # noqa: E402

HEIGHT, WIDTH = 24, 32  # pixels
THRESHOLD = 5.0  # nats per dimension
AWAY = "paused"


@pytest.fixture(scope="module")
def detector(checkpoint):
    return Detector(checkpoint, device="cpu", threshold=THRESHOLD)


@pytest.fixture
def made(detector):
    """Makes an open stream with settings: .stream, .node, .parked, .hand a message over, .see a score."""
    streams = []

    def make(**values):
        settings, parked = Settings(**values), []
        stream = Stream(node, "", lambda: settings, lambda: detector, lambda frame: bool(parked.append(frame)))
        streams.append(stream)
        stream.open()

        def see(seconds, score=None, **synced):
            """The scene that is made of a score (H, W)."""
            frame = Frame(stream, SyncedFrame(frame_at(seconds), **{"depth": None, "camera_info": None, **synced}))
            stream.conclude(frame, stream.picture(frame), detector, hot() if score is None else score, {})
            return stream.status.scene

        return SimpleNamespace(stream=stream, context=context, parked=parked, hand=partial(hand, node), see=see)

    with ros_context() as context:
        node = LifecycleNode("detector", context=context)
        yield make
        for stream in streams:
            stream.destroy()
        node.destroy_node()


def hot(peak=9.0):
    """A score with a square of 100 pixels that stands out."""
    score = np.ones((HEIGHT, WIDTH), np.float32)
    score[5:15, 5:15] = peak
    return score


def frame_at(seconds):
    return image_message(np.zeros((HEIGHT, WIDTH, 3), np.uint8), stamp=Time(sec=seconds))


def depth_at(seconds, metres=2.0):
    return image_message(np.full((HEIGHT, WIDTH), metres, np.float32), "32FC1", Time(sec=seconds))


def counted(stream):
    counts = stream.status.counts
    return counts.received, counts.processed, counts.dropped


def test_frames_that_are_held_for_their_depth_when_the_stream_is_shut_are_dropped_ones(made):
    one = made(depth=True, depth_wait=10.0)
    one.hand("/depth", depth_at(1))
    for second in (100, 101):
        one.hand("/image", frame_at(second))
    one.stream.shut()
    assert counted(one.stream) == (2, 0, 2) and not one.parked


def test_a_frame_that_comes_in_a_pause_is_dropped_once(made):
    one = made()
    one.stream.reporter.idle = AWAY
    one.hand("/image", frame_at(1))
    assert counted(one.stream) == (1, 0, 1) and not one.parked
    one.stream.resume()
    one.hand("/image", frame_at(2))
    assert counted(one.stream) == (2, 0, 1) and len(one.parked) == 1


def test_a_frame_that_has_waited_for_its_depth_into_a_pause_is_not_searched(made):
    one = made(depth=True, depth_wait=10.0)
    one.hand("/depth", depth_at(1))
    one.hand("/image", frame_at(100))
    assert not one.parked
    one.stream.reporter.idle = AWAY
    one.hand("/depth", depth_at(100))
    assert counted(one.stream) == (1, 0, 1) and not one.parked


@pytest.mark.parametrize("how", ["activated again", "resumed"])
def test_what_was_confirmed_before_is_confirmed_anew(made, how):
    one = made(confirm_frames=2, max_age=0.0)
    assert [one.see(second).hazards for second in (1, 2)] == [0, 1]
    if how == "resumed":
        one.stream.resume()
    else:
        one.stream.shut()
        one.stream.open()
    assert [one.see(second).hazards for second in (3, 4)] == [0, 1]


def test_activated_again_a_stream_has_seen_nothing_and_counted_nothing(made):
    one = made(max_age=0.0)
    one.hand("/image", frame_at(1))
    one.see(1, hot(1.0))
    assert one.stream.reporter.verdict(0.0)[0] == Level.CLEAR and counted(one.stream) == (1, 1, 0)
    one.stream.shut()
    one.stream.open()
    assert counted(one.stream) == (0, 0, 0)
    one.hand("/image", frame_at(2))
    level, text = one.stream.reporter.verdict(0.0)
    assert (level, counted(one.stream)) == (Level.STALE, (1, 0, 0)), "the view before is no answer"
    assert "no result" in text


def test_a_view_is_not_clear_after_a_search_longer_than_stale_after(made, monkeypatch):
    one = made(max_age=0.0, stale_after=1.0)
    one.hand("/image", frame_at(1))
    begun = time.monotonic()
    times = iter([begun - 2.0, *[begun] * 9])  # the search's beginning, and all that is looked up after it
    monkeypatch.setattr(stream, "time", SimpleNamespace(monotonic=lambda: next(times)))
    one.see(1, hot(1.0))
    assert one.stream.reporter.verdict(begun)[0] == Level.STALE
    one.see(2, hot(1.0))
    assert one.stream.reporter.verdict(begun)[0] == Level.CLEAR


def test_the_scores_of_another_model_are_not_smoothed_with_those_of_the_last_and_hazards_stay(made):
    one = made(smoothing=60.0, confirm_frames=2, max_age=0.0)
    assert [one.see(second).hazards for second in (1, 2)] == [0, 1]
    assert one.see(3, hot(50.0)).peak_score < 10
    one.stream.model_changed()
    seen = one.see(4, hot(50.0))
    assert seen.peak_score == 50 and seen.hazards == 1


def test_what_limits_the_view_is_remarked_until_it_does_no_more(made):
    one = made(depth=True, self_mask="topic", max_age=0.0)
    info = CameraInfo(width=WIDTH, height=HEIGHT)
    info.k = [30.0, 0.0, WIDTH / 2, 0.0, 30.0, HEIGHT / 2, 0.0, 0.0, 1.0]
    info.p = [30.0, 0.0, WIDTH / 2, 0.0, 0.0, 30.0, HEIGHT / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
    seen = one.see(1, reason="no depth yet")
    assert np.isnan(seen.nearest_range) and seen.hazards == 1
    assert one.stream.status.remarks == (
        "no self mask has come, nothing is masked; hazards without a position: no depth yet"
    )
    one.hand("/self_mask", image_message(np.zeros((HEIGHT, WIDTH), np.uint8), "mono8"))
    seen = one.see(2, depth=depth_at(2), camera_info=info)
    assert seen.nearest_range == pytest.approx(2.0, rel=0.1)
    assert one.stream.status.remarks == ""


def test_a_hazard_is_not_hidden_by_where_the_arm_has_got_to_since_the_frame(made):
    one = made(self_mask="topic", max_age=0.0)
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for second, where in ((100, (slice(18, 24), slice(0, 32))), (101, (slice(4, 16), slice(4, 16)))):
        mask = pixels.copy()
        mask[where] = 255
        one.hand("/self_mask", image_message(mask, "mono8", Time(sec=second)))
    assert [one.see(second).anomalous_share > 0 for second in (100, 101)] == [True, False]


def test_a_frame_that_fails_while_the_process_shuts_down_is_no_second_failure(made):
    one = made()
    one.context.try_shutdown()
    one.stream.failed(ValueError("publisher's context is invalid"))
    assert counted(one.stream) == (0, 0, 0)
