"""Images of unequal size in one batch: each has what it has alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from flowclas_ros.model import BackboneConfig, FlowCLAS, FlowCLASConfig, FlowConfig
from flowclas_ros.training.batches import collate
from flowclas_ros.training.config import FitConfig
from flowclas_ros.training.data import FitData
from flowclas_ros.training.data_config import DataConfig, OutlierConfig
from flowclas_ros.training.module import FitModule, batch_features
from flowclas_ros.training.outlier_split import NoOutliers


def tiny(**options):
    torch.manual_seed(0)
    backbone = BackboneConfig("mobilenetv2_050", "random", layers=(2,))
    model = FlowCLAS(FlowCLASConfig(backbone, FlowConfig(1), 8, margin_weight=1.0, **options)).eval()
    model.flow.initialise([(model.features(torch.rand(4, 3, 128, 128)), None)])
    model.fusion.discriminant.normal_()
    return model


def blobs(height, width):
    coarse = np.random.default_rng(height).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    image = torch.from_numpy(cv2.resize(coarse, (width, height))).permute(2, 0, 1)
    label = torch.zeros(height, width, dtype=torch.uint8)
    label[: height // 4, : width // 2] = 1
    return {"image": image, "label": label}


UNEQUAL = [(128, 128), (512, 512), (90, 200), (128, 128)]


@pytest.mark.parametrize("short_side", [128, None])
def test_an_image_has_the_features_and_labels_that_it_has_alone_whatever_the_others_sizes(short_side):
    model, items = tiny(short_side=short_side), [blobs(*size) for size in UNEQUAL]
    features, labels = batch_features(model, collate(items))
    for i, item in enumerate(items):
        own, own_labels = batch_features(model, collate([item]))
        rows, cols = own.shape[-2:]
        torch.testing.assert_close(features[i, :, :rows, :cols], own[0], rtol=1e-4, atol=1e-4)
        assert torch.equal(labels[i, :rows, :cols], own_labels[0])
        assert (labels[i, rows:] == 255).all() and (labels[i, :, cols:] == 255).all()
    assert features.shape[0] == labels.shape[0] == 4


@pytest.mark.parametrize("short_side", [128, None])
def test_validation_scores_are_those_of_each_image_alone(short_side):
    model = tiny(short_side=short_side, mirrored=True, guided_radius=4.0, centred=True)
    data = DataConfig(train=("x",), outliers=OutlierConfig(cutouts="y"))
    module = FitModule(model, FitConfig(model=model.config, data=data), FitData([], [], NoOutliers(), NoOutliers()))
    items = [blobs(*size) for size in UNEQUAL]
    with torch.no_grad():
        scores = module.validation_step(collate(items), 0)["scores"]
        for score, item in zip(scores, items, strict=True):
            alone = model(item["image"][None] / 255)[0]
            torch.testing.assert_close(score, alone, rtol=1e-3, atol=1e-3)
    inliers = sum(int((item["label"] == 0).sum()) for item in items)
    assert module.inlier_score[1] == inliers
