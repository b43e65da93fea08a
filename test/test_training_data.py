"""Frames, scenes, pasting and batches: functions of (seed, epoch, index) alone."""

from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from flowclas_ros.detection.images import through_jpeg
from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.augment import augment, fit_into
from flowclas_ros.training.batches import StepBatches, collate
from flowclas_ros.training.corruptions import CorruptionConfig
from flowclas_ros.training.data import (
    MixDataset,
    hold_out_scenes,
    list_frames,
)
from flowclas_ros.training.data_config import DataConfig
from flowclas_ros.training.losses import LossConfig, flowclas_loss, labels_to_grid
from flowclas_ros.training.outliers import CutoutFolder
from flowclas_ros.training.pseudo_outliers import PasteConfig, paste


@pytest.fixture
def scenes(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    (tmp_path / "cut").mkdir()
    for i in range(8):
        image = cv2.resize(rng.integers(0, 255, (5, 7, 3), dtype=np.uint8), (72, 48 + 8 * (i % 2)))
        cv2.imwrite(str(tmp_path / f"in/{'ab'[i // 4]}_{i}.png"), image)
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"cut/{i}.png"), rng.integers(40, 255, (20, 20, 4), dtype=np.uint8))
    return tmp_path


def mix(root, exposed=None, recompress=None, **options):
    data = DataConfig(x_out_size=(32, 40), jitter=0.2, exposed=exposed, exposed_share=0.5)
    paste = PasteConfig(min_size=0.3, max_size=0.6, recompress=recompress)
    settings = {"seed": 5, "augment": True, "auxiliary": True} | options
    return MixDataset(list_frames([str(root / "in")], data), CutoutFolder(root / "cut"), data, paste, **settings)


def test_corruptions_change_training_scenes_alone_at_their_share_and_leave_the_labels(scenes):
    paths = [str(scenes / "in")]
    paste = PasteConfig(min_size=0.3, max_size=0.6)
    cutouts = CutoutFolder(scenes / "cut")

    def items(augment, **corruptions):
        data = DataConfig(x_out_size=(32, 40), corruptions=CorruptionConfig(**corruptions))
        frames = list_frames(paths, data)
        dataset = MixDataset(frames, cutouts, data, paste, seed=5, augment=augment, auxiliary=False)
        return [dataset[(epoch, index)] for epoch in range(5) for index in range(len(frames))]

    clear, some, validation = items(True), items(True, probability=0.5), items(False, probability=1.0)
    changed = [not torch.equal(a["image"], b["image"]) for a, b in zip(clear, some, strict=True)]
    assert 0.25 < np.mean(changed) < 0.75  # of 40 at one half, 3 standard deviations
    assert all(torch.equal(a["label"], b["label"]) for a, b in zip(clear, some, strict=True))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(items(False), validation, strict=True))


def load(dataset, workers, epochs=2):
    batches = StepBatches(len(dataset), 3, epochs=epochs, seed=1)
    return list(DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers))


def test_pastes_differ_from_epoch_to_epoch_and_repeat_with_the_seed(scenes):
    dataset = mix(scenes)
    first, second, again = dataset[(0, 2)], dataset[(1, 2)], mix(scenes)[(0, 2)]
    assert not torch.equal(first["label"], second["label"])
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["label"], mix(scenes, seed=6)[(0, 2)]["label"])


def test_validation_pastes_are_the_same_every_time_and_leave_the_scene_unaugmented(scenes):
    dataset = mix(scenes, augment=False, auxiliary=False)
    one, two = dataset[3], dataset[3]
    assert torch.equal(one["image"], two["image"])
    assert (one["label"] == 1).any()
    assert set(one) == {"image", "label"}
    plain = cv2.imread(str(dataset.frames[3].path))[..., ::-1]
    untouched = cv2.erode((one["label"].numpy() == 0).astype(np.uint8), np.ones((9, 9))) == 1
    np.testing.assert_array_equal(one["image"].permute(1, 2, 0).numpy()[untouched], plain[untouched])


