"""The frozen backbone: only weights and models that it can use, and nothing left when it goes."""

from __future__ import annotations

import copy
import gc
import logging
import weakref

import pytest
import safetensors.torch
import timm
import torch

from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.backbone import BackboneConfig, FrozenBackbone

IMAGES = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def weights(path, name: str, seed: int = 0, without: str = "") -> str:
    torch.manual_seed(seed)
    tensors = timm.create_model(name, pretrained=False).state_dict()
    kept = {key: value.contiguous() for key, value in tensors.items() if not without or not key.startswith(without)}
    safetensors.torch.save_file(kept, str(path))
    return str(path)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t", "convnext_atto", "vit_tiny_patch16_224"])
def test_timms_own_file_gives_its_own_features_and_no_noise(tmp_path, name, caplog):
    config = BackboneConfig(name, weights(tmp_path / "w.safetensors", name))
    with caplog.at_level(logging.INFO):
        first, second = FrozenBackbone(config), FrozenBackbone(config)
    assert first.content_sha256() == second.content_sha256()
    assert not [record for record in caplog.records if record.name.startswith("timm.models._builder")]
    torch.testing.assert_close(first(IMAGES), second(IMAGES))


@pytest.mark.parametrize(
    ("name", "of", "without"),
    [
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224", "blocks.11."),
        ("vit_tiny_patch16_224", "resnet10t", ""),
        ("mobilenetv3_small_050", "mobilenetv3_small_050", "blocks.0."),
        ("convnext_atto", "convnext_atto", "stages.3."),
    ],
)
def test_a_file_that_lacks_tensors_is_refused_and_what_is_not_read_may_be_lacking(tmp_path, name, of, without):
    """timm would leave them at random."""
    path = weights(tmp_path / "w.safetensors", of, without=without)
    with pytest.raises(FlowclasError, match=rf"w\.safetensors' lack \d+ tensors of '{name}', such as \w"):
        FrozenBackbone(BackboneConfig(name, path))
    if name == "convnext_atto":
        FrozenBackbone(BackboneConfig(name, path, layers=(0, 1, 2)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("beit_base_patch16_224", "takes no image of 64x64 pixels"),
        ("levit_128s", "takes no image of 64x64 pixels"),
        ("mambaout_femto", r"gives a map \(1, 2, 2, 2\) where \(B, C, h, w\) is \(1, 288, 2, 2\)"),
    ],
)
def test_a_model_of_one_size_or_of_another_layout_is_refused_when_it_is_made(name, words):
    with pytest.raises(FlowclasError, match=rf"backbone '{name}' {words}"):
        FrozenBackbone(BackboneConfig(name, "random"))


def test_a_closed_model_leaves_its_memory_at_once(checkpoint):
    scorer = Scorer(checkpoint, device="cpu")
    backbone = weakref.ref(scorer._model.backbone)
    gc.disable()
    try:
        scorer.close()
        assert backbone() is None, "only the garbage collection would have found it"
    finally:
        gc.enable()


def test_a_copy_with_other_weights_gives_other_features():
    first = FrozenBackbone(BackboneConfig("mobilenetv3_small_050", "random"))
    before = first(IMAGES)
    other = FrozenBackbone(BackboneConfig("mobilenetv3_small_050", "random"))
    copied = copy.deepcopy(first)
    copied.load_state_dict(other.state_dict())
    torch.testing.assert_close(copied(IMAGES), other(IMAGES))
    torch.testing.assert_close(first(IMAGES), before)
