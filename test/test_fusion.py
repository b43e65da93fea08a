"""The score of likelihood and margin together: its formula, its parts, and what it refuses."""

import lightning as L
import pytest
import torch
from fit_support import write_tiny_kit
from torch import nn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model import BackboneConfig, FlowCLAS, FlowCLASConfig, FlowConfig
from flowclas_ros.model.fusion import INLIER_EVERY, INLIER_WEIGHT, CellMoments, MarginFusion, near_outliers
from flowclas_ros.training.config_file import load_config
from flowclas_ros.training.data import open_data
from flowclas_ros.training.module import FitModule


def margin_model() -> tuple[FlowCLAS, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    backbone = BackboneConfig("mobilenetv2_100", "random", layers=(2, 3), stride=16)
    flow = FlowConfig(2, hidden_ratio=0.1, whitening=False)
    model = FlowCLAS(FlowCLASConfig(backbone, flow, projection_dim=16, margin_weight=1.0)).eval()
    model.flow.initialise([(model.features(torch.rand(8, 3, 160, 160)), None)])
    features = model.features(torch.rand(2, 3, 480, 480))
    labels = torch.zeros(2, 30, 30, dtype=torch.uint8)
    labels[:, :9], labels[:, 27:] = 1, 255
    features[:, :40, :9] += 3 * features.std()
    return model, features, labels


def no_projection() -> CellMoments:
    """Of a projection that tells nothing."""
    cells = CellMoments()
    for moments in (cells.inliers, cells.outliers):
        moments.add(torch.zeros(2, 1))
    return cells


def test_fused_score_is_its_formula():
    model, features, labels = margin_model()
    model.fit_margin([(features, labels)])
    nll, score, fusion = model.nll(features), model.grid_score(features), model.fusion
    centre = nll[labels == 0].median()
    spread = 2 * (nll[labels == 0] - centre).abs().median()
    margin = (score - centre) / spread - torch.asinh((nll - centre) / spread)
    assert torch.allclose(fusion.centre, centre) and torch.allclose(fusion.spread, spread, rtol=1e-4)
    counted = margin[labels == 0][::INLIER_EVERY].detach()
    assert float(counted.mean()) == pytest.approx(0, abs=1e-3)
    assert 0.5 < float(counted.std()) <= 0.75  # half of one margin of deviation 1, a quarter of another
    assert margin[labels == 1].mean() > margin[labels == 0].mean() + margin[labels == 0].std()


def test_both_margins_have_a_part_in_the_fused_score():
    model, features, labels = margin_model()
    model.fit_margin([(features, labels)])
    rows, fusion = features.movedim(1, -1), model.fusion
    head = model.project(model.latent(features)[0]).movedim(1, -1) @ fusion.direction
    fisher = rows @ fusion.discriminant
    for part, weight in ((head, 0.5), (fisher, 0.25)):  # in standard deviations of the inliers
        deviation = float(part[labels == 0][::INLIER_EVERY].std(correction=0).detach())
        assert deviation == pytest.approx(weight, rel=1e-2)
        assert part[labels == 1].mean() > part[labels == 0].mean()


def test_the_discriminant_is_fishers_and_near_inliers_count_as_much_as_all():
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(200, 3, generator=generator).double() * torch.tensor([1.0, 2.0, 0.5]) for _ in range(3)]
    far, near, out = (rows + shift for rows, shift in zip(draws, (0.0, 0.5, 2.0), strict=True))
    fusion, cells = MarginFusion(1, 3, weight=1.0), CellMoments()
    for moments, rows in ((cells.inliers, torch.cat([far, near])), (cells.near, near), (cells.outliers, out)):
        moments.add(rows[:50])
        moments.add(rows[50:])
    fusion.fit(no_projection(), cells, torch.randn(400, generator=generator))
    inliers = torch.cat([far, near])
    normal = (inliers.mean(0) + near.mean(0)) / 2
    scatter = sum((rows - normal).T @ (rows - normal) / len(rows) for rows in (inliers, near)) / 2
    expected = torch.linalg.solve(out.T.cov(correction=0) + INLIER_WEIGHT * scatter, out.mean(0) - normal)
    cosine = torch.nn.functional.cosine_similarity(fusion.discriminant.double(), expected, dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)


