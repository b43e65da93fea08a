"""Depth under a mask to metres: known poses, every kind of depth image, and what ends in a reason."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from flowclas_ros.detection.geometry import Intrinsics, locate
from flowclas_ros.detection.regions import find_regions
from flowclas_ros.errors import FlowclasError

HEIGHT, WIDTH = 240, 320
CAMERA = Intrinsics(fx=300.0, fy=310.0, cx=161.3, cy=118.7, width=WIDTH, height=HEIGHT)
# A fronto-parallel box face at a known pose: centre and size in metres.
CENTRE, SIZE = (0.45, -0.3, 3.0), (0.6, 0.4)


def scene(camera=CAMERA, centre=CENTRE, size=SIZE, background=8.0):
    """Mask, score, regions and depth (metres) of a face that is rendered by the pinhole equation."""
    v, u = np.mgrid[0 : camera.height, 0 : camera.width]
    x, y = (u - camera.cx) / camera.fx * centre[2], (v - camera.cy) / camera.fy * centre[2]
    mask = (abs(x - centre[0]) <= size[0] / 2) & (abs(y - centre[1]) <= size[1] / 2)
    score = np.where(mask, 2.0, 0.1).astype(np.float32)
    depth = np.where(mask, centre[2], background).astype(np.float32)
    return mask, score, find_regions(mask, score, 1), depth


def assert_at(location, centre=CENTRE, size=SIZE, camera=CAMERA, depth_step=1e-6, pixels=1.0):
    """Within `pixels` pixels' worth: what they span at that depth."""
    pixel = (pixels * centre[2] / camera.fx, pixels * centre[2] / camera.fy)
    assert abs(location.position[0] - centre[0]) <= pixel[0]
    assert abs(location.position[1] - centre[1]) <= pixel[1]
    assert abs(location.position[2] - centre[2]) <= depth_step
    # the extent runs from centre to centre of the outermost pixels, which lie within one pixel of either edge
    assert abs(location.size[0] - size[0]) <= 2 * pixel[0] and abs(location.size[1] - size[1]) <= 2 * pixel[1]
    assert location.size[2] <= depth_step
    corner = np.maximum(np.abs(centre[:2]) - np.array(size) / 2, 0)
    assert abs(location.nearest_range - np.hypot(np.hypot(*corner), centre[2])) <= max(pixel) + depth_step


def test_a_hazard_at_a_known_pose_comes_out_within_one_pixels_worth():
    mask, score, regions, depth = scene()
    located = locate(mask, score, regions, depth, CAMERA)
    assert located.reason == "" and len(located.locations) == 1
    assert_at(located.locations[0])


def test_every_mask_pixel_becomes_a_point_with_its_score():
    mask, score, regions, depth = scene()
    score = np.where(mask, np.arange(score.size).reshape(score.shape) * 1e-4 + 1, 0).astype(np.float32)
    points = locate(mask, score, regions, depth, CAMERA).locations[0].points
    assert points.shape == (mask.sum(), 4) and points.dtype == np.float32
    u = points[:, 0] / points[:, 2] * CAMERA.fx + CAMERA.cx
    v = points[:, 1] / points[:, 2] * CAMERA.fy + CAMERA.cy
    columns, rows = np.rint(u).astype(int), np.rint(v).astype(int)
    np.testing.assert_allclose(u, columns, atol=1e-3)
    np.testing.assert_array_equal(points[:, 3], score[rows, columns])


def test_the_nearest_point_is_measured_along_its_ray_and_not_along_the_axis():
    camera = Intrinsics(100.0, 100.0, 159.5, 119.5, WIDTH, HEIGHT)
    centre, size = (3.0, 2.0, 3.0), (0.8, 0.6)
    mask, score, regions, depth = scene(camera, centre, size)
    location = locate(mask, score, regions, depth, camera).locations[0]
    assert location.nearest_range == pytest.approx(np.linalg.norm([2.6, 1.7, 3.0]), abs=0.05)


def test_stray_depth_at_an_edge_moves_no_position_and_makes_the_hazard_nearer_and_larger():
    mask, score, regions, depth = scene()
    v, u = np.nonzero(mask)
    depth[v[:9], u[:9]] = 1.0  # metres
    location = locate(mask, score, regions, depth, CAMERA).locations[0]
    assert location.position == pytest.approx(CENTRE, abs=0.02)
    assert location.size[2] == pytest.approx(2.0) and location.nearest_range < 1.2


