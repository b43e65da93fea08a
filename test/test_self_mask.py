"""A self mask: in doubt nothing is masked, and a remark says why."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.self_mask import SelfMask, mask_file

STALE_AFTER = 1.0  # seconds on the tests' own clock
ROBOT = np.zeros((8, 12), np.uint8)
ROBOT[:, :6] = 1  # nonzero is the robot, not 255 alone


def message(pixels=ROBOT, padding=0, stamp=0.0, **changed):
    rows = np.hstack([pixels, np.full((len(pixels), padding), 255, np.uint8)])
    nanoseconds = round(stamp * 1e9)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9))
    fields = {
        "header": header,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "step": rows.shape[1],
        "data": rows.tobytes(),
    }
    return SimpleNamespace(**{"encoding": "mono8", "is_bigendian": 0, **fields, **changed})


def live(*messages):
    mask = SelfMask.from_setting("topic", "")
    for one in messages:
        mask.update(one, 10.0)
    return mask


def at(mask, received, shape=ROBOT.shape, stamp=0):
    return mask.of(shape, STALE_AFTER, stamp=stamp, received=received)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_without_stamps_the_mask_counts_that_came_nearest_to_the_frame(encoding):
    mask = live(message(1 - ROBOT), message(padding=3, encoding=encoding))
    assert mask.live
    found, remark = at(mask, 10.9)
    np.testing.assert_array_equal(found, ROBOT == 1)
    assert remark == ""
    assert at(mask, 11.1) == (
        None,
        "self mask is 1.1 s off the frame (stale, or of another clock), nothing is masked",
    )
    mask.update(message(1 - ROBOT), 12.0)  # the arm has moved
    np.testing.assert_array_equal(at(mask, 12.5)[0], ROBOT == 0)
    np.testing.assert_array_equal(at(mask, 10.9)[0], ROBOT == 1)  # of a frame that has waited for the model


def test_the_mask_of_the_frames_own_time_counts_and_not_a_newer_one():
    """Where the arm is by now a hazard may have stood in the frame."""
    mask = SelfMask.from_setting("topic", "")
    for number in range(4):
        mask.update(message(np.roll(ROBOT, number, axis=1), stamp=100.0 + 0.1 * number), 50.0)
    for stamp, number in ((100.0, 0), (100.12, 1), (100.21, 2), (101.0, 3)):
        found, remark = at(mask, 50.0, stamp=round(stamp * 1e9))
        np.testing.assert_array_equal(found, np.roll(ROBOT, number, axis=1) == 1)
        assert remark == ""
    assert at(mask, 50.0, stamp=round(98.5e9)) == (
        None,
        "self mask is 1.5 s off the frame (stale, or of another clock), nothing is masked",
    )


@pytest.mark.parametrize("stale_after", [1.0, 20.0])
def test_masks_are_kept_for_as_long_as_a_frame_may_wait_for_its_search(stale_after):
    mask = SelfMask.from_setting("topic", "")
    for step in range(1000):
        mask.update(message(np.roll(ROBOT, step, axis=1), stamp=1 + step / 10), step / 10)
        mask.of(ROBOT.shape, stale_after)
    assert len(mask._received) == pytest.approx(20 * stale_after, abs=2)
    old = 1000 - int(10 * stale_after)
    found, remark = mask.of(ROBOT.shape, stale_after, stamp=round((1 + old / 10) * 1e9), received=100.0)
    np.testing.assert_array_equal(found, np.roll(ROBOT, old, axis=1) == 1)
    assert remark == ""


def test_masks_of_before_time_stepped_back_are_forgotten():
    mask = SelfMask.from_setting("topic", "")
    for stamp in (2.0, 3.0, 1.96):
        mask.update(message(np.roll(ROBOT, int(stamp), axis=1), stamp=stamp), 10.0)
    np.testing.assert_array_equal(at(mask, 10.0, stamp=round(2e9))[0], np.roll(ROBOT, 1, axis=1) == 1)


def test_before_the_first_mask_nothing_is_masked():
    assert at(live(), 0.0) == (None, "no self mask has come, nothing is masked")


@pytest.mark.parametrize(
    ("broken", "words"), [({"encoding": "rgb8"}, "is not mono8"), ({"data": b""}, "0 bytes"), ({"step": 5}, "step 5")]
)
def test_a_mask_that_cannot_be_read_takes_the_one_before_with_it(broken, words):
    mask = live(message(), message(**broken))
    found, remark = at(mask, 10.0)
    assert found is None and words in remark and "nothing is masked" in remark
    mask.update(message(), 10.2)
    assert at(mask, 10.3)[1] == ""


def test_of_another_size_only_what_is_wholly_the_robot_is_masked():
    mask = live(message(np.repeat(np.repeat(np.eye(4, 6, dtype=np.uint8), 2, axis=0), 2, axis=1)))
    np.testing.assert_array_equal(at(mask, 10.0, (4, 6))[0], np.eye(4, 6, dtype=bool))
    np.testing.assert_array_equal(at(live(message(np.eye(8, 12, dtype=np.uint8))), 10.0, (4, 6))[0], False)
    assert at(mask, 10.0, (8, 12))[0].shape == (8, 12), "the camera's size may change"


@pytest.mark.parametrize("shape", [(8, 13), (9, 12), (12, 8)])
def test_a_mask_of_another_view_is_not_used(shape):
    found, remark = at(live(message()), 10.0, shape)
    assert found is None and f"image of {shape[1]}x{shape[0]} differ in aspect" in remark


def test_a_file_never_grows_stale_and_each_camera_has_its_own():
    mask = SelfMask(ROBOT == 1)
    assert not mask.live and at(mask, 1e6)[1] == ""
    assert SelfMask.from_setting("", "front") is None
    assert str(mask_file("/masks/{camera}.png", "front")) == "/masks/front.png"


def test_a_jpeg_which_masks_what_lies_around_the_robot_too_is_refused():
    with pytest.raises(FlowclasError, match="is a JPEG, in which"):
        SelfMask.from_setting("/masks/arm.JPG", "")
