"""Which cells the contrastive term sees: as many inliers as outliers, and of them those that it is to learn from."""

import pytest
import torch

from flowclas_ros.model import BackboneConfig, FlowCLAS, FlowCLASConfig, FlowConfig
from flowclas_ros.model.fusion import near_outliers
from flowclas_ros.training.losses import INLIER, OUTLIER, LossConfig, flowclas_loss


def seen_by_the_contrast(monkeypatch, config, labels):
    """Cells of the (B, h, w) grid, counted from 0, that the contrastive term had as inliers; all cells' projections."""
    seen = []

    def spy(anchors, anchor_labels, extra, config):
        seen.append(anchors[anchor_labels == INLIER].detach())
        return anchors.sum()

    monkeypatch.setattr("flowclas_ros.training.losses.contrastive_loss", spy)
    model = FlowCLAS(
        FlowCLASConfig(
            BackboneConfig("mobilenetv2_050", "random", layers=(1,)),
            FlowConfig(1, kernels=(1,), whitening=False),
            projection_dim=8,
        )
    )
    features = torch.randn(*labels.shape[:1], model.backbone.channels, *labels.shape[1:])
    torch.manual_seed(0)
    flowclas_loss(model, features, labels, None, None, config, torch.Generator().manual_seed(0))
    rows = model.project(model.latent(features)[0]).movedim(1, -1).flatten(0, 2).detach()
    return torch.cdist(seen[0].double(), rows.double()).argmin(dim=1), rows


@pytest.mark.parametrize("cells", [None, 96])
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_asked_for_share_of_contrasted_inliers_lies_near_an_outlier(monkeypatch, cells, share):
    labels = torch.zeros(1, 12, 12, dtype=torch.uint8)
    labels[:, :2, :6] = OUTLIER  # 12 outliers, 28 near inliers
    drawn, _ = seen_by_the_contrast(monkeypatch, LossConfig(samples=12, near_share=share, cells=cells), labels)
    near = near_outliers(labels).flatten()[drawn]
    assert len(drawn) == len(set(drawn.tolist())) == 12
    assert int(near.sum()) == round(12 * share)


@pytest.mark.parametrize("hard_share", [0.0, 0.5])
def test_where_all_inliers_are_near_the_contrast_still_has_as_many_as_outliers(monkeypatch, hard_share):
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[:, 1:3, 1:3] = OUTLIER
    drawn, _ = seen_by_the_contrast(monkeypatch, LossConfig(samples=4, near_share=0.5, hard_share=hard_share), labels)
    assert len(drawn) == 4


@pytest.mark.parametrize(("near_share", "share"), [(0.0, 0.25), (0.5, 0.5), (0.0, 1.0)])
def test_the_asked_for_share_of_the_other_inliers_is_what_looks_most_like_outliers(monkeypatch, near_share, share):
    labels = torch.zeros(1, 8, 10, dtype=torch.uint8)  # so few that the draw is all of them
    labels[:, :2, :6] = OUTLIER
    config = LossConfig(samples=12, near_share=near_share, hard_share=share)
    drawn, rows = seen_by_the_contrast(monkeypatch, config, labels)
    outlier, near = labels.flatten() == OUTLIER, near_outliers(labels).flatten() & bool(near_share)
    far = (~outlier & ~near).nonzero().flatten()
    towards = rows[outlier].mean(dim=0) - rows[far].mean(dim=0)
    others = round(12 * (1 - near_share))
    hardest = far[(rows[far] @ towards).topk(round(share * others)).indices]
    assert len(drawn) == len(set(drawn.tolist())) == 12
    assert int((~near)[drawn].sum()) == others
    assert set(hardest.tolist()) <= set(drawn.tolist())