@pytest.mark.parametrize("wall", [6.0, 30.0])
def test_the_wall_behind_that_the_masks_edge_holds_does_not_make_the_hazard_larger(wall):
    mask, score, regions, depth = scene()
    expected = locate(mask, score, regions, depth, CAMERA).locations[0]
    edge = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    depth[edge] = wall
    location = locate(mask, score, regions, depth, CAMERA).locations[0]
    cut = 2 * 2 * CENTRE[2]  # two pixels of each side
    inner = expected.size[0] - cut / CAMERA.fx, expected.size[1] - cut / CAMERA.fy
    assert location.size == pytest.approx((*inner, 0.0), abs=1e-5)
    assert location.position == pytest.approx(expected.position, abs=1e-5)
    assert len(location.points) == mask.sum() and location.points[:, 2].max() == wall  # a second hazard may be there


def test_a_hazard_that_reaches_into_the_distance_is_measured_whole():
    mask, score, regions, depth = scene()
    rows = np.nonzero(mask.any(axis=1))[0]
    depth[rows] = np.linspace(20.0, 3.0, len(rows))[:, None]
    assert locate(mask, score, regions, depth, CAMERA).locations[0].size[2] == pytest.approx(17.0)


def test_of_finer_depth_the_pixel_in_the_middle_counts():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[100, 200] = True
    fine = 1.0 + np.arange(3 * HEIGHT)[:, None] * 1e-3 + np.arange(3 * WIDTH) * 1e-2
    location = locate(mask, mask.astype(np.float32), find_regions(mask, mask.astype(np.float32), 1), fine, CAMERA)
    assert location.locations[0].position[2] == pytest.approx(1.0 + 301 * 1e-3 + 601 * 1e-2)


def test_millimetres_and_metres_agree():
    mask, score, regions, depth = scene()
    located = locate(mask, score, regions, np.rint(depth * 1000).astype(np.uint16), CAMERA)
    assert_at(located.locations[0], depth_step=1e-3)


@pytest.mark.parametrize("factor", [0.5, 2, 3])
def test_depth_of_another_size_still_gives_the_pose(factor):
    mask, score, regions, _ = scene()
    height, width = int(HEIGHT * factor), int(WIDTH * factor)
    depth = scene(CAMERA.scaled_to(width, height))[3]
    depth = np.where(depth == CENTRE[2], depth, np.nan).astype(np.float32)  # a coarse pixel at the edge is one or other
    assert_at(locate(mask, score, regions, depth, CAMERA).locations[0], pixels=max(1.0, 1 / factor))


def test_intrinsics_of_another_size_are_scaled():
    mask, score, regions, depth = scene()
    assert_at(locate(mask, score, regions, depth, CAMERA.scaled_to(1280, 960)).locations[0])


def test_scaling_keeps_the_images_edges():
    half = Intrinsics(100, 100, 49.5, 39.5, 100, 80).scaled_to(50, 40)
    assert (half.fx, half.cx, half.cy) == (50, 24.5, 19.5)


@pytest.mark.parametrize("scale", [0.05, 0.07, 0.13, 0.33, 0.9])
def test_a_size_rounded_to_whole_pixels_is_the_same_view(scale):
    full = Intrinsics(100, 100, 64, 48, 129, 97)
    small = full.scaled_to(round(129 * scale), round(97 * scale))
    assert (small.width, small.height) == (round(129 * scale), round(97 * scale))
    assert (small.fx, small.fy) == pytest.approx((100 * small.width / 129, 100 * small.height / 97))


def test_a_region_thinner_than_a_depth_pixel_is_not_lost():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[50:150, 101] = True
    score = mask.astype(np.float32)
    located = locate(mask, score, find_regions(mask, score, 1), np.full((30, 40), 2.0, np.float32), CAMERA)
    assert len(located.locations[0].points) == 100


@pytest.mark.parametrize("bad", [np.nan, 0.0, -1.0, np.inf, -np.inf])
def test_depth_without_a_valid_pixel_gives_a_reason_and_no_location(bad):
    mask, score, regions, depth = scene()
    located = locate(mask, score, regions, np.full_like(depth, bad), CAMERA)
    assert located.locations == [None] and "320x240 pixels holds no valid pixel" in located.reason


