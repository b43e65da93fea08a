"""Pairing colour with depth, on message_filters where installed and on the stand-in: late, missing, jumping in time."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.depth_sync import SILENT, DepthSync, MessageFilters, NearestStamp, pairing

try:
    from builtin_interfaces.msg import Time
except ImportError:
    Time = SimpleNamespace

SLOP, WAIT, FRAME = 0.02, 0.1, 0.05  # seconds
START = 1000.0
INSTALLED = importlib.util.find_spec("message_filters") is not None


@pytest.fixture(
    params=[
        NearestStamp,
        pytest.param(
            MessageFilters,
            marks=pytest.mark.skipif(
                not INSTALLED,
                reason="message_filters is not installed (not on PyPI; apt install ros-$ROS_DISTRO-message-filters)",
            ),
        ),
    ],
    ids=["own", "message_filters"],
)
def rig(request):
    return Rig(request.param)


class Rig:
    """A DepthSync on a clock of its own, and what it delivered."""

    def __init__(self, make_pairing=NearestStamp, **settings):
        self.now = 0.0
        self.got = []
        self.sync = DepthSync(
            self.got.append,
            **{"slop": SLOP, "queue": 5, "wait": WAIT, **settings},
            clock=lambda: self.now,
            make_pairing=make_pairing,
        )
        self.sync.camera_info("info")

    def image(self, stamp):
        self.sync.image(message := made(stamp))
        return message

    def depth(self, stamp):
        self.sync.depth(message := made(stamp))
        return message

    def wait(self, seconds):
        """Let time pass as the node's timer does."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + self.sync.period)
            self.sync.poll()

    def warm_up(self):
        """Depth is heard, so that frames wait for it."""
        self.image(START)
        self.depth(START)
        self.got.clear()


def made(stamp):
    sec, nanosec = divmod(round(stamp * 1e9), 1_000_000_000)
    return SimpleNamespace(header=SimpleNamespace(stamp=Time(sec=sec, nanosec=nanosec), frame_id="camera"))


def test_depth_within_the_slop_goes_with_its_frame_whichever_comes_first(rig):
    rig.warm_up()
    for index, (first, second) in enumerate([(rig.image, rig.depth), (rig.depth, rig.image)], start=1):
        stamp = START + index * FRAME
        messages = {first: first(stamp), second: second(stamp)}
        frame = rig.got[-1]
        assert len(rig.got) == index and frame.reason == ""
        assert frame.image is messages[rig.image] or frame.image.header == messages[rig.image].header
        assert frame.depth is messages[rig.depth] and frame.camera_info == "info"


def test_a_stamp_that_differs_by_less_than_the_slop_still_pairs(rig):
    rig.warm_up()
    image, depth = rig.image(START + FRAME), rig.depth(START + FRAME + 0.015)
    assert rig.got[0].image is image and rig.got[0].depth is depth


def test_a_stamp_that_differs_by_more_than_the_slop_does_not_pair(rig):
    rig.warm_up()
    rig.image(START + FRAME)
    rig.depth(START + FRAME + 0.024)
    rig.depth(START + FRAME - 0.024)
    rig.wait(2 * WAIT)
    assert [frame.depth for frame in rig.got] == [None]
    assert rig.got[0].camera_info == "info", "the outputs' camera info needs no depth"


def test_depth_that_ran_ahead_of_the_frames_keeps_its_newest(rig):
    rig.warm_up()
    depths = [rig.depth(START + index * FRAME) for index in range(1, 9)]
    rig.image(START + 8 * FRAME)
    assert [frame.depth for frame in rig.got] == [depths[-1]]


def test_a_stream_at_full_rate_pairs_every_frame_with_its_own_depth(rig):
    for index in range(40):
        rig.image(START + index * FRAME)
        rig.wait(0.01)
        rig.depth(START + index * FRAME + 0.004)
        rig.wait(FRAME - 0.01)
    assert len(rig.got) == 40
    assert [frame.depth is not None for frame in rig.got[1:]] == [True] * 39
    offsets = [stamp_of(frame.depth) - stamp_of(frame.image) for frame in rig.got[1:]]
    assert offsets == pytest.approx([0.004] * 39, abs=1e-6)


def test_the_first_frame_does_not_wait_for_depth_that_was_never_heard(rig):
    image = rig.image(START)
    assert [frame.image for frame in rig.got] == [image]
    assert rig.got[0].depth is None and rig.got[0].reason == "no depth yet"


def test_a_frame_without_depth_goes_on_within_the_bound(rig):
    rig.warm_up()
    image = rig.image(START + FRAME)
    rig.wait(WAIT - 0.02)
    assert rig.got == []
    rig.wait(0.02 + rig.sync.period)
    assert [frame.image for frame in rig.got] == [image] and rig.got[0].depth is None
    assert "no depth within 20 ms" in rig.got[0].reason and "the nearest is 50 ms before" in rig.got[0].reason


def test_depth_that_comes_too_late_does_not_bring_the_frame_again(rig):
    rig.warm_up()
    rig.image(START + FRAME)
    rig.wait(2 * WAIT)
    rig.depth(START + FRAME)
    rig.wait(2 * WAIT)
    assert len(rig.got) == 1