def test_a_neighbourhood_is_seen_as_the_mean_of_the_cells_around_and_costs_one_map():
    fusion = MarginFusion(2, 4, weight=1.0, neighbourhood=3)
    nn.init.normal_(fusion.discriminant)
    features = torch.randn(2, 4, 6, 7)
    seen = fusion.seen(features)
    assert seen.shape == (2, 8, 6, 7)
    torch.testing.assert_close(seen[:, 4:, 2, 3], features[:, :, 1:4, 2:5].mean((2, 3)))
    torch.testing.assert_close(seen[:, 4:, 0, 0], features[:, :, :2, :2].mean((2, 3)))  # of what there is
    score = fusion(torch.zeros(2, 6, 7), torch.zeros(2, 2, 6, 7), features)
    torch.testing.assert_close(score, torch.einsum("bchw,c->bhw", seen, fusion.discriminant))


def test_with_a_neighbourhood_a_cell_is_told_by_what_lies_around_it():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 3, 20, 20, generator=generator)
    labels = torch.zeros(8, 20, 20, dtype=torch.uint8)
    labels[:, 6:14, 6:14] = 1
    features[:, 0][labels == 1] += 0.7  # little against the noise of one cell, much against that of 25
    apart = {}
    for side in (1, 5):
        fusion, cells = MarginFusion(1, 3, weight=1.0, neighbourhood=side), CellMoments()
        cells.add(fusion.seen(features), labels)
        fusion.fit(no_projection(), cells, torch.randn(99, generator=generator))
        score = fusion(torch.zeros(8, 20, 20), torch.zeros(8, 1, 20, 20), features)
        apart[side] = float((score[labels == 1].mean() - score[labels == 0].mean()) / score[labels == 0].std())
    assert apart[5] > 2 * apart[1]


def test_of_the_inliers_each_fourth_counts_and_each_time_another_but_all_outliers():
    maps, labels = torch.arange(50.0).view(1, 1, 5, 10), torch.zeros(1, 5, 10, dtype=torch.uint8)
    labels[0, 4] = 1
    cells = CellMoments()
    for times in range(1, 5):
        cells.add(maps, labels)
        assert (cells.inliers.count, cells.near.count, cells.outliers.count) == (10 * times, 20 * times, 10 * times)
    assert float(cells.inliers.mean) == pytest.approx(19.5)  # of 0 to 39: each once
    assert float(cells.normal_mean) == pytest.approx((19.5 + 29.5) / 2)


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


def test_centred_scores_do_not_move_with_the_frame_but_with_what_stands_out_of_it():
    plain, centred = (MarginFusion(4, 3, weight=1.0, centred=value) for value in (False, True))
    for fusion in (plain, centred):
        nn.init.ones_(fusion.discriminant)
    nll, projection, features = torch.rand(2, 9, 9), torch.zeros(2, 4, 9, 9), torch.zeros(2, 3, 9, 9)
    before, score = plain(nll, projection, features), centred(nll, projection, features)
    medians = before.flatten(1).median(dim=1).values.view(2, 1, 1)
    torch.testing.assert_close(score, before - medians)
    haze = torch.tensor([1.0, -0.5]).view(2, 1, 1, 1)  # moves the frames by 3 and by -1.5 spreads
    torch.testing.assert_close(centred(nll, projection, features + haze), score)
    dark = centred(nll, projection, features + 4.0)  # by 12: that is no weather
    torch.testing.assert_close(dark, before + 12 - 8)


def test_margin_without_outliers_is_refused():
    model, features, labels = margin_model()
    with pytest.raises(FlowclasError, match="needs inlier and outlier pixels"):
        model.fit_margin([(features, labels * 0)])


def test_the_margins_scenes_are_as_many_as_asked_for_never_the_same_and_the_same_each_time(tmp_path):
    write_tiny_kit(tmp_path)
    overrides = ["--model.margin_weight", "1", "--trainer.margin_scenes", "24"]  # of four frames
    config = load_config(tmp_path / "fit.yaml", overrides)
    module = FitModule(FlowCLAS(config.model), config, open_data(config.data, config.seed))
    module.trainer = L.Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu")
    batches, again = list(module._margin_batches()), list(module._margin_batches())
    scenes = [image for batch in batches for image in batch["image"]]
    assert len(scenes) == 24 == len({tuple(scene.flatten().tolist()) for scene in scenes})
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(batches, again, strict=True))
    assert all((label == 1).any() for batch in batches for label in batch["label"])