def test_zero_millimetres_are_no_measurement():
    mask, score, regions, _ = scene()
    located = locate(mask, score, regions, np.zeros((HEIGHT, WIDTH), np.uint16), CAMERA)
    assert located.locations == [None] and "no valid pixel" in located.reason


def test_invalid_pixels_are_left_out_and_the_rest_counts():
    mask, score, regions, depth = scene()
    holes = np.random.default_rng(0).random(depth.shape) < 0.5
    location = locate(mask, score, regions, np.where(holes, np.nan, depth), CAMERA).locations[0]
    assert len(location.points) == (mask & ~holes).sum()
    assert_at(location)


def test_a_region_alone_without_depth_has_no_location_and_no_reason():
    mask, score, _, depth = scene()
    mask[200:220, 10:30] = True
    score[200:220, 10:30] = 5.0
    regions = find_regions(mask, score, 1)
    located = locate(mask, score, regions, np.where(np.arange(HEIGHT)[:, None] >= 200, np.nan, depth), CAMERA)
    assert located.reason == "" and located.locations[0] is None
    assert_at(located.locations[1])


def test_a_hazard_alone_beyond_the_sensors_reach_is_no_fault_of_the_depth_image():
    mask, score, regions, depth = scene()
    located = locate(mask, score, regions, np.where(mask, np.nan, depth), CAMERA)
    assert located.locations == [None] and located.reason == ""


def test_a_region_inside_the_box_of_another_keeps_its_own_pixels():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:120, 20] = mask[119, 20:120] = True  # an L, and a square in its corner
    mask[40:60, 60:80] = True
    score = mask.astype(np.float32)
    depth = np.full((HEIGHT, WIDTH), 5.0, np.float32)
    depth[40:60, 60:80] = 2.0
    regions = find_regions(mask, score, 1)
    for region, location in zip(regions, locate(mask, score, regions, depth, CAMERA).locations, strict=True):
        assert location.position[2] == (2.0 if region.area == 400 else 5.0)
        assert len(location.points) == region.area


def test_a_ring_and_what_lies_in_its_middle_keep_their_own_pixels():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:61, 20:61] = True
    mask[22:59, 22:59] = False
    mask[35:46, 35:46] = True  # of the same centre
    depth = np.where(mask, 5.0, 9.0)
    depth[35:46, 35:46] = 2.0
    regions = find_regions(mask, mask.astype(np.float32), 1)
    places = locate(mask, mask.astype(np.float32), regions, depth, CAMERA).locations
    assert {region.area: place.position[2] for region, place in zip(regions, places, strict=True)} == {
        41**2 - 37**2: 5.0,
        11**2: 2.0,
    }


def test_a_region_that_hangs_together_by_corners_is_one_beside_another_too():
    mask = np.eye(HEIGHT, WIDTH, dtype=bool)
    mask[10:20, 60:70] = True
    score = mask.astype(np.float32)
    regions = find_regions(mask, score, 1)
    places = locate(mask, score, regions, np.full((HEIGHT, WIDTH), 4.0), CAMERA).locations
    assert sorted(len(place.points) for place in places) == [100, HEIGHT]


def test_specks_below_min_area_give_no_points():
    mask, score, _, depth = scene()
    mask[5, 5] = True
    regions = find_regions(mask, score, 10)
    located = locate(mask, score, regions, depth, CAMERA)
    assert sum(len(location.points) for location in located.locations) == mask.sum() - 1


def test_no_region_is_no_reason():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    located = locate(mask, mask.astype(np.float32), [], np.full((HEIGHT, WIDTH), np.nan, np.float32), CAMERA)
    assert located.locations == [] and located.reason == ""


def test_another_view_ends_in_a_reason():
    mask, score, regions, depth = scene()
    cropped = locate(mask, score, regions, depth[:160], CAMERA)
    assert cropped.locations == [None] and "depth of 320x160 pixels" in cropped.reason
    square = locate(mask, score, regions, depth, Intrinsics(300, 300, 100, 100, 200, 200))
    assert square.locations == [None] and "camera info of 200x200 pixels" in square.reason
    for height in (0, 225, 256):  # no picture at all; 64:45, 5:4
        other = locate(mask, score, regions, np.full((height, WIDTH), 2.0), CAMERA)
        assert other.locations == [None] and f"depth of 320x{height} pixels" in other.reason
    with pytest.raises(FlowclasError, match="0x0 pixels cannot serve"):
        Intrinsics(300, 300, 100, 100, 0, 0).scaled_to(320, 240)
