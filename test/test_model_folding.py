"""Batch norms folded into convolutions: the same features, and what is saved is the model as it came."""

import pytest
import torch
from torch import nn

from flowclas_ros.model.backbone import BackboneConfig, FrozenBackbone
from flowclas_ros.model.folding import folded

IMAGES = torch.rand(2, 3, 70, 90, generator=torch.Generator().manual_seed(1))


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def unsettled(model: nn.Module, seed: int) -> nn.Module:
    """With batch norms that do something, unlike fresh ones."""
    torch.manual_seed(seed)
    for norm in norms(model):
        for tensor, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2), (norm.weight, 0.5, 2)):
            nn.init.uniform_(tensor, low, high)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return model


def backbone(name: str, seed: int = 0) -> FrozenBackbone:
    made = FrozenBackbone(BackboneConfig(name=name, weights="random", layers=(1, 2)))
    unsettled(made, seed)
    return made


@pytest.mark.parametrize("name", ["mobilenetv2_100", "resnet18", "resnetv2_18"])  # resnetv2: norm before convolution
def test_a_frozen_backbone_gives_the_same_features_with_fewer_batch_norms(name):
    ours = backbone(name)
    with torch.inference_mode():
        features = ours(IMAGES)
    plain = ours.feature_map(IMAGES)
    torch.testing.assert_close(features, plain, rtol=0, atol=1e-5 * float(plain.abs().max()))
    ran = ours._frozen_model()
    assert len(norms(ran)) < len(norms(ours.model))
    assert ours._frozen_model() is ran  # folded once


def test_what_is_saved_and_counted_is_the_model_as_it_came():
    ours = backbone("mobilenetv2_100")
    names, parts, digest = list(ours.state_dict()), len(list(ours.modules())), ours.content_sha256()
    ours(IMAGES)
    assert (list(ours.state_dict()), len(list(ours.modules())), ours.content_sha256()) == (names, parts, digest)


def test_other_weights_and_another_type_are_folded_anew():
    ours, other = backbone("mobilenetv2_100"), backbone("mobilenetv2_100", seed=1)
    before, wanted = ours(IMAGES), other(IMAGES)
    assert not torch.allclose(before, wanted)
    ours.load_state_dict(other.state_dict())
    torch.testing.assert_close(ours(IMAGES), wanted)
    assert ours.double()(IMAGES.double()).dtype == torch.float64


def test_a_norm_that_does_not_run_behind_the_convolution_before_it_is_left_alone():
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [self.conv(self.norm(x))]

    model = unsettled(Crossed().eval(), 0)
    assert folded(model, IMAGES[:1]) is model
