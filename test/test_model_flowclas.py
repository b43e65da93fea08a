"""The whole model on tensors: any size, any batch, any backbone family, and a frozen backbone that stays frozen."""

import pytest
import torch
from torch import nn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model import (
    PRESETS,
    BackboneConfig,
    FlowCLAS,
    FlowCLASConfig,
    FlowConfig,
    FrozenBackbone,
    build_preset,
)
from flowclas_ros.model.device import resolve_device

CONV = BackboneConfig("mobilenetv2_100", "random", layers=(2, 3, 4), stride=16)
VIT = BackboneConfig("vit_tiny_patch16_224", "random")
BATCH_TOLERANCE = 1e-4  # nats per dimension; kernels differ by batch size


def small_model(backbone: BackboneConfig = CONV, **kwargs) -> FlowCLAS:
    torch.manual_seed(0)
    model = FlowCLAS(
        FlowCLASConfig(backbone, FlowConfig(2, hidden_ratio=0.1, whitening=False), projection_dim=16, **kwargs)
    )
    features = model.features(torch.rand(8, 3, 160, 160))
    model.flow.initialise([(features, None)])
    for step in model.flow.steps:
        nn.init.normal_(step.coupling.drive_second[-1].weight, std=0.01)  # off the identity
    return model.eval()


@pytest.mark.parametrize("backbone", [CONV, VIT], ids=["conv", "vit"])
@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 1), (100, 31)])
def test_score_has_the_images_size_whatever_the_size(backbone, size):
    score = small_model(backbone)(torch.rand(2, 3, *size))
    assert score.shape == (2, *size)
    assert score.dtype == torch.float32 and torch.isfinite(score).all()


@pytest.mark.parametrize("backbone", [CONV, VIT], ids=["conv", "vit"])
def test_score_does_not_depend_on_what_else_is_in_the_batch(backbone):
    model = small_model(backbone)
    images = torch.rand(4, 3, 64, 80)
    together = model(images)
    for i in range(4):
        assert (model(images[i : i + 1])[0] - together[i]).abs().max() < BATCH_TOLERANCE


def test_short_side_resizes_inside_and_gives_back_the_images_size():
    model = small_model(short_side=64)
    images = torch.rand(1, 3, 200, 300)
    assert model.working_size(200, 300) == (64, 96)
    assert model.features(images).shape[-2:] == (4, 6)
    assert model(images).shape == (1, 200, 300)


@pytest.mark.parametrize(
    ("name", "prefix_tokens"),
    [
        ("vit_small_patch14_dinov2", 1),
        ("vit_small_patch14_reg4_dinov2", 5),
        ("eva02_tiny_patch14_224", 1),
        ("vit_small_patch16_dinov3", 5),
    ],
)
def test_transformers_drop_prefix_tokens_and_lay_patches_out_in_rows(name, prefix_tokens):
    backbone = FrozenBackbone(BackboneConfig(name, "random"))
    assert backbone.model.num_prefix_tokens == prefix_tokens
    patch = backbone.stride
    size = (3 * patch + 5, 5 * patch + 1)
    features = backbone(torch.rand(1, 3, *size))
    assert features.shape == (1, backbone.channels, 4, 6)
    tokens = backbone.model.forward_features(
        nn.functional.pad(
            (torch.rand(1, 3, *size) * 0 + 0.5 - backbone.mean) / backbone.std,
            (0, 6 * patch - size[1], 0, 4 * patch - size[0]),
            mode="replicate",
        )
    )
    flat = backbone(torch.full((1, 3, *size), 0.5))
    expected = tokens[:, prefix_tokens:].transpose(1, 2).reshape(1, -1, 4, 6)
    assert (flat - expected).abs().max() < 1e-4


