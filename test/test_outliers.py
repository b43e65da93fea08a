"""Sources of pseudo-outliers: cut-outs, masked images, COCO."""

import json

import cv2
import numpy as np
import pytest

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.apart import require_other_photos
from flowclas_ros.training.outlier_split import hold_out
from flowclas_ros.training.outliers import CocoObjects, CutoutFolder, MaskedImages, _Cache

SIDE = 64


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def disc(radius=12, colour=(10, 20, 200)):
    rgba = np.zeros((SIDE, SIDE, 4), np.uint8)
    cv2.circle(rgba, (30, 30), radius, (*colour, 255), -1)
    return rgba


@pytest.fixture
def coco(tmp_path):
    """Five photos: two good objects (polygon, run lengths), a crowd, one beside a person, one too small."""
    from pycocotools import mask as coder

    rng = np.random.default_rng(0)
    for i in range(1, 5):
        write(tmp_path / f"images/{i}.png", rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
    write(tmp_path / "images/5.png", np.zeros((32, SIDE, 3), np.uint8))
    polygon = [[10.0, 10.0, 40.0, 10.0, 40.0, 30.0, 10.0, 30.0]]
    block = np.zeros((SIDE, SIDE), np.uint8)
    block[5:25, 20:50] = 1
    packed = coder.encode(np.asfortranarray(block))
    packed["counts"] = packed["counts"].decode()
    flat = block.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()

    def annotation(number, image, category, segmentation, **more):
        return {
            "id": number,
            "image_id": image,
            "category_id": category,
            "segmentation": segmentation,
            "area": 600,
        } | more

    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 32 if i == 5 else SIDE, "width": SIDE} for i in range(1, 6)
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "banana"}],
        "annotations": [
            annotation(11, 1, 2, polygon),
            annotation(12, 2, 2, {"size": [SIDE, SIDE], "counts": packed["counts"]}),
            annotation(13, 2, 2, {"size": [SIDE, SIDE], "counts": runs}),
            annotation(14, 3, 2, {"size": [SIDE, SIDE], "counts": runs}, iscrowd=1),
            annotation(15, 4, 2, polygon),
            annotation(16, 4, 1, polygon),
            annotation(17, 5, 2, polygon),
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path, block


def test_coco_polygons_and_run_lengths_become_cutouts(coco):
    root, block = coco
    source = CocoObjects(root / "instances.json", root / "images", min_side=60)
    assert [source.origin(i) for i in range(len(source))] == ["1.png", "2.png", "2.png"]
    assert source.cutout(0).shape == (20, 30, 4)
    for i in (1, 2):
        image, label = source.image(i)
        assert image.shape == (SIDE, SIDE, 3)
        np.testing.assert_array_equal(label, np.where(block, 1, 255))
        np.testing.assert_array_equal(source.cutout(i)[..., :3], image[5:25, 20:50])
        assert (source.cutout(i)[..., 3] == 255).all()


def test_coco_leaves_out_road_users_small_photos_and_crowds_and_says_when_nothing_is_left(coco):
    root, _ = coco
    every = CocoObjects(root / "instances.json", root / "images", exclude=(), min_side=1)
    assert sorted({every.origin(i) for i in range(len(every))}) == ["1.png", "2.png", "4.png", "5.png"]
    with pytest.raises(FlowclasError, match="a side under 480 px"):
        CocoObjects(root / "instances.json", root / "images")


@pytest.mark.parametrize(
    ("polygon", "words"),
    [([100.0, 10.0, 140.0, 10.0, 140.0, 30.0], "lies outside its photo"), ([10.0, 10.0, 40.0, 30.0], "no outline")],
)
def test_an_annotation_without_a_pixel_is_named(coco, polygon, words):
    root, _ = coco
    content = json.loads((root / "instances.json").read_text())
    content["annotations"][0]["segmentation"] = [polygon]
    (root / "instances.json").write_text(json.dumps(content))
    source = CocoObjects(root / "instances.json", root / "images", min_side=60)
    with pytest.raises(FlowclasError, match=rf"instances\.json': annotation 11 .*{words}"):
        source.cutout(0)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"images": [], "annotations": [], "categories": []}'])
