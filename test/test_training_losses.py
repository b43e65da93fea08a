"""The objective: contrastive terms against plain loops, labels on the grid, and nothing of an outlier in the NLL."""

import math

import pytest
import torch
import torch.nn.functional as F

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model import BackboneConfig, FlowCLAS, FlowCLASConfig, FlowConfig
from flowclas_ros.training.losses import (
    IGNORE,
    INLIER,
    OUTLIER,
    LossConfig,
    cell_shares,
    contrastive_loss,
    flowclas_loss,
    labels_to_grid,
    mean_inlier_nll,
    outlier_hinge,
)


def by_loops(anchors, labels, extra, tau, supcon):
    """The definition, term by term, in float64."""
    contrast = torch.cat([anchors, extra])
    contrast_labels = [*labels.tolist(), *[OUTLIER] * len(extra)]
    losses = []
    for i, anchor in enumerate(anchors):
        similarity = [float(anchor @ other) / tau for other in contrast]
        others = [k for k in range(len(contrast)) if k != i]
        positives = [k for k in others if contrast_labels[k] == labels[i]]
        negatives = [k for k in others if contrast_labels[k] != labels[i]]
        if not positives:
            continue
        terms = []
        for p in positives:
            against = others if supcon else [p, *negatives]
            terms.append(-similarity[p] + math.log(sum(math.exp(similarity[k]) for k in against)))
        losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("form", ["infonce", "supcon"])
@pytest.mark.parametrize("extra_count", [0, 4])
def test_contrastive_loss_is_its_definition(form, extra_count):
    torch.manual_seed(0)
    anchors = F.normalize(torch.randn(9, 5).double(), dim=1)
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1])
    extra = F.normalize(torch.randn(extra_count, 5).double(), dim=1)
    value = contrastive_loss(anchors, labels, extra, LossConfig(contrastive=form, temperature=0.3))
    assert float(value) == pytest.approx(by_loops(anchors, labels, extra, 0.3, form == "supcon"), abs=1e-9)


@pytest.mark.parametrize("form", ["infonce", "supcon"])
def test_the_contrastive_gradient_is_the_same_where_the_network_runs_in_half_precision(form):
    torch.manual_seed(0)
    labels = torch.tensor([0, 1]).repeat_interleave(64)
    centres = 3 * torch.randn(2, 32)
    anchors = F.normalize(torch.randn(128, 32) + centres[labels], dim=1).requires_grad_()
    gradients = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = contrastive_loss(anchors, labels, anchors[:0], LossConfig(contrastive=form))
        gradients += torch.autograd.grad(loss, anchors)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_an_anchor_without_any_positive_is_left_out():
    anchors = F.normalize(torch.randn(3, 4).double(), dim=1)
    labels = torch.tensor([0, 0, 1])
    config = LossConfig(temperature=0.5)
    value = contrastive_loss(anchors, labels, anchors.new_zeros(0, 4), config)
    assert float(value) == pytest.approx(by_loops(anchors, labels, anchors[:0], 0.5, False), abs=1e-9)


def test_contrastive_loss_of_nothing_is_zero_and_differentiable():
    anchors = torch.zeros(0, 4, requires_grad=True)
    value = contrastive_loss(anchors, torch.zeros(0, dtype=torch.uint8), torch.zeros(0, 4), LossConfig())
    value.backward()
    assert float(value) == 0.0


def test_separated_classes_cost_less_than_mixed_ones():
    inlier, outlier = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    apart = torch.stack([inlier, inlier, outlier, outlier])
    labels = torch.tensor([0, 0, 1, 1])
    nothing = torch.zeros(0, 2)
    good = contrastive_loss(apart, labels, nothing, LossConfig())
    bad = contrastive_loss(apart, torch.tensor([0, 1, 0, 1]), nothing, LossConfig())
    assert good < 0.01 < bad


def test_nll_takes_inlier_pixels_alone_even_beside_infinities():
    nll = torch.tensor([[[1.0, 3.0], [torch.inf, torch.nan]]], requires_grad=True)
    labels = torch.tensor([[[INLIER, INLIER], [OUTLIER, IGNORE]]], dtype=torch.uint8)
    value = mean_inlier_nll(nll, labels)
    value.backward()
    assert float(value) == 2.0
    assert nll.grad.tolist() == [[[0.5, 0.5], [0.0, 0.0]]]


