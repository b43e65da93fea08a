"""The public data sets' layouts, on tiny trees that lie exactly as they do."""

import json

import numpy as np
import pytest
from benchmark_trees import (
    H,
    W,
    allo,
    cityscapes,
    fishyscapes,
    fishyscapes_images,
    fishyscapes_original,
    fishyscapes_static,
    fishyscapes_static_original,
    fishyscapes_static_overlays,
    lost_and_found,
    mvtec,
    road_anomaly,
    road_anomaly_webp,
    smiyc_anomaly,
    smiyc_obstacle,
    street_hazards,
    write,
)

from flowclas_ros.detection.images import read_image
from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.benchmarks import inlier_images, open_benchmark, unlabelled_pairs
from flowclas_ros.training.data import list_frames
from flowclas_ros.training.data_config import DataConfig
from flowclas_ros.training.data_sets import BENCHMARKS, NAMES

# Trees; how many labelled images each holds; what a column of each id becomes.
TREES = {
    "fishyscapes_lost_and_found": [(fishyscapes, 2), (fishyscapes_original, 2), (fishyscapes_images, 2)],
    "fishyscapes_static": [
        (fishyscapes_static, 2),
        (fishyscapes_static_overlays, 2),
        (fishyscapes_static_original, 2),
    ],
    "road_anomaly": [(road_anomaly, 2), (road_anomaly_webp, 2)],
    "smiyc_anomaly": [(smiyc_anomaly, 2)],
    "smiyc_obstacle": [(smiyc_obstacle, 2)],
    "lost_and_found": [(lost_and_found, 2)],
    "allo": [(allo, 2)],
    "street_hazards": [(street_hazards, 2)],
    "mvtec": [(mvtec, 3)],
}
CASES = [(name, tree, count) for name, trees in TREES.items() for tree, count in trees]


def test_every_benchmark_has_a_tree_here():
    assert set(TREES) == set(NAMES) - {"folder", "manifest"}


@pytest.mark.parametrize(("name", "tree", "count"), CASES, ids=[tree.__name__ for _, tree, _ in CASES])
def test_a_tree_of_the_published_layout_gives_its_images_with_their_labels(tmp_path, name, tree, count):
    tree(tmp_path)
    _, pairs = open_benchmark(name, tmp_path)
    assert len(pairs) == count == len({pair.name for pair in pairs})
    for pair in pairs:
        mask = pair.read_mask(read_image(pair.image))
        assert mask.shape == (H, W)
        if pair.all_normal:
            assert not mask.any()
        else:  # ids in turn: normal, anomaly, and one more
            assert mask.ravel()[0] == 0 and mask.ravel()[1] == 1
            assert mask.ravel()[2] == (0 if name in ("road_anomaly", "mvtec") else 255)


@pytest.mark.parametrize(("name", "tree", "count"), CASES, ids=[tree.__name__ for _, tree, _ in CASES])
def test_another_layout_says_what_was_expected_and_what_is_there(tmp_path, name, tree, count):
    (tmp_path / "somewhere").mkdir()
    (tmp_path / "readme.txt").write_text("else")
    with pytest.raises(FlowclasError) as raised:
        open_benchmark(name, tmp_path)
    text = str(raised.value)
    assert text.startswith(f"{name}: {tmp_path} should hold {BENCHMARKS[name].labels[0]}")
    assert "readme.txt, somewhere/" in text and "\n" not in text


def test_an_error_follows_the_layout_as_far_as_it_holds(tmp_path):
    write(tmp_path, "gtCoarse/train/a/a_gtCoarse_labelIds.png", ids=(1,))
    with pytest.raises(FlowclasError, match=rf"{tmp_path}/gtCoarse has no folder 'test', but train/$"):
        open_benchmark("lost_and_found", tmp_path)
    with pytest.raises(FlowclasError, match="nowhere does not exist"):
        open_benchmark("lost_and_found", tmp_path / "nowhere")


def test_a_label_without_its_image_names_both(tmp_path):
    smiyc_anomaly(tmp_path)
    (tmp_path / "dataset_AnomalyTrack/images/validation0001.jpg").unlink()
    with pytest.raises(FlowclasError, match=r"validation0001_labels.* expected dataset_AnomalyTrack/images/validation"):
        open_benchmark("smiyc_anomaly", tmp_path)