def test_several_layers_are_concatenated():
    one = FrozenBackbone(BackboneConfig("vit_tiny_patch16_224", "random"))
    three = FrozenBackbone(BackboneConfig("vit_tiny_patch16_224", "random", layers=(3, 7, -1)))
    assert three.channels == 3 * one.channels
    assert three(torch.rand(1, 3, 32, 48)).shape == (1, three.channels, 2, 3)


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224", "deit3_small_patch16_224"],
)
def test_blocks_of_a_transformer_behind_the_last_that_is_read_are_not_run_and_change_nothing(name):
    whole = FrozenBackbone(BackboneConfig(name, "random", layers=(1, 3, -1)))
    part = FrozenBackbone(BackboneConfig(name, "random", layers=(1, 3)))
    part.load_state_dict(whole.state_dict())
    ran = []
    for number, block in enumerate(part.model.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    image = torch.rand(1, 3, 64, 96)
    assert torch.equal(part(image), whole(image)[:, : part.channels])
    assert ran == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "written", "ascending"),
    [("mobilenetv2_100", (-1, 1), (1, 4)), ("resnet10t", (3, -4), (1, 3)), ("vit_tiny_patch16_224", (-1, 3), (3, 11))],
)
def test_layers_written_out_of_order_are_the_same_layers_in_order(name, written, ascending):
    backbone = FrozenBackbone(BackboneConfig(name, "random", layers=written, stride=16))
    same = FrozenBackbone(BackboneConfig(name, "random", layers=ascending, stride=16))
    same.load_state_dict(backbone.state_dict())
    image = torch.rand(1, 3, 64, 64)
    assert backbone.sections == same.sections
    assert torch.equal(backbone(image), same(image))


def test_conv_stages_come_to_one_stride():
    backbone = FrozenBackbone(CONV)
    assert (backbone.channels, backbone.stride) == (32 + 96 + 320, 16)
    assert backbone(torch.rand(1, 3, 65, 96)).shape == (1, 448, 5, 6)
    assert FrozenBackbone(BackboneConfig("mobilenetv2_100", "random")).stride == 32


@pytest.mark.parametrize("name", ["mobilenetv2_100", "lcnet_050"])
def test_blocks_behind_the_last_stage_that_is_read_are_dropped_and_change_nothing(name):
    whole = FrozenBackbone(BackboneConfig(name, "random", layers=(1, 2, 4), stride=8))
    part = FrozenBackbone(BackboneConfig(name, "random", layers=(1, 2), stride=8))
    part.load_state_dict({k: v for k, v in whole.state_dict().items() if k in part.state_dict()})
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(part(image), whole(image)[:, : part.channels])
    assert sum(p.numel() for p in part.parameters()) < 0.5 * sum(p.numel() for p in whole.parameters())


def test_features_may_come_from_the_wide_middle_of_a_stages_last_block():
    kwargs = {"feature_location": "expansion"}
    backbone = FrozenBackbone(BackboneConfig("mobilenetv2_100", "random", layers=(1, 3), stride=16, kwargs=kwargs))
    assert [section.channels for section in backbone.sections] == [144, 576]
    last = backbone.model.blocks[-1][-1]
    seen = []
    last.conv_pwl.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    features = backbone(torch.rand(2, 3, 64, 96))
    assert features.shape == (2, 144 + 576, 4, 6)
    torch.testing.assert_close(features[:, 144:], seen[0])
    assert (features >= 0).all()  # behind the activation


def test_backbone_stays_in_eval_mode_and_without_gradient_whatever_a_trainer_does():
    model = small_model()
    before = model.backbone.content_sha256()
    model.train()
    assert not any(module.training for module in model.backbone.modules())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss = model.nll(model.features(torch.rand(2, 3, 64, 64))).mean()
    loss.backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert model.backbone.content_sha256() == before


def test_preprocessing_belongs_to_the_backbone():
    plain = FrozenBackbone(BackboneConfig("mobilenetv2_100", "random", mean=(0, 0, 0), std=(1, 1, 1)))
    other = FrozenBackbone(BackboneConfig("mobilenetv2_100", "random", mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7)))
    other.model.load_state_dict(plain.model.state_dict())
    images = torch.rand(1, 3, 64, 64)
    by_hand = (images - torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1)
    assert torch.allclose(other(images), plain(by_hand), atol=1e-5)


def test_projection_is_of_unit_length():
    model = small_model()
    z, _ = model.latent(model.features(torch.rand(1, 3, 64, 64)))
    projected = model.project(z)
    assert projected.shape == (1, 16, 4, 4)
    assert torch.allclose(projected.norm(dim=1), torch.ones(1, 4, 4), atol=1e-5)


def test_without_weight_the_score_is_the_nll_alone():
    model = small_model()
    features = model.features(torch.rand(1, 3, 64, 64))
    assert torch.equal(model.grid_score(features), model.nll(features))


def test_presets_hold_the_published_settings():
    v1, wacv = PRESETS["flowclas_v1"].flow, PRESETS["flowclas_wacv"].flow
    assert (v1.steps, v1.coupling, v1.subnet, v1.clamp) == (8, "two_sided", "plain", 3.0)
    assert (wacv.steps, wacv.coupling, wacv.subnet, wacv.clamp) == (16, "one_sided", "residual", 2.0)
    assert build_preset("flowclas_edge", weights="random")(torch.rand(1, 3, 48, 64)).shape == (1, 48, 64)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "vit_tiny_patch16_224"])
