"""Real objects as anomalies: which frames are fitted on, and what of the others counts as one."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import real_objects

from flowclas_ros.detection.images import list_images, read_mask, write_png

ROAD, RIDER, VOID = 3, real_objects.BICYCLIST, real_objects.VOID


@pytest.fixture
def camvid(tmp_path):
    """Frames of road with 0, 50 and 200 pixels of a bicyclist, each in every split, and a strip of void."""
    for split in ("train", "val"):
        for place in ("images", "labels"):
            (tmp_path / place / split).mkdir(parents=True)
        for number, pixels in enumerate((0, 50, 200)):
            classes = np.full((20, 30), ROAD, np.uint8)
            classes.ravel()[:pixels] = RIDER
            classes[-1] = VOID
            write_png(tmp_path / "labels" / split / f"{number}.png", classes)
            write_png(tmp_path / "images" / split / f"{number}.png", np.full((20, 30, 3), 40 * number, np.uint8))
    return tmp_path


def test_no_frame_with_a_bicyclist_is_fitted_on(camvid, tmp_path):
    assert real_objects.write_normal_scenes(camvid, tmp_path / "normal") == (1, 3)
    assert real_objects.write_normal_scenes(camvid, tmp_path / "normal") == (1, 3), "a call that goes on"
    assert [path.name for path in list_images(tmp_path / "normal")] == ["0.png"]


def test_frames_with_enough_of_one_are_labelled(camvid, tmp_path):
    images, masks = real_objects.write_labelled_scenes(camvid, "val", tmp_path / "scenes")
    assert [path.name for path in list_images(images)] == ["2.png"]
    mask = read_mask(masks / "2.png")
    assert ((mask == 1).sum(), (mask == 255).sum(), (mask == 0).sum()) == (200, 30, 370)
