"""The paper's configurations: they parse, and hold its settings (design: method.md), without any weights or data."""

from dataclasses import replace
from pathlib import Path

import pytest

from flowclas_ros.model.presets import PRESETS
from flowclas_ros.training.config_file import load_config
from flowclas_ros.training.pseudo_outliers import PasteConfig

CONFIGS = Path(__file__).parents[1] / "config" / "training"


@pytest.fixture
def config(request, monkeypatch):
    for name in ("CITYSCAPES", "COCO", "ALLO"):
        monkeypatch.setenv(name, f"/data/{name.lower()}")
    return load_config(CONFIGS / request.param)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            "road_dinov2.yaml",
            {"train": ("cityscapes/train:/data/cityscapes",), "tau": 0.13, "lr": 1e-6, "epochs": 600, "batch": 32,
             "crop": (512, 1024), "paste": {}},
        ),
        (
            "space_dinov2.yaml",
            {"train": ("allo/train:/data/allo",), "tau": 0.10, "lr": 1e-5, "epochs": 50, "batch": 256,
             "crop": (540, 960), "paste": {"flip": 0.5, "greyscale": 0.5}},
        ),
    ],
    indirect=["config"],
    ids=["road", "space"],
)  # fmt: skip
def test_the_configuration_holds_the_papers_settings(config, expected):
    paper = PRESETS["flowclas_wacv"]
    assert config.model.flow == paper.flow
    assert config.model.backbone.name == paper.backbone.name == "vit_large_patch14_dinov2.lvd142m"
    assert (config.model.projection_dim, config.model.margin_weight) == (128, 0)
    assert tuple(config.data.train) == expected["train"]
    assert config.data.outliers.coco_json == "/data/coco/annotations/instances_train2017.json"
    assert config.data.outliers.min_side == 480
    assert tuple(config.data.crop) == expected["crop"]
    published = PasteConfig(flip=0, max_rotation=0, feather=0, softness=0, recompress=None, exposure=0, jitter=0)
    assert config.paste == replace(published, **expected["paste"]), "objects as they are"
    trainer = config.trainer
    assert config.data.batch_size * trainer.devices * trainer.nodes == expected["batch"]
    assert (trainer.max_epochs, trainer.precision) == (expected["epochs"], "bf16")
    assert (config.optimiser.lr, config.optimiser.weight_decay) == (expected["lr"], 1e-5)
    assert (config.loss.temperature, config.loss.alpha, config.loss.contrastive) == (expected["tau"], 2.8, "infonce")
