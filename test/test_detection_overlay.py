"""Pictures of a detection."""

import numpy as np

from flowclas_ros.detection.detector import Detection
from flowclas_ros.detection.overlay import OUTLINE, contact_sheet, heat_image, overlay
from flowclas_ros.detection.regions import find_regions


def detection_of(mask: np.ndarray, min_area: int = 20) -> Detection:
    heat = np.where(mask, 0.9, 0.0).astype(np.float32)
    return Detection(heat * 3, heat, mask, find_regions(mask, heat * 3, min_area), 1.0, {})


def has_outline(picture: np.ndarray) -> np.ndarray:
    return np.abs(picture.astype(int) - OUTLINE).max(axis=-1) < 60


def test_heat_grows_brighter_with_every_step_and_clips_outside_0_and_1():
    picture = heat_image(np.linspace(-0.5, 1.5, 200, dtype=np.float32)[None])
    luminance = picture[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > -1.5).all()
    assert luminance[0] < 5
    assert luminance[-1] > 200
    assert picture[0, 120, 0] > picture[0, 120, 2]  # RGB, not BGR: inferno's upper half is orange


def test_an_overlay_leaves_cool_pixels_alone_and_outlines_listed_hazards_only():
    image = np.random.default_rng(0).integers(0, 200, (120, 160, 3), dtype=np.uint8)
    before = image.copy()
    mask = np.zeros((120, 160), bool)
    mask[60:80, 60:90] = True
    mask[10:13, 10:13] = True  # below min_area: heated, not outlined
    picture = overlay(image, detection_of(mask))
    assert picture.dtype == np.uint8
    assert picture.shape == image.shape
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(picture[100:], image[100:])
    assert has_outline(picture[55:85, 55:95]).sum() > 60
    assert not has_outline(picture[5:18, 5:18]).any()
    assert (picture[10:13, 10:13] != image[10:13, 10:13]).any()


def test_a_hazard_inside_the_hole_of_another_is_outlined_too_and_the_hole_is_not():
    mask = np.zeros((200, 200), bool)
    mask[20:180, 20:180] = True
    mask[40:160, 40:160] = False
    mask[80:120, 80:120] = True
    picture = overlay(np.zeros((200, 200, 3), np.uint8), detection_of(mask))
    assert has_outline(picture[75:125, 75:125]).sum() > 100
    assert not has_outline(picture[45:58, 50:150]).any() and not has_outline(picture[39:42, 60:140]).any()


def test_an_overlay_is_within_two_grey_levels_of_blending_by_opacity():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    heat = random.uniform(0, 1, (120, 160)).astype(np.float32)
    nothing = np.zeros((120, 160), bool)
    picture = overlay(image, Detection(heat, heat, nothing, [], 1.0, {}))
    opacity = np.clip((heat - 0.25) * 1.2, 0, 0.75)[..., None]
    exact = image * (1 - opacity) + heat_image(heat) * opacity
    assert np.abs(picture - exact).max() <= 2
    np.testing.assert_array_equal(picture[heat < 0.25], image[heat < 0.25])


def test_an_overlay_survives_hazards_at_the_edges_tiny_frames_and_a_full_mask():
    for shape in ((3, 3), (40, 8), (120, 160)):
        mask = np.ones(shape, bool)
        assert overlay(np.zeros((*shape, 3), np.uint8), detection_of(mask, 1)).shape == (*shape, 3)
        assert overlay(np.zeros((*shape, 3), np.uint8), detection_of(~mask, 1)).shape == (*shape, 3)


def test_a_contact_sheet_shows_every_tile_at_one_width_with_its_aspect_kept():
    red, green = np.zeros((50, 100, 3), np.uint8), np.zeros((400, 200, 3), np.uint8)
    red[...], green[...] = (255, 0, 0), (0, 255, 0)
    sheet = contact_sheet([[("one", red), ("zwölf " * 40, green)], [("three", red)]], tile_width=100, title="title")
    assert (sheet == (255, 0, 0)).all(axis=-1).sum() == 2 * 100 * 50
    assert (sheet == (0, 255, 0)).all(axis=-1).sum() == 100 * 200
    assert contact_sheet([]).ndim == 3
