"""Nothing that is fitted on is held out as well: a checkpoint would be chosen and calibrated by what it has seen."""

import pytest

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.apart import require_apart
from flowclas_ros.training.data import open_data
from flowclas_ros.training.data_config import DataConfig, OutlierConfig


@pytest.mark.parametrize(
    "train",
    [["in"], ["in/drive"], ["in/other", "in/again"]],  # with all that is below it, the same, by another name
)
def test_a_validation_frame_that_is_a_training_frame_too_is_refused(tmp_path, train):
    for name in ("in/drive/0.png", "in/drive/1.png", "in/other/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in/again").symlink_to(tmp_path / "in/drive")
    data = DataConfig(train=tuple(str(tmp_path / name) for name in train), val=(str(tmp_path / "in/drive"),))
    with pytest.raises(FlowclasError, match=r"2 of 2 validation frames are training frames as well.*in/drive/0\.png"):
        open_data(data, seed=0)
    apart = DataConfig(train=(str(tmp_path / "in/other"),), val=data.val)
    assert len(open_data(apart, seed=0).val) == 2


def objects(**places):
    return OutlierConfig(**{key: f"things/{place}" for key, place in places.items()})


@pytest.mark.parametrize(
    ("shared", "fitted", "held_out"),
    [
        ("things/a/held", objects(cutouts="a"), objects(cutouts="a/held")),
        ("things/a", objects(cutouts="a"), objects(cutouts="a")),
        ("things/a/in", objects(images="a/in", masks="m"), objects(images="a", masks="n")),
        ("things/a.json", objects(images="i", coco_json="a.json"), objects(images="j", coco_json="a.json")),
        (None, objects(cutouts="a"), objects(cutouts="ab")),
        (None, objects(cutouts="a"), objects(images="a", masks="m")),
        (None, objects(images="i", coco_json="a.json"), objects(images="i", coco_json="b.json")),
        (None, objects(cutouts="a"), OutlierConfig()),
    ],
)
def test_objects_that_are_pasted_in_training_and_in_validation_are_refused(shared, fitted, held_out):
    data = DataConfig(outliers=fitted, outliers_val=held_out)
    if shared is None:
        require_apart(data, [], [])
    else:
        with pytest.raises(FlowclasError, match=rf"data\.outliers and data\.outliers_val both hold '{shared}'"):
            require_apart(data, [], [])


@pytest.mark.parametrize("name", ["exposed", "exposed_val"])
@pytest.mark.parametrize("of", ["train", "val"])
def test_a_frame_of_the_normal_world_is_none_of_the_scenes_that_hold_outliers(tmp_path, name, of):
    frame = tmp_path / "all/seen/images/0.png"
    frame.parent.mkdir(parents=True)
    frame.touch()
    frames = {"train": [tmp_path / "other.png"], "val": [tmp_path / "another.png"], of: [frame]}
    with pytest.raises(
        FlowclasError, match=rf"data\.{of} holds '.*seen/images/0\.png', which is of data\.{name}, whose"
    ):
        require_apart(DataConfig(**{name: str(tmp_path / "all/seen")}), **frames)
    for other in ("see", "seen/images"):  # another, and one that has a folder of the normal world beside its images
        require_apart(DataConfig(**{name: str(tmp_path / "all" / other)}), **frames)


def test_scenes_that_hold_outliers_are_not_both_fitted_on_and_chosen_by():
    require_apart(DataConfig(exposed="seen", exposed_val="seen_val"), [], [])
    with pytest.raises(FlowclasError, match=r"data\.exposed and data\.exposed_val both hold 'seen/images'"):
        require_apart(DataConfig(exposed="seen", exposed_val="seen"), [], [])
