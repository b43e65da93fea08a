"""The connected regions of a mask."""

from __future__ import annotations

import numpy as np
import pytest

from flowclas_ros.detection.regions import find_regions


def test_regions_join_diagonal_neighbours_drop_the_small_and_lead_with_the_highest_peak():
    mask = np.zeros((20, 30), bool)
    score = np.zeros((20, 30), np.float32)
    mask[2:5, 3:6] = mask[5:7, 6:9] = True  # touch at a corner only
    score[2:5, 3:6], score[6, 8] = 2.0, 5.0
    mask[10:14, 20:25] = True
    score[10:14, 20:25] = 7.0
    mask[18, 0:3] = True  # too small
    first, second = find_regions(mask, score, min_area=4)
    assert first.bbox == (20, 10, 5, 4)
    assert first.area == 20
    assert first.centroid == (22.0, 11.5)
    assert first.peak == first.mean == 7.0
    assert second.bbox == (3, 2, 6, 5)
    assert second.area == 9 + 6
    assert second.peak == 5.0
    assert second.mean == pytest.approx((9 * 2.0 + 5.0) / 15)


def test_a_mask_without_a_pixel_has_no_region():
    assert find_regions(np.zeros((5, 5), bool), np.zeros((5, 5), np.float32), 1) == []
