"""Harmonised pasting: on the ground, sized by distance, in the scene's light."""

import numpy as np
import pytest

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.harmonise import match_colours, size_range, soften_edge
from flowclas_ros.training.pseudo_outliers import PasteConfig, paste

CONFIG = PasteConfig(style="harmonised", min_objects=1, min_size=0.02, max_size=0.5, horizon=0.4, max_rotation=0)


def block(colour=(200, 40, 20)):
    return np.dstack([np.full((40, 40, 3), colour, np.uint8), np.full((40, 40), 255, np.uint8)])


def pasted(seed, config=CONFIG):
    """One object in a flat scene: its lowest row and its height, in pixels; None where it left the scene."""
    scene = np.full((200, 300, 3), 90, np.uint8)
    _, labels = paste(scene, [block()], config, np.random.default_rng(seed))
    rows = np.flatnonzero((labels == 1).any(axis=1))
    return (rows[-1], rows[-1] - rows[0] + 1) if rows.size else None


def test_objects_stand_below_the_horizon_and_grow_towards_the_camera():
    found = np.array([place for seed in range(60) if (place := pasted(seed)) is not None])
    feet, heights = found.T
    assert feet.min() > 0.4 * 200
    near, far = feet > 160, feet < 110
    assert heights[near].mean() > 2 * heights[far].mean()
    # At a depth d of 1 an object has at most half of 200 px; on flat ground size goes with d. 4 px: its soft edge.
    depth = (feet + 1 - 80) / 120
    assert (heights <= 100 * depth + 4).all()


def test_sizes_at_a_depth_span_a_factor_and_never_fall_below_the_least():
    assert size_range(1.0, 0.05, 0.4) == (0.1, 0.4)
    assert size_range(0.01, 0.05, 0.4) == (0.05, 0.05)


def test_strength_moves_an_object_from_its_own_colours_to_the_scenes():
    rng = np.random.default_rng(0)
    scene = np.clip(rng.normal((60, 70, 110), 12, (80, 90, 3)), 0, 255).astype(np.float32)
    obj = np.ones((30, 30, 4), np.float32)
    obj[..., :3] = rng.normal((190, 150, 90), 12, (30, 30, 3))
    distances = []
    for strength in (0.0, 0.5, 1.0):
        matched = match_colours(obj, scene, scene, strength)
        distances.append(np.abs(matched.mean(axis=(0, 1)) - scene.mean(axis=(0, 1))).max())
        if strength == 0:
            np.testing.assert_allclose(matched, obj[..., :3], atol=1.0)  # through CIELAB and back
    assert distances[0] > 1.5 * distances[1] > 3 * distances[2]
    assert distances[2] < 6  # grey levels: means agree in CIELAB, of which RGB is no linear function


def test_edges_fade_inwards_and_a_thin_part_stays():
    rgba = np.zeros((100, 100, 4), np.float32)
    rgba[20:80, 20:80] = 1
    rgba[10:20, 50:52] = 1  # two pixels wide
    faded = soften_edge(rgba)[..., 3]
    assert faded[50, 50] == 1 and faded[50, 20] < 0.95
    assert (faded[rgba[..., 3] == 0] == 0).all()
    assert faded[15, 50] > 0.1


def test_the_same_seed_gives_the_same_paste_and_the_scene_stays_where_nothing_is_pasted():
    scene = np.random.default_rng(1).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    (one, labels), (two, _) = (paste(scene, [block()] * 2, CONFIG, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert (labels == 1).any()
    untouched = np.ones(labels.shape, bool)
    rows, cols = np.nonzero(labels)
    untouched[rows.min() - 5 : rows.max() + 6, cols.min() - 5 : cols.max() + 6] = False
    np.testing.assert_array_equal(one[untouched], scene[untouched])


def test_a_horizon_without_ground_is_refused():
    with pytest.raises(FlowclasError, match=r"paste\.horizon is 1\.0; with style harmonised"):
        PasteConfig(style="harmonised", horizon=1.0)