def test_a_cell_is_an_outlier_from_a_quarter_on_an_inlier_only_when_pure():
    labels = torch.zeros(1, 4, 16, dtype=torch.uint8)
    labels[0, :1, 4:8] = OUTLIER  # exactly a quarter of the second cell
    labels[0, 0, 8] = OUTLIER  # one pixel of the third
    labels[0, :3, 12:16] = IGNORE  # three quarters of the fourth
    grid = labels_to_grid(labels, (4, 16), (1, 4), 4)
    assert grid.tolist() == [[[INLIER, OUTLIER, IGNORE, IGNORE]]]


def test_cell_shares_say_how_much_of_a_cell_is_outlier_and_how_much_unknown():
    labels = torch.zeros(1, 4, 6, dtype=torch.uint8)
    labels[0, 0, :4] = OUTLIER  # a quarter of the first cell; the second is padded by a half
    labels[0, 1, 4:6] = IGNORE
    outlier, unknown = cell_shares(labels, (4, 6), (1, 2), 4)
    assert outlier.tolist() == [[[0.25, 0]]] and unknown.tolist() == [[[0, 0.5 + 2 / 16]]]


def test_padding_up_to_whole_cells_is_never_an_inlier_by_itself():
    labels = torch.zeros(1, 5, 4, dtype=torch.uint8)
    grid = labels_to_grid(labels, (5, 4), (2, 1), 4)
    assert grid.tolist() == [[[INLIER], [IGNORE]]]  # three quarters of the second cell are padding


def test_labels_follow_the_working_size():
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[0, :4] = OUTLIER
    assert labels_to_grid(labels, (16, 16), (2, 2), 8).tolist() == [[[OUTLIER, OUTLIER], [INLIER, INLIER]]]


@pytest.fixture(scope="module")
def model() -> FlowCLAS:
    torch.manual_seed(0)
    backbone = BackboneConfig("mobilenetv2_050", "random", layers=(1,))
    return FlowCLAS(FlowCLASConfig(backbone, FlowConfig(2, whitening=False), projection_dim=8))


def test_outlier_and_padding_pixels_never_reach_the_nll(model):
    torch.manual_seed(0)
    channels = model.backbone.channels
    labels = torch.zeros(1, 9, 9, dtype=torch.uint8)
    labels[0, :2], labels[0, 7:] = OUTLIER, IGNORE
    features = torch.randn(1, channels, 9, 9, requires_grad=True)
    z, log_det = model.latent(features)
    # The decomposition: a pixel's own term depends on itself and, through 3x3 subnets, on near neighbours only.
    loss = mean_inlier_nll(model.nll_of_latent(z, log_det), labels)
    spoiled = features.detach().clone()
    spoiled[:, :, 0], spoiled[:, :, 8] = 1e4, -1e4  # further than two 3x3 subnets from any inlier (both zero here)
    config = LossConfig(contrastive="none")
    again = flowclas_loss(model, spoiled, labels, None, None, config)["nll"]
    assert float(again) == pytest.approx(float(loss), rel=1e-6)


def test_loss_is_alpha_times_nll_plus_contrastive_and_its_gradient_spares_the_backbone(model):
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8)
    labels[:, :3] = OUTLIER
    images = torch.rand(2, 3, 32, 32)
    features = model.features(images)
    result = flowclas_loss(model, features, labels, features[:1], labels[:1], LossConfig(alpha=2.0, samples=16))
    assert float(result["loss"]) == pytest.approx(2 * float(result["nll"]) + float(result["contrastive"]), rel=1e-5)
    result["loss"].backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert model.projection.weight.grad.abs().max() > 0


def test_a_batch_without_any_outlier_still_gives_a_finite_loss(model):
    features = model.features(torch.rand(1, 3, 32, 32))
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    result = flowclas_loss(model, features, labels, None, None, LossConfig())
    assert torch.isfinite(result["loss"])


