"""benchmarks/corruptions.py: a checkpoint on the scenes that its fit chose it on, clear and corrupted."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from fit_support import in_this_process, write_tiny_kit

pytest.importorskip("matplotlib", reason="the picture needs matplotlib (extra training)")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import corruptions  # noqa: E402

from flowclas_ros.detection.scorer import Scorer  # noqa: E402
from flowclas_ros.training.corruptions import CORRUPTIONS  # noqa: E402


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    write_tiny_kit(tmp_path)
    monkeypatch.setenv("FLOWCLAS_KIT", str(tmp_path))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setattr(corruptions, "run_flowclas", in_this_process)
    fit = ["fit", "--config", str(tmp_path / "fit.yaml"), "--method", "gaussian", "--seed", "3"]
    in_this_process([*fit, "--output", str(tmp_path / "run")], tmp_path)
    return tmp_path / "run" / "model.safetensors"


def test_the_clear_figure_is_the_one_that_the_fit_was_chosen_by(checkpoint, tmp_path):
    corruptions.main(["--checkpoint", str(checkpoint), str(checkpoint)])
    written = json.loads((tmp_path / "out" / "corruptions_val.json").read_text())
    result, again = written["checkpoints"]
    assert result == again
    assert written["auprc_lost_mean"] == pytest.approx(result["adverse"]["auprc_lost"], abs=1e-4)
    chosen = json.loads((checkpoint.parent / "metrics.json").read_text())["val/auprc"]
    assert result["clear"]["auprc"] == pytest.approx(chosen, abs=1e-3)
    assert set(result["by_corruption"]) == set(CORRUPTIONS)
    rates = [row["false_alarm_rate"] for row in result["by_corruption"].values()]
    assert result["adverse"]["false_alarm_rate"] == pytest.approx(np.mean(rates), abs=1e-4)
    assert 0 <= result["adverse"]["recall"] <= 1 and "recall" in result["clear"]
    assert result["adverse"]["auprc_lost"] == pytest.approx(1 - result["adverse"]["auprc"] / chosen, abs=2e-3)
    assert (result["severity"], result["images"], result["seed"]) == (3, 4, 3)
    assert cv2.imread(str(tmp_path / "out" / "corruptions_val.png")) is not None


def test_the_validation_scenes_hold_the_seeds_own_held_out_objects(checkpoint, tmp_path):
    settings = Scorer(checkpoint, device="cpu").header["provenance"]["config"]
    masks = []
    for seed in (3, 3, 4):
        folder = tmp_path / f"scenes{len(masks)}"
        folder.mkdir()
        corruptions.write_validation_scenes({**settings, "seed": seed}, folder)
        masks.append([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((folder / "masks").iterdir())])
    assert all((mask == 1).any() for mask in masks[0])
    assert np.array_equal(masks[0], masks[1]) and not np.array_equal(masks[0], masks[2])
