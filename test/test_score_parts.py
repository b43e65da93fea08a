"""What each part of a score brings: a part left out is left out, and the rest stays as it was."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fit_running import fit
from fit_support import write_noise

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import score_parts

from flowclas_ros.detection.images import write_png
from flowclas_ros.model.checkpoint import load_checkpoint

PARTS = ("model.margin_weight=1", "model.centred=true", "model.guided_radius=2", "model.mirrored=true")


@pytest.fixture(scope="module")
def checkpoint(fit_root):
    switches = [part for option in PARTS for part in (f"--{option.split('=')[0]}", option.split("=")[1])]
    fit(fit_root, "all_parts", *switches, "--trainer.max_epochs", "1")
    return fit_root / "all_parts" / "model.safetensors"


def test_every_part_changes_the_score_and_the_likelihood_alone_is_the_published_one(checkpoint):
    models = score_parts.variants(load_checkpoint(checkpoint).model.eval())
    assert len(models) == 9
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        scores = {name: model(image) for name, model in models.items()}
        model = load_checkpoint(checkpoint).model.eval()
        nll = model.to_image(model.nll(model.features(image)).unsqueeze(1), 64, 96).squeeze(1)
    whole = scores.pop(score_parts.WHOLE)
    assert all(not torch.allclose(score, whole, rtol=1e-3) for score in scores.values())
    torch.testing.assert_close(scores["the likelihood alone"], nll)


def test_a_part_that_a_model_lacks_is_no_row(checkpoint):
    model = load_checkpoint(checkpoint).model.eval()
    score_parts.likelihood_alone(model)
    assert list(score_parts.variants(model)) == [score_parts.WHOLE]
    model.config = replace(model.config, mirrored=True)
    assert list(score_parts.variants(model)) == [score_parts.WHOLE, "without mirrored frames"]


def test_figures_of_the_fits_own_validation_scenes_and_their_times(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path))
    score_parts.main(["road", "--checkpoint", str(checkpoint)])
    rows = json.loads((tmp_path / "score_parts_road.json").read_text())["rows"]
    chosen = load_checkpoint(checkpoint).header["provenance"]["metrics"]
    assert rows[score_parts.WHOLE]["auprc"] == pytest.approx(chosen["val/auprc"], abs=2e-3)
    assert all(row["ms_per_frame"] > 0 for row in rows.values())
    assert len((tmp_path / "score_parts_road.md").read_text().splitlines()) == 2 + len(rows)


def test_figures_of_scenes_of_ones_own(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path))
    rng = np.random.default_rng(0)
    (tmp_path / "scenes" / "masks").mkdir(parents=True)
    write_noise(tmp_path / "scenes" / "images", 1, rng)
    mask = np.zeros((64, 96), np.uint8)
    mask[20:40, 30:60] = 1
    write_png(tmp_path / "scenes" / "masks" / "000.png", mask)
    score_parts.main(["mine", "--checkpoint", str(checkpoint), "--scenes", str(tmp_path / "scenes")])
    result = json.loads((tmp_path / "score_parts_mine.json").read_text())
    assert (result["frames"], len(result["rows"])) == (1, 9)
    assert 0 < result["rows"][score_parts.WHOLE]["auprc"] < 1
