"""The label track: class maps, low-rank updates of the backbone, and a fit from end to end."""

import os
import re
import signal

import cv2
import numpy as np
import pytest
import torch
from fit_support import write_discs
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model import (
    BackboneConfig,
    FlowCLAS,
    FlowCLASConfig,
    FlowConfig,
    FrozenBackbone,
    load_checkpoint,
    save_checkpoint,
)
from flowclas_ros.training import fit as fitting
from flowclas_ros.training.batches import collate
from flowclas_ros.training.config_file import load_config
from flowclas_ros.training.data import MixDataset, list_frames
from flowclas_ros.training.data_config import DataConfig, LabelConfig
from flowclas_ros.training.labels import read_class_map
from flowclas_ros.training.losses import IGNORE, LossConfig
from flowclas_ros.training.outliers import CutoutFolder
from flowclas_ros.training.pseudo_outliers import PasteConfig
from flowclas_ros.training.segmentation import label_losses

pytestmark = pytest.mark.timeout(300)


# -- class maps -----------------------------------------------------------------------------------------------------


def write_labels(path, ids):
    cv2.imwrite(str(path), np.asarray(ids, np.uint8))
    return path


def test_class_maps_turn_ignored_ids_to_255(tmp_path):
    path = write_labels(tmp_path / "a.png", [[0, 1, 2, 11]])
    image = np.zeros((1, 4, 3), np.uint8)
    assert read_class_map(path, image, 3, LabelConfig(ignore=(11,))).tolist() == [[0, 1, 2, 255]]


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    path = write_labels(tmp_path / "a.png", [[7, 8, 26, 33, 0, 29]])  # road, sidewalk, car, bicycle, void, caravan
    image = np.zeros((1, 6, 3), np.uint8)
    found = read_class_map(path, image, 19, LabelConfig(encoding="cityscapes"))
    assert found.tolist() == [[0, 1, 13, 18, 255, 255]]


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (np.zeros((3, 4)), r"a\.png' is 4x3 px, its image 4x2"),
        (np.full((2, 4), 7), r"a\.png' holds id 7, which is none of model\.classes 3"),
        (np.zeros((2, 4, 3)), r"a\.png' has colours"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path, ids, text):
    path = write_labels(tmp_path / "a.png", ids)
    with pytest.raises(FlowclasError, match=text):
        read_class_map(path, np.zeros((2, 4, 3), np.uint8), 3, LabelConfig())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Blocks of four grey levels, each level a class: the class of a pixel is its level, whatever is done to it."""
    folder = tmp_path_factory.mktemp("label")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            ids = np.kron(rng.integers(0, 4, (4, 6), dtype=np.uint8), np.ones((16, 16), np.uint8))
            cv2.imwrite(str(folder / "images" / split / f"{i}.png"), np.repeat(ids[..., None] * 60, 3, axis=2))
            cv2.imwrite(str(folder / "labels" / split / f"{i}.png"), ids)
    write_discs(folder / "cut", rng)
    (folder / "fit.yaml").write_text(YAML.replace("ROOT", str(folder)))
    return folder


def test_class_maps_follow_crop_mirror_and_paste(root):
    data = DataConfig(crop=(48, 48), flip=0.5, labels=LabelConfig(), x_out_size=(32, 32))
    frames = list_frames([str(root / "images/train")], data, [str(root / "labels/train")])
    options = {"seed": 1, "augment": True, "auxiliary": False, "classes": 4}
    dataset = MixDataset(
        frames, CutoutFolder(root / "cut"), data, PasteConfig(feather=0, softness=0, recompress=None), **options
    )
    batch = collate([dataset[(epoch, i)] for epoch in range(3) for i in range(8)])
    plain = batch["label"] == 0
    assert (batch["classes"][~plain] == IGNORE).all()
    # A rim of an object's edge may tint a pixel that still counts as inlier; its class then need not be its level.
    same = batch["image"][:, 0][plain] == batch["classes"][plain] * 60
    assert same.float().mean() > 0.98


def test_an_image_without_labels_is_named(root, tmp_path):
    with pytest.raises(FlowclasError, match=r"0\.png' has no class label"):
        list_frames([str(root / "images/train")], DataConfig(), [str(tmp_path)])


def test_cityscapes_labels_are_found_by_their_own_names(tmp_path):
    image = tmp_path / "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png"
    label = tmp_path / "gtFine/train/ulm/ulm_1_gtFine_labelIds.png"
    for path in (image, label):
        path.parent.mkdir(parents=True)
        write_labels(path, np.zeros((2, 2)))
    data = DataConfig(labels=LabelConfig(encoding="cityscapes"))
    frames = list_frames([str(tmp_path / "leftImg8bit/train")], data, [str(tmp_path / "gtFine/train")])
    assert [frame.classes for frame in frames] == [label]


# -- low-rank updates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenetv2_050", "vit_tiny_patch16_224"])
def test_only_low_rank_updates_are_trained_and_merging_keeps_the_features(name, tmp_path):
    pytest.importorskip("peft", reason="needs peft: pip install .[label]")
    from flowclas_ros.training.adaptation import LowRankUpdates

    torch.manual_seed(0)
    model = FlowCLAS(FlowCLASConfig(BackboneConfig(name, "random"), FlowConfig(1), 0, classes=4))
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    model.features(images)  # with folded batch norms, which must not outlive the updates
    original = model.backbone.feature_map(images)
    updates = LowRankUpdates(model.backbone, rank=2)
    trained = [key for key, p in model.backbone.named_parameters() if p.requires_grad]
    assert trained and all(".lora_" in key for key in trained)
    torch.testing.assert_close(model.features(images), original, rtol=0, atol=1e-5)  # B starts at zero

    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    classes = torch.randint(0, 4, (2, 64, 64), dtype=torch.uint8)
    for _ in range(2):
        features = model.features(images)
        labels, sizes = torch.zeros_like(classes), torch.full((2, 2), 64)
        loss = label_losses(model, features, classes, labels, sizes, LossConfig(segmentation=1.0))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    frozen = {key.replace(".base_layer", ""): value for key, value in model.backbone.state_dict().items()}
    assert all(torch.equal(frozen[key], value) for key, value in before.items())

    with torch.no_grad():
        adapted = model.features(images)
    updates.merge()
    scale = float(adapted.abs().max())
    torch.testing.assert_close(model.features(images), adapted, rtol=0, atol=1e-4 * scale)
    assert float((adapted - original).abs().max()) > 1e-3 * scale
    assert set(model.backbone.state_dict()) == set(before)
    assert not any(p.requires_grad for p in model.backbone.parameters())

    save_checkpoint(tmp_path / "a.safetensors", model.eval(), embed_backbone=True)
    assert torch.equal(load_checkpoint(tmp_path / "a.safetensors").model(images), model(images))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("vit_tiny_patch16_224", (2, 5)),
        ("test_vit3", (0,)),  # pools by attention, which is no part of a feature map
        ("eva02_tiny_patch14_224", (1,)),  # reads the weight of a linear layer that it does not call
        ("mobilenetv2_050", (1, 3)),
    ],
)
def test_every_low_rank_update_has_a_part_in_the_features(name, layers):
    pytest.importorskip("peft", reason="needs peft: pip install .[label]")
    from flowclas_ros.training.adaptation import LowRankUpdates

    backbone = FrozenBackbone(BackboneConfig(name, "random", layers=layers))
    LowRankUpdates(backbone, rank=2)
    backbone(torch.rand(1, 3, 64, 64)).square().sum().backward()
    trained = {key: p for key, p in backbone.named_parameters() if p.requires_grad}
    assert trained and not [key for key, p in trained.items() if p.grad is None]


# -- the whole fit --------------------------------------------------------------------------------------------------

YAML = """
model: {backbone: {name: mobilenetv2_050, weights: random, layers: [1], stride: 8}, flow: {steps: 1, kernels: [1]},
        projection_dim: 8, margin_weight: 1.0, classes: 4, energy_weight: 1.0}