def test_drawn_cells_give_the_same_loss_as_all_of_them_when_they_are_all_drawn():
    torch.manual_seed(0)
    backbone = BackboneConfig("mobilenetv2_050", "random", layers=(1,))
    model = FlowCLAS(FlowCLASConfig(backbone, FlowConfig(2, kernels=(1,), whitening=False), projection_dim=8))
    features = torch.randn(2, model.backbone.channels, 6, 6)
    labels = torch.zeros(2, 6, 6, dtype=torch.uint8)
    labels[:, :1], labels[:, 5] = OUTLIER, IGNORE
    every = flowclas_loss(model, features, labels, features, labels, LossConfig())
    drawn = flowclas_loss(model, features, labels, features, labels, LossConfig(cells=48))  # all 48, and all 12 of 12
    few = flowclas_loss(model, features, labels, features, labels, LossConfig(cells=4, contrastive="none"))
    for name in ("nll", "nll_outlier"):
        assert float(drawn[name]) == pytest.approx(float(every[name]), rel=1e-5)
    assert float(few["nll"]) != float(every["nll"])


@pytest.mark.parametrize("cells", [2, 48])
@pytest.mark.parametrize(("scene", "auxiliary"), [(IGNORE, OUTLIER), (INLIER, IGNORE), (IGNORE, IGNORE)])
def test_a_batch_without_any_cell_to_draw_gives_a_finite_loss_and_a_gradient(scene, auxiliary, cells):
    """Objects of photos are often smaller than a quarter of a cell; no convolution takes an empty map."""
    torch.manual_seed(0)
    backbone = BackboneConfig("mobilenetv2_050", "random", layers=(1,))
    model = FlowCLAS(FlowCLASConfig(backbone, FlowConfig(2, kernels=(1,), whitening=False), projection_dim=8))
    features = torch.randn(2, model.backbone.channels, 6, 6)
    of_scene, of_auxiliary = (torch.full((2, 6, 6), label, dtype=torch.uint8) for label in (scene, auxiliary))
    result = flowclas_loss(model, features, of_scene, features, of_auxiliary, LossConfig(cells=cells))
    result["loss"].backward()
    assert torch.isfinite(result["loss"])
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_outlier_hinge_is_what_outliers_lack_of_the_margin_and_moves_them_alone():
    outliers = torch.tensor([2.0, 2.5, 9.0], requires_grad=True)
    inlier = torch.tensor(2.0, requires_grad=True)
    value = outlier_hinge(outliers, inlier, 1.0)
    value.backward()
    assert float(value) == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert outliers.grad.tolist() == pytest.approx([-1 / 3, -1 / 3, 0.0])
    assert inlier.grad is None
    assert float(outlier_hinge(outliers[:0], inlier, 1.0)) == 0.0


def test_the_outlier_term_is_added_by_its_weight_and_its_gradient_lowers_the_outliers_likelihood(model):
    torch.manual_seed(0)
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[:, :3] = OUTLIER
    features = model.features(torch.rand(1, 3, 32, 32))
    config = LossConfig(contrastive="none", outlier_weight=2.0)
    result = flowclas_loss(model, features, labels, None, None, config)
    assert float(result["loss"]) == pytest.approx(float(result["nll"]) + 2 * float(result["outlier_hinge"]))
    model.zero_grad()
    result["outlier_hinge"].backward()
    with torch.no_grad():
        kept = {name: p.clone() for name, p in model.named_parameters()}
        for p in model.parameters():
            if p.grad is not None:
                p -= 1e-2 * p.grad
        after = flowclas_loss(model, features, labels, None, None, config)["nll_outlier"]
        for name, p in model.named_parameters():
            p.copy_(kept[name])
    assert after > result["nll_outlier"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"outlier_weight": -1.0}, "outlier_weight"),
        ({"outlier_margin": 0.0}, "outlier_margin"),
        ({"alpha": -1.0}, "alpha"),
        ({"cells": 1}, "cells"),
        ({"near_share": 1.5}, "near_share"),
        ({"hard_share": -0.5}, "hard_share"),
        ({"temperature": 0.0}, "temperature"),
        ({"samples": 1}, "samples"),
        ({"alpha": 0.0, "contrastive": "none"}, "nothing to fit"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, named):
    with pytest.raises(FlowclasError, match=named):
        LossConfig(**settings)