@pytest.mark.parametrize(
    ("name", "tree", "label"),
    [
        ("mvtec", mvtec, "ground_truth/hole/000_mask.png"),
        ("street_hazards", street_hazards, "test/annotations/test/t6/7.png"),
        ("allo", allo, "test_v3/normal/seq1/masks/000.png"),
    ],
)
def test_an_image_without_its_label_is_not_left_out_in_silence_where_no_count_would_tell(tmp_path, name, tree, label):
    tree(tmp_path)
    (tmp_path / label).unlink()
    with pytest.raises(FlowclasError, match=r"1 image\(s\) have no label file .*, such as .*\.png"):
        open_benchmark(name, tmp_path)


def test_the_data_sets_own_folder_may_be_named_as_its_root(tmp_path):
    smiyc_obstacle(tmp_path)
    _, pairs = open_benchmark("smiyc_obstacle", tmp_path / "dataset_ObstacleTrack")
    assert [pair.image.stem for pair in pairs] == ["validation_1", "validation_2"]  # 21 is not in the toolkit's split


def test_any_first_folder_of_the_data_set_may_be_named_as_its_root_for_the_export_too(tmp_path):
    lost_and_found(tmp_path)
    write(tmp_path, "leftImg8bit/test/x/unlabelled_leftImg8bit.png")
    for first in ("gtCoarse", "leftImg8bit"):
        benchmark, pairs = open_benchmark("lost_and_found", tmp_path / first)
        more = unlabelled_pairs(benchmark, tmp_path / first, pairs)
        assert len(pairs) == 2 and "unlabelled_leftImg8bit" in [pair.image.stem for pair in more]


def test_a_root_that_is_called_like_a_folder_of_another_layout_stays_the_root(tmp_path):
    fishyscapes_static(tmp_path / "Static")
    fishyscapes_static(tmp_path / "LostAndFound")
    assert len(open_benchmark("fishyscapes_static", tmp_path / "Static")[1]) == 2


def test_linked_folders_are_looked_into(tmp_path):
    """Where each sequence lies on a disk of its own."""
    allo(tmp_path / "disk")
    for place in ("test_v3/normal", "test_v3/anomalous/seq0", "train_v3/scene"):
        (tmp_path / "data" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / place).symlink_to(tmp_path / "disk" / place)
    assert len(open_benchmark("allo", tmp_path / "data")[1]) == 2
    assert len(inlier_images(f"allo/train:{tmp_path / 'data'}")) == 2


def test_an_overlay_is_added_to_its_image_and_one_that_does_not_fit_is_told(tmp_path):
    fishyscapes_static_overlays(tmp_path)
    _, pairs = open_benchmark("fishyscapes_static", tmp_path)
    assert [pair.read_image().ravel()[0] for pair in pairs] == [30, 0], "0 and 30, 0 and -10"
    assert pairs[0].name == "fs_val_v3/0000_frankfurt_000000_000294_rgb"
    np.savez(pairs[0].overlay, rgb=np.zeros((2, 2, 3)))
    with pytest.raises(FlowclasError, match=r"_rgb\.npz has shape \(2, 2, 3\), its image .* \(6, 10, 3\)"):
        pairs[0].read_image()
    pairs[1].overlay.write_bytes(b"PK")
    with pytest.raises(FlowclasError, match=r"_rgb\.npz is no \.npz that holds 'rgb'"):
        pairs[1].read_image()


def test_a_root_that_is_called_like_the_data_sets_first_folder_is_a_root(tmp_path):
    street_hazards(tmp_path / "test")  # where the archive of the test split was unpacked
    _, pairs = open_benchmark("street_hazards", tmp_path / "test")
    assert pairs == open_benchmark("street_hazards", tmp_path / "test" / "test")[1] and len(pairs) == 2