@pytest.mark.parametrize(("scale", "size"), [(1.5, (96, 144)), (0.5, (32, 48))])
def test_a_further_scale_is_the_map_of_the_resized_image_on_the_first_ones_grid(name, scale, size):
    one = FrozenBackbone(BackboneConfig(name, "random", layers=(2, 3), stride=16))
    two = FrozenBackbone(BackboneConfig(name, "random", layers=(2, 3), stride=16, scales=(1.0, scale)))
    two.model.load_state_dict(one.model.state_dict())
    image = torch.rand(1, 3, 64, 96)
    resized = nn.functional.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
    pool = nn.functional.adaptive_avg_pool2d
    expected = (
        pool(one(resized), (4, 6)) if scale > 1 else nn.functional.interpolate(one(resized), (4, 6), mode="bilinear")
    )
    features = two(image)
    assert features.shape == (1, 2 * one.channels, 4, 6) and two.channels == 2 * one.channels
    assert sum(section.channels for section in two.sections) == two.channels
    assert torch.equal(features[:, : one.channels], one(image))
    torch.testing.assert_close(features[:, one.channels :], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (100, 31)])
def test_two_scales_take_any_size(size):
    backbone = FrozenBackbone(BackboneConfig("mobilenetv2_100", "random", layers=(3, 4), stride=16, scales=(1.0, 1.33)))
    rows, cols = (-(-side // 16) for side in size)
    assert backbone(torch.rand(2, 3, *size)).shape == (2, backbone.channels, rows, cols)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: BackboneConfig(scales=(0.5, 1.0)), r"backbone.scales is \[0.5, 1.0\]; the first must be 1"),
        (lambda: build_preset("flowclas_v9"), "no preset 'flowclas_v9'.*flowclas_v1"),
        (lambda: FrozenBackbone(BackboneConfig("mobilenetv99", "random")), "no model 'mobilenetv99'"),
        (
            lambda: FrozenBackbone(BackboneConfig("mobilenetv2_100", "/nowhere/w.safetensors")),
            "/nowhere/w.safetensors.*exist",
        ),
        (lambda: FrozenBackbone(BackboneConfig("mobilenetv2_100", "weights.pth")), "not a .safetensors"),
        (
            lambda: FrozenBackbone(BackboneConfig("vit_tiny_patch16_224", "random", layers=(12,))),
            "12 blocks.*no layer 12",
        ),
        (
            lambda: FrozenBackbone(BackboneConfig("vit_tiny_patch16_224", "random", layers=(11, -1))),
            r"backbone.layers \[11, -1\] names layer 11 of 12 twice",
        ),
        (
            lambda: FrozenBackbone(BackboneConfig("mobilenetv2_100", "random", layers=(4, 2, -1))),
            r"backbone.layers \[4, 2, -1\] names layer 4 of 5 twice",
        ),
        (
            lambda: FrozenBackbone(BackboneConfig("mobilenetv2_100", "random", layers=(5, 11))),
            r"does not have all of the layers \[5, 11\]",
        ),
        (lambda: FlowCLASConfig(short_side=3), "short_side is 3"),
        (lambda: FlowCLASConfig(margin_weight=1.0, projection_dim=0), "0 without a projection head"),
        (lambda: FlowCLASConfig(memory_weight=1.0), "memory_weight is 1.0 with margin_weight 0.0"),
        (lambda: FlowCLASConfig(neighbourhood=4), "neighbourhood is 4 cells; it must be odd"),
        (lambda: FlowCLASConfig(guided_radius=-1.0), "guided_radius is -1.0 px; it must be 0 or more"),
        (lambda: FlowCLASConfig(centred=True), "centred is true with margin_weight 0"),
        (lambda: resolve_device("gpu"), "device 'gpu' is unknown"),
    ],
)
def test_impossible_models_are_refused_by_name(make, text):
    with pytest.raises(FlowclasError, match=text):
        make()


def test_auto_takes_the_gpu_where_there_is_one():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is here")
def test_cuda_without_a_gpu_names_the_way_out():
    with pytest.raises(FlowclasError, match=r"device 'cuda:0'.*use device 'cpu' or 'auto'"):
        resolve_device("cuda:0")
