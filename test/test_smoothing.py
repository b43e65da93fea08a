"""Smoothing in time and the two thresholds."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from flowclas_ros.detection.smoothing import ScoreSmoother, hysteresis_mask
from flowclas_ros.errors import FlowclasError

SECOND = 1_000_000_000


def constant(value, shape=(4, 6)):
    return np.full(shape, value, np.float32)


def test_a_step_arrives_to_63_percent_after_the_time_constant_whatever_the_frame_rate():
    for frames in (1, 3, 10):
        smoother = ScoreSmoother(0.3)
        smoother.update(constant(0.0), SECOND)
        for index in range(frames):
            last = smoother.update(constant(1.0), SECOND + int((index + 1) * 0.3 * SECOND / frames))
        np.testing.assert_allclose(last, 1 - math.exp(-1), rtol=1e-5)
        assert last.dtype == np.float32


def test_the_first_frame_and_one_after_a_long_gap_come_as_they_are():
    smoother = ScoreSmoother(0.1)
    np.testing.assert_array_equal(smoother.update(constant(2.0), SECOND), 2.0)
    np.testing.assert_allclose(smoother.update(constant(5.0), 11 * SECOND), 5.0)
    assert smoother.notice == ""


def test_an_earlier_result_is_not_written_over():
    smoother = ScoreSmoother(0.1)
    score = constant(1.0)
    first = smoother.update(score, SECOND)
    second = smoother.update(constant(3.0), SECOND + 50_000_000)
    kept = second.copy()
    smoother.update(constant(9.0), SECOND + 100_000_000)
    np.testing.assert_array_equal(first, 1.0)
    np.testing.assert_array_equal(second, kept)


@pytest.mark.parametrize(
    ("score", "stamp", "text"),
    [
        (constant(7.0), SECOND // 2, "time stepped back by 0.50 s"),
        (constant(7.0), SECOND, "time stepped back by 0.00 s"),
        (constant(7.0), 0, "without a stamp"),
        (constant(7.0), None, "without a stamp"),
        (constant(7.0, (6, 4)), 2 * SECOND, "changed from 6x4 to 4x6 pixels"),
    ],
)
def test_what_cannot_go_on_begins_anew_and_says_so(score, stamp, text):
    smoother = ScoreSmoother(10.0)
    smoother.update(constant(1.0), SECOND)
    np.testing.assert_array_equal(smoother.update(score, stamp), 7.0)
    assert text in smoother.notice


@pytest.mark.parametrize("time_constant", [0.0, -1.0, math.nan, math.inf])
def test_a_time_constant_that_is_none_is_refused(time_constant):
    with pytest.raises(FlowclasError, match="smoothing time constant"):
        ScoreSmoother(time_constant)


def test_a_region_counts_by_its_peak_and_reaches_to_the_low_threshold():
    score = np.zeros((20, 20), np.float32)
    score[2:8, 2:8] = 1.5  # weak, with a strong pixel
    score[4, 4] = 3.0
    score[8, 8] = 1.5  # joined to it by a corner
    score[12:18, 12:18] = 1.5  # weak alone
    expected = np.zeros((20, 20), bool)
    expected[2:8, 2:8] = expected[8, 8] = True
    np.testing.assert_array_equal(hysteresis_mask(score, 2.0, 1.0), expected)


def test_equal_thresholds_are_one_threshold():
    score = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)
    score[0, 0] = 1.0  # at the threshold is not above it: the calibration's promise is of what lies above
    np.testing.assert_array_equal(hysteresis_mask(score, 1.0, 1.0), score > 1.0)


def test_hysteresis_lists_no_more_regions_than_the_high_threshold_does():
    score = cv2.GaussianBlur(np.random.default_rng(1).normal(size=(80, 90)).astype(np.float32), (0, 0), 2)
    high, low = np.quantile(score, [0.97, 0.9])
    mask, sure = hysteresis_mask(score, high, low), score > high
    assert (mask & sure == sure).all() and mask.sum() > sure.sum()
    assert cv2.connectedComponents(mask.astype(np.uint8))[0] <= cv2.connectedComponents(sure.astype(np.uint8))[0]


def test_thresholds_the_wrong_way_round_are_refused():
    with pytest.raises(FlowclasError, match="low threshold 2 is above the high one 1"):
        hysteresis_mask(np.zeros((2, 2), np.float32), 1.0, 2.0)
