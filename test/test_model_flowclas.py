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
from flowclas_ros.model.fusion import MarginFusion, Moments, near_outliers

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


def margin_model() -> tuple[FlowCLAS, torch.Tensor, torch.Tensor]:
    model = small_model(margin_weight=1.0)
    features = model.features(torch.rand(2, 3, 160, 160))
    labels = torch.zeros(2, 10, 10, dtype=torch.uint8)
    labels[:, :3], labels[:, 9] = 1, 255
    features[:, :40, :3] += 3 * features.std()
    return model, features, labels


def test_fused_score_is_its_formula():
    model, features, labels = margin_model()
    model.fit_margin([(features[:1], labels[:1]), (features[1:], labels[1:])])
    nll, score, fusion = model.nll(features), model.grid_score(features), model.fusion
    centre = nll[labels == 0].median()
    spread = 2 * (nll[labels == 0] - centre).abs().median()
    margin = (score - centre) / spread - torch.asinh((nll - centre) / spread)
    assert torch.allclose(fusion.centre, centre) and torch.allclose(fusion.spread, spread, rtol=1e-4)
    assert float(margin[labels == 0].mean().detach()) == pytest.approx(0, abs=1e-3)
    assert 0.5 < float(margin[labels == 0].std().detach()) <= 1  # the mean of two margins of deviation 1
    assert margin[labels == 1].mean() > margin[labels == 0].mean() + margin[labels == 0].std()


def test_both_margins_have_a_part_in_the_fused_score():
    model, features, labels = margin_model()
    model.fit_margin([(features, labels)])
    rows, fusion = features.movedim(1, -1), model.fusion
    head = model.project(model.latent(features)[0]).movedim(1, -1) @ fusion.direction
    fisher = rows @ fusion.discriminant
    for part in (head, fisher):  # each counts half, in standard deviations of the inliers
        assert float(part[labels == 0].std(correction=0).detach()) == pytest.approx(0.5, rel=1e-2)
        assert part[labels == 1].mean() > part[labels == 0].mean()


def test_the_discriminant_is_fishers_and_near_inliers_count_as_much_as_all():
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(200, 3, generator=generator).double() * torch.tensor([1.0, 2.0, 0.5]) for _ in range(3)]
    far, near, out = (rows + shift for rows, shift in zip(draws, (0.0, 0.5, 2.0), strict=True))
    fusion, moments = MarginFusion(0, 3, weight=1.0), [Moments() for _ in range(3)]
    for moment, rows in zip(moments, (torch.cat([far, near]), near, out), strict=True):
        moment.add(rows[:50])
        moment.add(rows[50:])
    fusion.fit(*moments, torch.randn(400, generator=generator))
    inliers = torch.cat([far, near])
    normal = (inliers.mean(0) + near.mean(0)) / 2
    scatter = sum((rows - normal).T @ (rows - normal) / len(rows) for rows in (inliers, near)) / 2
    expected = torch.linalg.solve(out.T.cov(correction=0) + 3 * scatter, out.mean(0) - normal)
    cosine = torch.nn.functional.cosine_similarity(fusion.discriminant.double(), expected, dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)


def test_near_inliers_lie_within_two_cells_of_an_outlier_and_are_no_outliers_themselves():
    labels = torch.zeros(1, 7, 9, dtype=torch.uint8)
    labels[0, 3, 4], labels[0, 3, 5] = 1, 255
    near = near_outliers(labels)[0]
    expected = torch.zeros(7, 9, dtype=torch.bool)
    expected[1:6, 2:7] = True
    expected[3, 4] = expected[3, 5] = False
    assert torch.equal(near, expected)


def test_a_fusion_stored_without_a_discriminant_is_the_projections_margin_alone():
    fusion, older = MarginFusion(4, 3, weight=1.0), MarginFusion(4, 3, weight=1.0)
    nn.init.ones_(older.direction)
    fusion.load_state_dict({k: v for k, v in older.state_dict().items() if k != "discriminant"})
    nll, projection, features = torch.rand(1, 5, 5), torch.rand(1, 4, 5, 5), torch.rand(1, 3, 5, 5)
    assert torch.equal(fusion(nll, projection, features), older(nll, projection, torch.zeros_like(features)))


def test_fused_score_without_margin_keeps_the_order_of_the_nll():
    fusion = MarginFusion(4, 3, weight=1.0)
    nll = torch.linspace(-3, 50, 100).view(1, 10, 10)
    score = fusion(nll, torch.zeros(1, 4, 10, 10), torch.zeros(1, 3, 10, 10))
    assert (score.flatten().diff() > 0).all()


def test_margin_without_outliers_is_refused():
    model, features, labels = margin_model()
    with pytest.raises(FlowclasError, match="needs inlier and outlier pixels"):
        model.fit_margin([(features, labels * 0)])


def test_without_weight_the_score_is_the_nll_alone():
    model = small_model()
    features = model.features(torch.rand(1, 3, 64, 64))
    assert torch.equal(model.grid_score(features), model.nll(features))


def test_presets_hold_the_published_settings():
    v1, wacv = PRESETS["flowclas_v1"].flow, PRESETS["flowclas_wacv"].flow
    assert (v1.steps, v1.coupling, v1.subnet, v1.clamp) == (8, "two_sided", "plain", 3.0)
    assert (wacv.steps, wacv.coupling, wacv.subnet, wacv.clamp) == (16, "one_sided", "residual", 2.0)
    assert build_preset("flowclas_edge", weights="random")(torch.rand(1, 3, 48, 64)).shape == (1, 48, 64)


@pytest.mark.parametrize(
    ("make", "text"),
    [
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
        (lambda: FlowCLASConfig(short_side=3), "short_side is 3"),
        (lambda: FlowCLASConfig(margin_weight=1.0, projection_dim=0), "0 without a projection head"),
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