def test_depth_that_stopped_holds_nothing_back(rig):
    rig.warm_up()
    rig.wait(SILENT + 0.1)
    image = rig.image(START + SILENT)
    assert [frame.image for frame in rig.got] == [image] and "no depth for 1.1 s" in rig.got[0].reason


def test_depth_with_other_stamps_leaves_every_frame_in_order_and_in_time(rig):
    held = {}
    rig.warm_up()
    for index in range(1, 30):
        held[id(rig.image(START + index * FRAME))] = rig.now
        rig.depth(START - 0.4 + index * FRAME)
        rig.wait(FRAME)
    rig.wait(2 * WAIT)
    assert len(rig.got) == 29 and all(frame.depth is None for frame in rig.got)
    stamps = [stamp_of(frame.image) for frame in rig.got]
    assert stamps == sorted(stamps)
    assert "the nearest is" in rig.got[-1].reason


def test_frames_stay_in_order_when_an_earlier_one_gets_no_depth(rig):
    rig.warm_up()
    images = [rig.image(START + index * FRAME) for index in (1, 2)]
    depth = rig.depth(START + 2 * FRAME)
    assert [frame.image for frame in rig.got] == images
    assert [frame.depth for frame in rig.got] == [None, depth]


def test_no_more_frames_are_held_than_the_queue_takes(rig):
    rig.warm_up()
    for index in range(1, 9):
        rig.image(START + index * 0.001)
    assert len(rig.got) == 3


def test_frames_that_share_a_stamp_are_each_delivered_once(rig):
    rig.warm_up()
    images = [rig.image(START + FRAME), rig.image(START + FRAME)]
    rig.depth(START + FRAME)
    rig.wait(2 * WAIT)
    assert [frame.image for frame in rig.got] == images


def test_a_stamp_before_1970_harms_nothing(rig):
    rig.warm_up()
    rig.depth(-5.0)
    rig.image(-5.0)
    rig.wait(2 * WAIT)
    assert len(rig.got) == 1
    depth, image = rig.depth(START), rig.image(START)
    assert (rig.got[-1].image, rig.got[-1].depth) == (image, depth)


def test_message_filters_is_not_given_a_stamp_that_rclpy_refuses(monkeypatch):
    time = pytest.importorskip("rclpy.time", reason="needs ROS 2 (rclpy)")
    taken = []
    # a stand-in, as message_filters is not on PyPI: it makes rclpy's Time of every stamp first
    filters = SimpleNamespace(
        SimpleFilter=lambda: SimpleNamespace(
            signalMessage=lambda message: taken.append(time.Time.from_msg(message.header.stamp))
        ),
        ApproximateTimeSynchronizer=lambda *_: SimpleNamespace(registerCallback=lambda _: None),
    )
    monkeypatch.setitem(sys.modules, "message_filters", filters)
    found = MessageFilters(lambda image, depth: None, 5, SLOP)
    for stamp in (-5.0, START):
        found.add(0, made(stamp))
    assert len(taken) == 1


def test_a_bag_that_starts_again_pairs_again(rig):
    for base in (START, START - 500.0):
        rig.got.clear()
        for index in range(8):
            rig.depth(base + index * FRAME)
            rig.image(base + index * FRAME)
            rig.wait(FRAME)
        assert len(rig.got) == 8
        assert all(frame.depth is not None for frame in rig.got), base


def test_without_camera_info_depth_is_delivered_and_the_reason_says_so(rig):
    rig.sync.camera_info(None)
    rig.warm_up()
    rig.image(START + FRAME)
    rig.depth(START + FRAME)
    assert rig.got[0].depth is not None and "no camera info" in rig.got[0].reason


def test_flush_lets_go_all_that_is_held_in_order_and_whatever_the_clock_says(rig):
    rig.now = 1_700_000_000.0  # the times of a recording, where now + WAIT - now is below WAIT
    rig.warm_up()
    images = [rig.image(START + index * FRAME) for index in (1, 2)]
    assert rig.got == []
    rig.sync.flush()
    assert [frame.image for frame in rig.got] == images and "no depth within" in rig.got[0].reason
    rig.depth(START + 2 * FRAME)
    assert len(rig.got) == 2


def test_clear_forgets_what_is_held(rig):
    rig.warm_up()
    rig.image(START + FRAME)
    assert rig.sync.clear() == 1 and rig.sync.clear() == 0
    rig.depth(START + FRAME)
    rig.wait(2 * WAIT)
    assert rig.got == []


@pytest.mark.parametrize(
    ("setting", "text"),
    [({"slop": 0.0}, "slop 0 s"), ({"queue": 6}, "queue 6"), ({"queue": 0}, "queue 0"), ({"wait": -1.0}, "wait -1 s")],
)
def test_a_setting_out_of_range_is_refused(setting, text):
    with pytest.raises(FlowclasError, match=text):
        Rig(**setting)


def test_message_filters_is_taken_where_it_is_installed():
    made_by = pairing(lambda image, depth: None, 5, SLOP)
    assert isinstance(made_by, MessageFilters if INSTALLED else NearestStamp)


def stamp_of(message):
    return message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