@pytest.mark.parametrize(("softness", "sharp"), [(0.0, 40), (3.0, 24)])
def test_pasted_objects_are_as_sharp_as_they_came_but_for_the_share_that_is_blurred(softness, sharp):
    """Were all of them blurred by their soft edge, blur would be what is learned."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)
    cutout = np.dstack([noise, np.full((60, 60), 255, np.uint8)])
    plain = {"exposure": 0.0, "jitter": 0.0, "max_rotation": 0.0, "flip": 0.0, "feather": 0.7}
    config = PasteConfig(min_size=0.6, max_size=0.6, softness=softness, **plain)  # 60 of 100 px: as it came
    own, count = noise.astype(np.float32).std(), 0
    for _ in range(40):
        image, labels = paste(np.full((100, 100, 3), 127, np.uint8), [cutout], config, rng)
        inside = cv2.erode((labels == 1).astype(np.uint8), np.ones((11, 11))) == 1
        count += bool(image[inside].std() > 0.9 * own)
    assert abs(count - sharp) <= (0 if softness == 0 else 9)


def test_a_small_object_is_not_blown_up_to_a_blur_that_no_scene_has():
    cutout = np.full((12, 12, 4), 255, np.uint8)
    config = PasteConfig(min_size=0.2, max_size=0.8, max_rotation=0.0)
    rng, sides = np.random.default_rng(0), []
    for _ in range(40):
        _, labels = paste(np.zeros((100, 100, 3), np.uint8), [cutout], config, rng)
        sides.append(int((labels == 1).any(axis=0).sum()))
    assert 20 <= max(sides) <= 26  # at most twice its own 12 px, and the soft edge


def test_an_object_of_one_colour_may_be_enlarged_and_keeps_a_sharp_outline():
    cutout = np.full((12, 12, 4), 255, np.uint8)
    options = {"untextured": 1.0, "max_rotation": 0.0, "feather": 0.0, "softness": 0.0}
    config, rng = PasteConfig(min_size=0.6, max_size=0.6, **options), np.random.default_rng(0)
    for _ in range(20):
        _, labels = paste(np.zeros((100, 100, 3), np.uint8), [cutout], config, rng)
        inside, edge = np.count_nonzero(labels == 1), np.count_nonzero(labels == 255)
        assert inside > 40 * 40  # 60 px wide, up to a quarter of which is out of sight
        assert edge < 0.01 * inside  # 7 % and more, were its outline enlarged with it


def pasted_colours(cutout, **options):
    """Mean colour and spread inside of each of 200 pasted objects, on a grey scene."""
    rng, figures = np.random.default_rng(0), []
    config = PasteConfig(min_size=0.6, max_size=0.6, softness=0.0, jitter=0.0, max_rotation=0.0, **options)
    for _ in range(200):
        image, labels = paste(np.full((100, 100, 3), 60, np.uint8), [cutout], config, rng)
        inside = image[cv2.erode((labels == 1).astype(np.uint8), np.ones((11, 11))) == 1]
        figures.append((*inside.mean(axis=0), inside.std(axis=0).max()))
    return np.array(figures)


def test_an_untextured_object_keeps_its_outline_and_has_any_one_colour():
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    cutout = np.dstack([noise, np.full((60, 60), 255, np.uint8)])
    figures = pasted_colours(cutout, untextured=1.0, exposure=0.0)
    assert figures[:, 3].max() < noise.std() * 0.7  # a smooth shade remains
    assert figures[:, :3].min() < 30 and figures[:, :3].max() > 225
    assert pasted_colours(cutout, exposure=0.0)[:, 3].min() > noise.std() * 0.8


def test_objects_meet_the_scenes_brightness_from_not_at_all_to_as_far_as_exposure_says():
    white = np.full((60, 60, 4), 255, np.uint8)
    assert pasted_colours(white, exposure=0.0)[:, 0].min() > 250
    levels = pasted_colours(white, exposure=1.0)[:, 0]
    assert levels.min() < 70 and levels.max() > 220 and 60 < np.median(levels) < 220


def test_a_pasted_scene_is_compressed_again_with_all_that_is_in_it(scenes):
    plain, again = (mix(scenes, augment=False, auxiliary=False, recompress=q)[3] for q in (None, (80, 80)))
    assert torch.equal(plain["label"], again["label"])
    image = np.ascontiguousarray(plain["image"].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(again["image"].permute(1, 2, 0).numpy(), through_jpeg(image, 80))


def test_scenes_that_hold_outliers_are_trained_on_beside_pasted_ones_with_their_own_masks(scenes):
    for kind in ("images", "masks"):
        (scenes / "seen" / kind).mkdir(parents=True)
    image, mask = np.full((48, 72, 3), 90, np.uint8), np.zeros((48, 72), np.uint8)
    mask[10:20, 5:15], image[10:20, 5:15] = 1, 200
    cv2.imwrite(str(scenes / "seen/images/0.png"), image)
    cv2.imwrite(str(scenes / "seen/masks/0.png"), mask)
    dataset = mix(scenes, exposed=str(scenes / "seen"))
    items = [dataset[(epoch, 0)] for epoch in range(40)]
    own = [
        item for item in items if item["label"].shape == mask.shape and int((item["label"] == 1).sum()) == mask.sum()
    ]
    assert 10 <= len(own) <= 30  # half of forty, five deviations either way
    for item in own:  # mirrored together, or not at all
        bright = item["image"].float().mean(0) > 130
        assert torch.equal(bright, item["label"] == 1)
    assert mix(scenes, exposed=str(scenes / "seen"), augment=False).exposed is None  # never where objects are pasted
    (scenes / "seen/masks/0.png").unlink()
    with pytest.raises(FlowclasError, match=r"has no mask|no image|holds no"):
        mix(scenes, exposed=str(scenes / "seen"))


def test_batches_are_the_same_whatever_the_number_of_workers(scenes):
    for one, other in zip(load(mix(scenes), 0), load(mix(scenes), 2), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_batches_begun_later_are_those_of_the_whole_run():
    whole = list(StepBatches(10, 4, epochs=3, seed=2))
    assert whole[4:] == list(StepBatches(10, 4, epochs=3, seed=2, start=4))
    assert len(whole) == len(StepBatches(10, 4, epochs=3, seed=2, start=4)) == 9
    for epoch in range(3):
        seen = Counter(index for batch in whole for e, index in batch if e == epoch)
        assert set(seen) == set(range(10))  # every frame; two stand twice to fill the last batch
    assert [i for _, i in whole[0]] != [i for _, i in whole[3]]


def test_processes_share_an_epoch_without_overlap():
    parts = [list(StepBatches(8, 2, epochs=1, seed=2, rank=rank, world=2)) for rank in (0, 1)]
    assert sorted(i for part in parts for batch in part for _, i in batch) == list(range(8))


def test_x_out_labels_the_object_only_and_the_fill_never(scenes):
    item = mix(scenes)[(0, 0)]
    assert item["out_image"].shape == (3, 32, 40)
    assert set(item["out_label"].unique().tolist()) == {1, 255}
    assert (item["out_label"][:, 32:] == 255).all()  # a square in 32 x 40: the right 8 columns are fill
    image, label = fit_into(np.full((10, 20, 3), 7, np.uint8), np.ones((10, 20), np.uint8), (40, 40))
    assert image.shape == (40, 40, 3)
    assert (label[:20] == 1).all() and (label[20:] == 255).all()


class Pointwise(nn.Module):
    """A stand-in whose likelihood at a cell depends on that cell alone, as a field of view of one pixel."""

    def latent(self, features):
        return features, features.new_zeros(features.shape[0], *features.shape[2:])

    def nll_of_latent(self, z, log_det):
        return z.square().mean(dim=1)


def test_padding_never_changes_the_nll():
    small = {
        "image": torch.randint(0, 255, (3, 32, 48), dtype=torch.uint8),
        "label": torch.zeros(32, 48, dtype=torch.uint8),
    }
    large = {
        "image": torch.full((3, 64, 64), 9, dtype=torch.uint8),
        "label": torch.full((64, 64), 255, dtype=torch.uint8),
    }
    config = LossConfig(contrastive="none")

    def nll(batch, spoil):
        features = nn.functional.avg_pool2d(batch["image"].float() / 255, 16)
        grid = labels_to_grid(batch["label"], batch["image"].shape[-2:], features.shape[-2:], 16)
        features = torch.where((grid == 255)[:, None], spoil, features)
        return flowclas_loss(Pointwise(), features, grid, None, None, config)["nll"]

    alone = nll(collate([small]), torch.tensor(0.0))
    padded = collate([small, large])
    assert padded["image"].shape == (2, 3, 64, 64)
    assert (padded["label"][0, 32:] == 255).all() and (padded["label"][0, :, 48:] == 255).all()
    for spoil in (0.0, 1e6, float("nan"), float("inf")):
        torch.testing.assert_close(nll(padded, torch.tensor(spoil)), alone, rtol=0, atol=1e-7)


def test_scenes_are_folders_sequences_and_blocks(scenes):
    folder = str(scenes / "in")

    def sizes(**options):
        return sorted(Counter(f.scene for f in list_frames([folder], DataConfig(**options))).values())

    assert sizes() == [8]
    assert sizes(sequence_regex="^([^_]+)_") == [4, 4]
    assert sizes(sequence_regex="^([^_]+)_", scene_block=3) == [1, 1, 3, 3]
    with pytest.raises(FlowclasError, match=r"does not match the file name 'a_0\.png'"):
        sizes(sequence_regex="^(x)")


@pytest.mark.parametrize("name", ["frame_{}.png", "run2_{:04}.png"])
def test_blocks_are_of_consecutive_frames_with_zeros_before_their_numbers_or_without(tmp_path, name):
    for number in range(1, 41):
        (tmp_path / name.format(number)).touch()
    blocks = {}
    for frame in list_frames([str(tmp_path)], DataConfig(scene_block=10)):
        blocks.setdefault(frame.scene, []).append(int(frame.path.stem.split("_")[1]))
    assert [sorted(numbers) for numbers in blocks.values()] == [list(range(n, n + 10)) for n in (1, 11, 21, 31)]


def test_whole_scenes_are_held_out(scenes):
    frames = list_frames([str(scenes / "in")], DataConfig(scene_block=2))
    rest, held = hold_out_scenes(frames, 0.25, seed=0)
    assert len(held) == 2 and len(rest) == 6
    assert not {f.scene for f in rest} & {f.scene for f in held}
    with pytest.raises(FlowclasError, match=r"one scene only .* data\.scene_block"):
        hold_out_scenes(list_frames([str(scenes / "in")], DataConfig()), 0.25, seed=0)


def test_without_a_crop_images_are_enlarged_in_place_and_a_part_of_their_own_size_is_left():
    ramp = np.broadcast_to(np.linspace(0, 250, 120, dtype=np.float32)[None, :, None], (80, 120, 3)).astype(np.uint8)
    same, _ = augment(ramp, DataConfig(flip=0, jitter=0), np.random.default_rng(0))
    assert np.array_equal(same, ramp)
    config = DataConfig(crop_scale=(2.0, 2.0), flip=0, jitter=0)
    rng, starts = np.random.default_rng(0), []
    for _ in range(20):
        image, classes = augment(ramp, config, rng, ramp[..., 0])
        assert image.shape == ramp.shape and classes.shape == ramp.shape[:2]
        assert 110 < int(image[0, -1, 0]) - int(image[0, 0, 0]) < 140  # half of the ramp fills the picture
        starts.append(int(image[0, 0, 0]))
    assert max(starts) - min(starts) > 60


def test_crops_have_their_size_even_of_smaller_images():
    rng = np.random.default_rng(0)
    config = DataConfig(crop=(64, 96), crop_scale=(0.5, 1.5), jitter=0.3)
    for shape in ((40, 50, 3), (200, 100, 3)):
        image, _ = augment(rng.integers(0, 255, shape, dtype=np.uint8), config, rng)
        assert image.shape == (64, 96, 3) and image.dtype == np.uint8
