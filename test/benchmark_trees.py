"""Tiny trees that lie exactly as the public data sets do."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

H, W = 6, 10
LAF = ("04_Maurener_Weg_8_000000_000030", "13_Elly_Beinhorn_Str_000001_000080")


def write(root: Path, *names: str, ids: tuple[int, ...] | None = None) -> None:
    """Images, or label files whose columns hold the ids in turn."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.zeros((H, W, 3), np.uint8) if ids is None else np.resize(np.uint8(ids), (H, W))
        Image.fromarray(values).save(path)


def fishyscapes(root: Path) -> None:
    for number, (frame, split) in enumerate(zip(LAF, ("train", "test"), strict=True)):
        write(root, f"leftImg8bit/{split}/{frame[:-14]}/{frame}_leftImg8bit.png")
        write(root, f"fishyscapes_lostandfound/{number:04d}_{frame}_labels.png", ids=(0, 1, 255))
    write(root, "leftImg8bit/train/04_Maurener_Weg_8/04_Maurener_Weg_8_000000_000060_leftImg8bit.png")


def fishyscapes_original(root: Path) -> None:
    write(root, *(f"LostAndFound/original/{frame}.png" for frame in LAF))
    write(root, *(f"LostAndFound/labels/{frame}.png" for frame in LAF), ids=(0, 1, 255))


def fishyscapes_images(root: Path) -> None:
    write(root, *(f"LostAndFound/images/{frame}_leftImg8bit.png" for frame in LAF))
    write(root, *(f"LostAndFound/labels/{frame}_labels.png" for frame in LAF), ids=(0, 1, 255))


def fishyscapes_static(root: Path) -> None:
    write(root, "0000_a_rgb.jpg", "0001_b_rgb.png")
    write(root, "0000_a_labels.png", "0001_b_labels.png", ids=(0, 1, 255))


def fishyscapes_static_overlays(root: Path) -> None:
    """As the archives have it: what is to be added to images of Cityscapes."""
    for number, frame in enumerate(("frankfurt_000000_000294", "lindau_000000_000019")):
        write(root, f"leftImg8bit/val/{frame.split('_')[0]}/{frame}_leftImg8bit.png")
        write(root, f"fs_val_v3/{number:04d}_{frame}_labels.png", ids=(0, 1, 255))
        np.savez(root / f"fs_val_v3/{number:04d}_{frame}_rgb.npz", rgb=np.full((H, W, 3), 30 - 40 * number, np.int16))


def fishyscapes_static_original(root: Path) -> None:
    write(root, "Static/original/0.png", "Static/original/1.png")
    write(root, "Static/labels/0.png", "Static/labels/1.png", ids=(0, 1, 255))


def road_anomaly(root: Path) -> None:
    write(root, "frames/animals01.jpg", "frames/cones02.v2.jpg")
    for name in ("animals01", "cones02.v2"):
        write(root, f"frames/{name}.labels/labels_semantic.png", ids=(0, 2, 0))
        write(root, f"frames/{name}.labels/labels_semantic_color.png", ids=(9,))
    (root / "frame_list.json").write_text(json.dumps(["animals01.jpg", "cones02.v2.jpg"]))


def road_anomaly_webp(root: Path) -> None:
    road_anomaly(root)
    for image in root.glob("frames/*.jpg"):
        image.rename(image.with_suffix(".webp"))
    (root / "frame_list.json").write_text(json.dumps(["animals01.webp", "cones02.v2.webp"]))


def smiyc_anomaly(root: Path) -> None:
    top = root / "dataset_AnomalyTrack"
    write(top, "images/validation0000.jpg", "images/validation0001.jpg", "images/zebra0000.jpg")
    for frame in ("validation0000", "validation0001"):
        write(top, f"labels_masks/{frame}_labels_semantic.png", ids=(0, 1, 255))
        write(top, f"labels_masks/{frame}_labels_semantic_color.png", ids=(3,))


def smiyc_obstacle(root: Path) -> None:
    top = root / "dataset_ObstacleTrack"
    write(top, *(f"images/{name}.webp" for name in ("validation_1", "validation_2", "validation_21", "paving_bag_3")))
    for frame in ("validation_1", "validation_2", "validation_21"):
        write(top, f"labels_masks/{frame}_labels_semantic.png", ids=(0, 1, 255))


def lost_and_found(root: Path) -> None:
    child = "15_Rechbergstr_Deckenpfronn_000000_000030"
    for frame in ("02_Hanns_Klemm_Str_44_000000_000020", "05_Schafgasse_1_000000_000060", child):
        scene = frame[:-14]
        write(root, f"leftImg8bit/test/{scene}/{frame}_leftImg8bit.png")
        write(root, f"gtCoarse/test/{scene}/{frame}_gtCoarse_labelIds.png", ids=(1, 43, 0))
        write(root, f"gtCoarse/test/{scene}/{frame}_gtCoarse_instanceIds.png", ids=(0,))


def allo(root: Path) -> None:
    for place in ("anomalous/seq0/cam1", "normal/seq1"):
        write(root, f"test_v3/{place}/images/000.png")
        write(root, f"test_v3/{place}/masks/000.png", ids=(7 if "normal" in place else 0, 8, 255))
    for place in ("scene/normal/seq0", "normal", "scene/anomalous/seq0"):
        write(root, f"train_v3/{place}/images/000.png", f"train_v3/{place}/images/001.png")
        write(root, f"train_v3/{place}/masks/000.png", ids=(0,))


def street_hazards(root: Path) -> None:
    for name in ("t5/300", "t6/7"):
        write(root, f"test/images/test/{name}.png")
        write(root, f"test/annotations/test/{name}.png", ids=(13, 14, 0))
    write(root, "train/images/training/t1-3/1.png", "train/images/validation/t4/1.png")


def mvtec(root: Path) -> None:
    write(root, "train/good/000.png", "test/good/000.png", "test/broken/000.png", "test/hole/000.png")
    write(root, "ground_truth/broken/000_mask.png", "ground_truth/hole/000_mask.png", ids=(0, 255, 0))


def cityscapes(root: Path) -> None:
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau"), ("test", "bonn")):
        frame = f"{split}/{city}/{city}_000000_000019"
        write(root, f"leftImg8bit/{frame}_leftImg8bit.png")
        write(root, f"gtFine/{frame}_gtFine_labelIds.png", ids=(7,))
