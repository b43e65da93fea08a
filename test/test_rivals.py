"""The rivals' table: each method scores as it says, and a row that cannot be had says why and is tried again."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import rival_models  # noqa: E402
import rivals  # noqa: E402

from flowclas_ros.detection.images import write_png  # noqa: E402
from flowclas_ros.model import BackboneConfig, FlowCLASConfig, FlowConfig  # noqa: E402
from flowclas_ros.training.config import FitConfig  # noqa: E402
from flowclas_ros.training.data_config import DataConfig, OutlierConfig  # noqa: E402


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        write_png(tmp_path / f"{i}.png", rng.integers(0, 255, (96, 128, 3), dtype=np.uint8))
    backbone = BackboneConfig("mobilenetv2_050", "random", layers=(2,), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return FitConfig(
        model=FlowCLASConfig(backbone, FlowConfig(steps=1), projection_dim=4, short_side=96),
        data=DataConfig(train=(str(tmp_path),), outliers=OutlierConfig(cutouts=str(tmp_path))),
    )


def test_the_neighbour_memory_scores_the_mean_distance_to_the_nearest_normal_cells(config, tmp_path):
    torch.manual_seed(0)
    frames = sorted(tmp_path.glob("*.png"))
    rival = rival_models.Neighbours(config, frames)
    rival.fit(0)
    memory = rival.model.remembered.numpy()
    assert memory.shape == (6 * 12 * 16, rival.model.backbone.channels)  # all cells: fewer than the memory holds
    image = np.random.default_rng(1).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    features = rival.model.features(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    with torch.no_grad():
        cell = rival.model.latent(features)[0][0, :, 3, 5].numpy()
        score = rival.model.grid_score(features)[0, 3, 5]
    nearest = np.sort(np.linalg.norm(memory - cell, axis=1))[: rival.model.neighbours]
    assert float(score) == pytest.approx(nearest.mean(), rel=1e-3)
    assert rival.score(image).shape == (96, 128)
    noise = rival.score(image).mean()
    seen = rival.score(np.ascontiguousarray(rival_models.read_image(frames[0]))).mean()
    assert seen < 0.95 * noise  # a frame of the memory has each of its cells in it, at distance 0


def test_a_rival_that_cannot_be_had_is_a_row_with_the_reason_and_is_tried_again(kit, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUT", str(tmp_path))
    tried = []

    class Unreachable(rival_models.Neighbours):
        def fit(self, seed):
            tried.append(seed)
            raise rivals.Missing("its weights are out of reach")

    monkeypatch.setitem(rivals.RIVALS, "k nearest neighbours", Unreachable)
    for _ in range(2):
        rivals.main(["road", "--rows", "k nearest neighbours"])
    row = json.loads((tmp_path / "rivals_road.json").read_text())["rows"]["k nearest neighbours"]
    assert row == {"missing": "its weights are out of reach"}
    assert tried == [0, 0]
    assert "missing: k nearest neighbours: its weights are out of reach" in capsys.readouterr().out


def test_a_kept_fit_is_measured_in_place_of_a_fit_if_it_is_of_the_row_and_seed(kit, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(rivals, "run_flowclas", lambda *_: pytest.fail("it was fitted again"))
    shutil.copy(checkpoint, tmp_path / "model.safetensors")
    (tmp_path / "run.json").write_text(json.dumps({"switches": [], "seed": 1, "fit_minutes": 21.5}))
    command = ["road", "--quick", "--fitted", str(tmp_path)]
    rivals.main([*command, "--rows", "ours", "--seed", "1"])
    row = json.loads((tmp_path / "rivals_road_seed1_quick.json").read_text())["rows"]["ours"]
    assert row["fit_minutes"] == 21.5 and 0 < row["camvid_pasted_test"]["auprc"] < 1
    with pytest.raises(SystemExit, match="is of seed 1, options"):
        rivals.main([*command, "--rows", "Gaussian"])
    with pytest.raises(SystemExit):
        rivals.main([*command, "--rows", "k nearest neighbours"])


def test_retiming_changes_the_milliseconds_of_measured_rows_alone(kit, tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path))
    budgets = []

    class Brightness(rival_models.Rival):
        model = torch.nn.Linear(1, 1)

        def fit(self, seed):
            budgets.append(self.minutes)

        def score(self, image):
            return image.mean(axis=2, dtype=np.float32)

    name, path = "k nearest neighbours", tmp_path / "rivals_road.json"
    monkeypatch.setitem(rivals.RIVALS, name, Brightness)
    rivals.main(["road", "--rows", name])
    measured = json.loads(path.read_text())["rows"][name]
    assert 0 < measured["camvid_pasted_test"]["auprc"] < 0.5 and measured["checkpoint_mb"] == 0.0
    path.write_text(path.read_text().replace(f'"ms_per_frame": {measured["ms_per_frame"]}', '"ms_per_frame": 9e9'))
    rivals.main(["road", "--retime"])
    again = json.loads(path.read_text())["rows"]
    assert list(again) == [name] and again[name]["ms_per_frame"] < 1e6
    timing = ("ms_per_frame", "load_average")
    assert all(again[name][key] == value for key, value in measured.items() if key not in timing)
    assert budgets == [rivals.MINUTES, 0.0]
    assert path.with_suffix(".png").is_file()
    assert "| k nearest neighbours |" in path.with_suffix(".md").read_text()


@pytest.mark.slow
def test_efficientads_teacher_learns_the_backbones_map_and_then_stands_still(config, tmp_path, monkeypatch):
    pytest.importorskip("anomalib", reason="needs anomalib (extra rivals)")
    (tmp_path / "cut").mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        write_png(tmp_path / "cut" / f"{i}.png", rng.integers(1, 255, (40, 40, 4), dtype=np.uint8))
    data = replace(config.data, val=(str(tmp_path),), outliers=OutlierConfig(cutouts=str(tmp_path / "cut")))
    backbone = replace(config.model.backbone, layers=(2, 3, 4))
    config = replace(config, data=data, model=replace(config.model, backbone=backbone))
    frames, taught = sorted(tmp_path.glob("*.png")), []
    rival = rival_models.EfficientAdRival(config, frames, quick=True)
    distil = rival._distil_teacher

    def and_keep(seed):
        distil(seed)
        taught.append({key: value.clone() for key, value in rival.model.teacher.state_dict().items()})

    monkeypatch.setattr(rival, "_distil_teacher", and_keep)
    rival.fit(0)
    assert all(torch.equal(value, taught[0][key]) for key, value in rival.model.teacher.state_dict().items())
    assert 0 < rival.settings["teacher_variance_unexplained"] < 2  # 1: the mean of every channel
    assert rival.settings["teacher_steps"] == 2
    assert "not the published one" in rival.settings["teacher"]
    assert float(rival.model.mean_std["std"].min()) > 0 and float(rival.model.quantiles["qb_st"]) > 0
    images = torch.rand(1, 3, *rival.size)
    cells = [side // 4 - 8 for side in rival.size]
    assert list(rival.model.teacher(images).shape[-2:]) == cells  # the map that the border was cut for


@pytest.mark.slow
@pytest.mark.timeout(600)  # seconds; on one busy core
@pytest.mark.parametrize("name", [name for name in rivals.RIVALS if "anomalib" in name])
def test_anomalibs_networks_fit_on_the_kits_frames_and_score_one(name, kit, monkeypatch):
    pytest.importorskip("anomalib", reason="needs anomalib (extra rivals)")
    monkeypatch.setenv("FLOWCLAS_KIT", str(kit))
    config = rivals.load_config(ROOT / "config" / "training" / "kit_road.yaml")
    frames = sorted((kit / "camvid/images/train").glob("*"))
    rival = rival_models.RIVALS[name](config, frames, quick=True)
    rival.fit(0)
    score = rival.score(rival_models.read_image(frames[5]))
    assert score.shape == (360, 480) and np.isfinite(score).all() and score.std() > 0