data: {train: [ROOT/images/train], val: [ROOT/images/val], scene_block: 2, outliers: {cutouts: ROOT/cut},
       labels: {train: [ROOT/labels/train], val: [ROOT/labels/val]}, batch_size: 4, x_out_size: [64, 64]}
paste: {min_size: 0.3, max_size: 0.8, style: harmonised}
loss: {samples: 32, segmentation: 1.0, energy_entropy: 1.0}
optimiser: {lr: 3e-3, warmup_epochs: 0, ema: 0.5}
trainer: {max_epochs: 3, device: cpu, log_every: 1, margin_scenes: 8}
"""


def fit(root, name, *overrides, resume=False):
    torch.set_num_threads(1)
    config = load_config(root / "fit.yaml", ["--output", str(root / name), *overrides])
    return fitting.fit(config, resume=resume)


def test_a_label_fit_ends_in_a_checkpoint_of_its_track_with_miou(root, capsys):
    path = fit(root, "whole", "--trainer.max_epochs", "6")
    header = load_checkpoint(path).header
    assert header["track"] == "label"
    reported = [float(text) for text in re.findall(r", mIoU ([\d.]+)", capsys.readouterr().out)]
    assert len(reported) == 6
    assert reported[-1] > reported[0] + 0.05  # it learns: 0.20 to 0.33 when this was written
    assert round(header["provenance"]["metrics"]["val/miou"], 4) in reported


def test_segmentation_alone_is_a_configuration_and_fits_no_flow(root):
    alone = ["--model.score", "energy_entropy", "--model.energy_weight", "0", "--model.margin_weight", "0"]
    path = fit(root, "alone", *alone, "--loss.alpha", "0", "--loss.contrastive", "none", "--trainer.max_epochs", "1")
    loaded = load_checkpoint(path)
    assert loaded.model.config.flow.steps == 0 and loaded.model.projection is None
    assert torch.equal(loaded.model.flow.whitening.weight, torch.eye(loaded.model.backbone.channels))


class StopAt(Callback):
    """Sends the process an interrupt as a step begins."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_adapted_fit_resumed_equals_one_that_was_not_and_its_checkpoint_needs_no_peft(root, monkeypatch):
    pytest.importorskip("peft", reason="needs peft: pip install .[label]")
    adapt = ["--adapt_rank", "2", "--trainer.max_epochs", "1"]  # two steps; interrupted in the first
    whole = load_file(fit(root, "adapted", *adapt))
    make = fitting._trainer

    def interrupted(*arguments):
        trainer = make(*arguments)
        trainer.callbacks.insert(0, StopAt(0))
        return trainer

    monkeypatch.setattr(fitting, "_trainer", interrupted)
    with pytest.raises(fitting.FitInterrupted):
        fit(root, "stopped", *adapt)
    state = torch.load(root / "stopped/last.ckpt", weights_only=True)["state_dict"]
    backbone = [key for key in state if key.startswith("model.backbone")]
    assert backbone and all(".lora_" in key for key in backbone)
    monkeypatch.setattr(fitting, "_trainer", make)
    resumed = load_file(fit(root, "stopped", *adapt, resume=True))
    assert set(resumed) == set(whole) and not any("lora" in key for key in whole)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_adapting_without_peft_names_the_extra(root, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(FlowclasError, match=r"adapt_rank 2 needs peft.*flowclas_ros\[label\]"):
        fit(root, "no-peft", "--adapt_rank", "2")


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["--model.classes", "0", "--model.energy_weight", "0"], r"needs all of model\.classes \(now 0\)"),
        (["--loss.segmentation", "0", "--loss.energy_entropy", "0"], "needs all of"),
        (["--data.labels.val", "[]"], r"data\.labels\.val names 0 folders and data\.val 1"),
        (["--data.labels.train", "[]"], r"data\.labels\.train names 0 folders and data\.train 1"),
        (["--data.labels.encoding", "cityscapes"], "it must be 19"),
        (["--loss.alpha", "0", "--loss.contrastive", "none"], "set model.score energy_entropy"),
        (["--adapt_rank", "2", "--embed_backbone", "false"], "adapt_rank 2 needs"),
        (
            ["--adapt_rank", "2", "--model.memory_weight", "1", "--model.memory_layers", "[0]"],
            r"adapt_rank 2 changes the features, .*model\.memory_weight 1\.0",
        ),
    ],
)
def test_half_a_label_track_is_refused(root, overrides, text):
    with pytest.raises(FlowclasError, match=text):
        load_config(root / "fit.yaml", overrides)


def test_a_wrong_label_ends_the_fit_in_one_line(root, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    for i in range(8):
        write_labels(labels / f"{i}.png", np.full((64, 96), 9))
    with pytest.raises(FlowclasError, match=r"holds id 9, which is none of model\.classes 4"):
        fit(root, "wrong", "--data.labels.train", f"[{labels}]")