@pytest.mark.parametrize(("name", "tree", "count"), CASES, ids=[tree.__name__ for _, tree, _ in CASES])
def test_hidden_files_as_a_mac_packs_them_are_no_frames(tmp_path, name, tree, count):
    tree(tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    _, pairs = open_benchmark(name, tmp_path)
    assert len(pairs) == count


def test_images_whose_labels_are_not_public_are_there_for_the_export_only(tmp_path):
    smiyc_anomaly(tmp_path)
    benchmark, pairs = open_benchmark("smiyc_anomaly", tmp_path)
    more = unlabelled_pairs(benchmark, tmp_path, pairs)
    assert [pair.image.stem for pair in more] == ["zebra0000"] and more[0].mask is None


def test_frames_that_the_list_of_road_anomaly_names_must_be_there(tmp_path):
    road_anomaly(tmp_path)
    (tmp_path / "frame_list.json").write_text(json.dumps(["animals01.jpg", "lost.jpg"]))
    with pytest.raises(FlowclasError, match=r"frame_list\.json lists 1 frame\(s\) without labels, such as 'lost'"):
        open_benchmark("road_anomaly", tmp_path)


def test_labels_in_colour_or_of_another_size_are_refused(tmp_path):
    fishyscapes_static(tmp_path)
    write(tmp_path, "0000_a_labels.png")
    _, pairs = open_benchmark("fishyscapes_static", tmp_path)
    with pytest.raises(FlowclasError, match=r"0000_a_labels\.png has mode RGB"):
        pairs[0].read_mask(read_image(pairs[0].image))
    with pytest.raises(FlowclasError, match=r"0001_b_labels\.png is 10x6 and .* is 5x5"):
        pairs[1].read_mask(np.zeros((5, 5, 3), np.uint8))


def test_a_manifest_gives_images_masks_and_conditions(tmp_path):
    write(tmp_path, "a/1.png", "b/2.png")
    write(tmp_path, "m/1.png", "m/2.png", ids=(0, 1, 255))
    path = tmp_path / "list.csv"
    path.write_text("image, mask, condition\na/1.png, m/1.png, clear\nb/2.png,m/2.png,fog\n")
    _, pairs = open_benchmark("manifest", path)
    assert [(pair.name, pair.condition) for pair in pairs] == [("a/1", "clear"), ("b/2", "fog")]
    assert pairs[1].read_mask(read_image(pairs[1].image))[0, :3].tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("picture,mask\na/1.png,m.png\n", r"lacks the column image: its first line names picture \| mask, and"),
        ("image;mask\na/1.png;m.png\n", "lacks the column image and mask: its first line names image;mask, and"),
        ("image,mask\na/1.png,\n", "line 2: no value for 'mask'"),
        ("image,mask\na/1.png,m.png\n", r"line 2: there is no file .*m\.png"),
        ("image,mask,condition\n", "names no image"),
    ],
)
def test_a_manifest_that_is_wrong_says_where(tmp_path, text, words):
    write(tmp_path, "a/1.png")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(FlowclasError, match=words):
        open_benchmark("manifest", tmp_path / "list.csv")
    with pytest.raises(FlowclasError, match="names the csv file itself"):
        open_benchmark("manifest", tmp_path)


def test_a_folder_holds_images_and_masks(tmp_path):
    write(tmp_path, "images/x/1.jpg")
    write(tmp_path, "masks/x/1.png", ids=(0, 1))
    _, pairs = open_benchmark("folder", tmp_path)
    assert [pair.name for pair in pairs] == ["x/1"]


@pytest.mark.parametrize(
    ("tree", "split", "names"),
    [
        (cityscapes, "cityscapes/train", ["aachen_000000_000019_leftImg8bit", "ulm_000000_000019_leftImg8bit"]),
        (cityscapes, "cityscapes/val", ["lindau_000000_000019_leftImg8bit"]),
        (allo, "allo/train", ["000", "001", "000", "001"]),
        (street_hazards, "street_hazards/train", ["1"]),
        (mvtec, "mvtec/train", ["000"]),
    ],
)
def test_a_split_to_fit_on_holds_normal_images_only(tmp_path, tree, split, names):
    tree(tmp_path)
    frames = list_frames([f"{split}:{tmp_path}"], DataConfig())
    assert sorted(frame.path.stem for frame in frames) == sorted(names)
    assert not any({"masks", "anomalous", "gtFine"} & set(frame.path.parts) for frame in frames)


def test_a_split_that_is_not_there_says_which_are(tmp_path):
    with pytest.raises(FlowclasError, match=r"'cityscapes/test:/x' names no split .* cityscapes/train, cityscapes/val"):
        inlier_images("cityscapes/test:/x")
    with pytest.raises(FlowclasError, match=r"cityscapes/train: .* should hold leftImg8bit/train/\{city\}/.* nothing"):
        inlier_images(f"cityscapes/train:{tmp_path}")