def test_a_json_that_is_not_of_coco_says_so(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(FlowclasError, match=r"a\.json"):
        CocoObjects(tmp_path / "a.json", tmp_path)


@pytest.mark.parametrize(("part", "key"), [("images", "height"), ("images", "file_name"), ("categories", "name")])
def test_a_json_of_coco_that_lacks_a_key_names_it(coco, part, key):
    root, _ = coco
    content = json.loads((root / "instances.json").read_text())
    del content[part][1][key]
    (root / "instances.json").write_text(json.dumps(content))
    with pytest.raises(FlowclasError, match=rf"instances\.json' is not a COCO .*: it lacks '{key} of {part}'"):
        CocoObjects(root / "instances.json", root / "images", min_side=60)


def test_photos_of_two_coco_files_that_share_some_are_not_held_out(coco):
    root, _ = coco
    content = json.loads((root / "instances.json").read_text())
    one = CocoObjects(root / "instances.json", root / "images", min_side=60)
    for ids, shared in (((11, 12), 2), ((12,), 1), ((15,), 0)):
        kept = {**content, "annotations": [a for a in content["annotations"] if a["id"] in ids]}
        (root / "held.json").write_text(json.dumps(kept))
        other = CocoObjects(root / "held.json", root / "images", min_side=60, exclude=())
        if shared:
            with pytest.raises(
                FlowclasError, match=rf"held\.json' share {shared} photos of .*/images', such as '\d\.png'"
            ):
                require_other_photos(one, other)
        else:
            require_other_photos(one, other)


def test_decoded_objects_are_kept_up_to_a_number_of_bytes():
    read = []
    cache = _Cache(lambda index: read.append(index) or (np.zeros(40, np.uint8), np.zeros(20, bool)), limit=130)
    for index in (0, 1, 0, 2, 1, 0):
        assert cache(index)[0].nbytes == 40
    assert read == [0, 1, 2, 1, 0] and cache.used == 120
    tight = _Cache(lambda index: np.zeros(500, np.uint8), limit=130)
    assert tight(0).nbytes == tight(1).nbytes == 500 and len(tight.items) == 1


def test_masked_images_give_one_object_per_connected_component(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[2:22, 2:22], mask[40:60, 30:60], mask[30:33, 5:8] = 255, 255, 255
    write(tmp_path / "images/sub/a.png", image)
    write(tmp_path / "masks/sub/a.png", mask)
    source = MaskedImages(tmp_path / "images", tmp_path / "masks")
    assert [source.cutout(i).shape for i in range(len(source))] == [(20, 20, 4), (20, 30, 4)]
    rgb, label = source.image(1)
    np.testing.assert_array_equal(rgb, image[..., ::-1])
    assert (label[40:60, 30:60] == 1).all()
    assert (label == 1).sum() == 600
    assert (label[2:22, 2:22] == 255).all()


def test_a_mask_with_ones_keeps_255_as_ignore(tmp_path):
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    mask[:40], mask[10:30, 10:30] = 0, 1
    write(tmp_path / "images/a.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    write(tmp_path / "masks/a.png", mask)
    source = MaskedImages(tmp_path / "images", tmp_path / "masks")
    assert [source.cutout(i).shape for i in range(len(source))] == [(20, 20, 4)]


def squares(first, second, rest=0):
    mask = np.full((SIDE, SIDE), rest, np.uint8)
    mask[2:22, 2:22], mask[30:60, 30:60] = first, second
    return mask


@pytest.mark.parametrize(
    ("values", "spots"),
    [
        ((255, 255), [1]),  # black and white, with a stray pixel
        ((255, 255), [1] * 12 + [254] * 12),  # and saved as a JPEG
        ((1, 2), []),  # numbered
        ((200, 1), []),
    ],
)
def test_a_value_of_one_takes_no_object_from_a_mask_of_another_kind(tmp_path, values, spots):
    mask = squares(*values)
    mask[62, : 2 * len(spots) : 2] = spots
    write(tmp_path / "images/a.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    write(tmp_path / "masks/a.png", mask)
    source = MaskedImages(tmp_path / "images", tmp_path / "masks")
    assert [source.cutout(i).shape for i in range(len(source))] == [(20, 20, 4), (30, 30, 4)]


def test_a_mask_saved_as_a_jpeg_takes_no_ring_of_ground_with_its_objects(tmp_path):
    write(tmp_path / "images/a.jpg", np.zeros((SIDE, SIDE, 3), np.uint8))
    path = tmp_path / "masks/a.jpg"
    path.parent.mkdir()
    cv2.imwrite(str(path), squares(255, 255), [cv2.IMWRITE_JPEG_QUALITY, 75])
    assert np.count_nonzero(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) > 400 + 900  # there is one
    source = MaskedImages(tmp_path / "images", tmp_path / "masks")
    assert [source.cutout(i).shape for i in range(len(source))] == [(20, 20, 4), (30, 30, 4)]
    assert [(source.image(i)[1] == 1).sum() for i in range(len(source))] == [400, 900]


def test_numbered_objects_leave_255_out(tmp_path):
    write(tmp_path / "images/a.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    write(tmp_path / "masks/a.png", squares(1, 7, rest=255))
    source = MaskedImages(tmp_path / "images", tmp_path / "masks")
    assert [source.cutout(i).shape for i in range(len(source))] == [(20, 20, 4), (30, 30, 4)]


def test_missing_and_misfitting_masks_are_named(tmp_path):
    write(tmp_path / "images/a.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    with pytest.raises(FlowclasError, match=r"a\.png' has no mask"):
        MaskedImages(tmp_path / "images", tmp_path / "masks")
    write(tmp_path / "masks/a.png", np.full((32, 32), 255, np.uint8))
    with pytest.raises(FlowclasError, match=r"32x32 px, its image .* 64x64"):
        MaskedImages(tmp_path / "images", tmp_path / "masks").cutout(0)


def test_cutouts_are_cropped_to_the_object_and_keep_their_colour(tmp_path):
    write(tmp_path / "a.png", disc())
    source = CutoutFolder(tmp_path)
    cutout = source.cutout(0)
    assert cutout.shape == (25, 25, 4)
    assert cutout[12, 12].tolist() == [200, 20, 10, 255]
    picture, label = source.image(0)
    assert set(np.unique(label)) == {1, 255}
    assert (label == 1).sum() == (cutout[..., 3] >= 128).sum()
    assert picture[label == 1].tolist()[0] == [200, 20, 10]


@pytest.mark.parametrize(
    ("image", "text"),
    [(np.zeros((8, 8, 3), np.uint8), "no alpha channel"), (np.zeros((8, 8, 4), np.uint8), "transparent throughout")],
)
def test_a_cutout_without_an_object_is_named(tmp_path, image, text):
    write(tmp_path / "a.png", image)
    with pytest.raises(FlowclasError, match=rf"a\.png' .*{text}"):
        CutoutFolder(tmp_path).cutout(0)


def test_a_photo_pattern_that_is_no_regular_expression_is_named(tmp_path):
    write(tmp_path / "a.png", disc())
    with pytest.raises(FlowclasError, match=r"outliers\.group_regex '\(' is no regular expression"):
        CutoutFolder(tmp_path, group_regex="(")


def test_objects_of_one_photo_stay_on_one_side_of_the_hold_out(tmp_path):
    for name in ("a_1", "b_1", "c_2", "d_2", "e_3", "f_4"):
        write(tmp_path / f"{name}.png", disc())
    source = CutoutFolder(tmp_path, r"_(\d)")
    rest, held = hold_out(source, 0.25, seed=3)
    ours, theirs = ({part.origin(i) for i in range(len(part))} for part in (rest, held))
    assert ours and theirs and not ours & theirs
    assert len(rest) + len(held) == 6
    with pytest.raises(FlowclasError, match="all pseudo-outliers are from one photo"):
        hold_out(CutoutFolder(tmp_path, "(png)"), 0.25, seed=3)
