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


def message(pixels=ROBOT, padding=0, **changed):
    rows = np.hstack([pixels, np.full((len(pixels), padding), 255, np.uint8)])
    fields = {"height": pixels.shape[0], "width": pixels.shape[1], "step": rows.shape[1], "data": rows.tobytes()}
    return SimpleNamespace(**{"encoding": "mono8", "is_bigendian": 0, **fields, **changed})


def live(*messages, at=10.0):
    mask = SelfMask.from_setting("topic", "")
    for one in messages:
        mask.update(one, at)
    return mask


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_the_newest_mask_counts_for_as_long_as_a_frame_would(encoding):
    mask = live(message(1 - ROBOT), message(padding=3, encoding=encoding))
    assert mask.live
    found, remark = mask.of(ROBOT.shape, 10.9, STALE_AFTER)
    np.testing.assert_array_equal(found, ROBOT == 1)
    assert remark == ""
    assert mask.of(ROBOT.shape, 11.1, STALE_AFTER) == (None, "no self mask for 1.1 s, nothing is masked")
    mask.update(message(1 - ROBOT), 12.0)  # the arm has moved
    np.testing.assert_array_equal(mask.of(ROBOT.shape, 12.5, STALE_AFTER)[0], ROBOT == 0)


def test_before_the_first_mask_nothing_is_masked():
    assert live().of(ROBOT.shape, 0.0, STALE_AFTER) == (None, "no self mask has come, nothing is masked")


@pytest.mark.parametrize(
    ("broken", "words"), [({"encoding": "rgb8"}, "is not mono8"), ({"data": b""}, "0 bytes"), ({"step": 5}, "step 5")]
)
def test_a_mask_that_cannot_be_read_takes_the_one_before_with_it(broken, words):
    mask = live(message(), message(**broken))
    found, remark = mask.of(ROBOT.shape, 10.1, STALE_AFTER)
    assert found is None and words in remark and "nothing is masked" in remark
    mask.update(message(), 10.2)
    assert mask.of(ROBOT.shape, 10.3, STALE_AFTER)[1] == ""


def test_of_another_size_only_what_is_wholly_the_robot_is_masked():
    mask = live(message(np.repeat(np.repeat(np.eye(4, 6, dtype=np.uint8), 2, axis=0), 2, axis=1)))
    np.testing.assert_array_equal(mask.of((4, 6), 10.0, STALE_AFTER)[0], np.eye(4, 6, dtype=bool))
    np.testing.assert_array_equal(live(message(np.eye(8, 12, dtype=np.uint8))).of((4, 6), 10.0, STALE_AFTER)[0], False)
    assert mask.of((8, 12), 10.0, STALE_AFTER)[0].shape == (8, 12), "the camera's size may change"


@pytest.mark.parametrize("shape", [(8, 13), (9, 12), (12, 8)])
def test_a_mask_of_another_view_is_not_used(shape):
    found, remark = live(message()).of(shape, 10.0, STALE_AFTER)
    assert found is None and f"image of {shape[1]}x{shape[0]} differ in aspect" in remark


def test_a_file_never_grows_stale_and_each_camera_has_its_own():
    mask = SelfMask(ROBOT == 1)
    assert not mask.live and mask.of(ROBOT.shape, 1e6, STALE_AFTER)[1] == ""
    assert SelfMask.from_setting("", "front") is None
    assert str(mask_file("/masks/{camera}.png", "front")) == "/masks/front.png"


def test_a_jpeg_which_masks_what_lies_around_the_robot_too_is_refused():
    with pytest.raises(FlowclasError, match="is a JPEG, in which"):
        SelfMask.from_setting("/masks/arm.JPG", "")
