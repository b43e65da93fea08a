"""A grid of fits: each row is a fit with its options, kept when a call is stopped, in one table."""

import json
import sys
from pathlib import Path

import cv2
import pytest
from fit_support import in_this_process, write_tiny_kit

pytest.importorskip("matplotlib", reason="the table's picture needs matplotlib (extra training)")
pytestmark = pytest.mark.timeout(600)  # seconds; ends a hung fit, says nothing of its speed

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import fit_grid  # noqa: E402
import fit_rows  # noqa: E402

from flowclas_ros.training.config_file import load_config  # noqa: E402

GRID = """
config: ROOT/fit.yaml
base: contrastive
tests: {pasted: ROOT}
common: {trainer.max_epochs: 2}
rows:
  NLL only: {loss.contrastive: none}
  contrastive: {"data.x_out_size": [32, 64], trainer.max_minutes: 5}
  broken: {loss.alpha: -1}
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    write_tiny_kit(tmp_path)
    (tmp_path / "grid.yaml").write_text(GRID.replace("ROOT", str(tmp_path)))
    monkeypatch.setenv("FLOWCLAS_KIT", str(tmp_path))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    return tmp_path


@pytest.fixture
def calls(monkeypatch):
    """The commands that the grid runs, in this process."""
    kept = []

    def run(arguments, kit):
        kept.append(arguments)
        in_this_process(arguments, kit)

    monkeypatch.setattr(fit_rows, "run_flowclas", run)
    return kept


def test_a_grid_gives_one_table_goes_on_where_it_stopped_and_names_what_failed(root, calls):
    grid = str(root / "grid.yaml")
    fit_grid.main([grid, "--quick", "--seeds", "0", "--rows", "contrastive", "--keep", str(root / "fits")])
    assert {p.name for p in (root / "fits/contrastive/0").iterdir()} >= {"model.safetensors", "run.json"}
    assert [call[0] for call in calls] == ["fit", "evaluate"]
    with pytest.raises(SystemExit, match="failed, and tried again next time: broken, seed 0"):
        fit_grid.main([grid, "--quick", "--seeds", "0", "1", "--rows", "contrastive", "broken"])
    fits = [call for call in calls if call[0] == "fit"]
    assert [fit[fit.index("--seed") + 1] for fit in fits] == ["0", "0", "1", "1"]  # seed 0's row was kept
    result = json.loads((root / "out" / "grid_quick.json").read_text())
    assert result["runs"][0] == {"row": "contrastive", **json.loads((root / "fits/contrastive/0/run.json").read_text())}
    figure = result["table"]["contrastive"]["pasted/auprc"]
    values = [run["pasted"]["auprc"] for run in result["runs"]]
    assert result["table"]["contrastive"]["seeds"] == 2 and result["provenance"]["seed"] == [0, 1]
    assert figure["mean"] == pytest.approx(sum(values) / 2, abs=1e-4)
    assert figure["ci95"] == pytest.approx(12.706 * abs(values[0] - values[1]) / 2, abs=1e-3)
    assert "| contrastive | 2 |" in (root / "out" / "grid_quick.md").read_text()
    assert cv2.imread(str(root / "out" / "grid_quick.png")).shape[1] > 300


def test_a_row_whose_options_changed_is_run_again_and_replaced(root, calls):
    grid = root / "grid.yaml"
    command = [str(grid), "--quick", "--seeds", "0", "--rows", "contrastive", "NLL only"]
    fit_grid.main(command)
    grid.write_text(grid.read_text().replace("trainer.max_minutes: 5", "trainer.max_minutes: 5, loss.alpha: 2"))
    fit_grid.main(command)
    fits = [call for call in calls if call[0] == "fit"]
    assert ["--loss.alpha" in fit for fit in fits] == [False, False, True]
    runs = json.loads((root / "out" / "grid_quick.json").read_text())["runs"]
    assert sorted((run["row"], "--loss.alpha" in run["switches"]) for run in runs) == [
        ("NLL only", False),
        ("contrastive", True),
    ]


def test_a_kept_fit_is_measured_again_and_not_fitted(root, calls):
    command = [
        str(root / "grid.yaml"),
        "--quick",
        "--seeds",
        "0",
        "--rows",
        "contrastive",
        "--keep",
        str(root / "fits"),
    ]
    stopped = root / "fits/contrastive/0/last.ckpt"
    stopped.parent.mkdir(parents=True)
    stopped.write_bytes(b"half a fit")
    fit_grid.main(command)
    result = root / "out" / "grid_quick.json"
    first = json.loads(result.read_text())["runs"][0]
    result.unlink()
    text = (root / "grid.yaml").read_text()
    (root / "grid.yaml").write_text(
        text.replace("{trainer.max_epochs: 2}", "{trainer.max_epochs: 2, model.guided_radius: 4}")
    )
    fit_grid.main(command)
    second = json.loads(result.read_text())["runs"][0]
    assert ["--resume" in call for call in calls if call[0] == "fit"] == [False, True]
    assert second["fit_minutes"] == first["fit_minutes"] and second["step"] == first["step"]
    assert second["pasted"] != first["pasted"] and second["val"] != first["val"]


def test_a_rows_options_go_over_the_common_ones_and_those_of_quick_over_both(root):
    grid = fit_grid.Grid.read(root / "grid.yaml")
    assert grid.switches("NLL only", quick=False) == ["--trainer.max_epochs", "2", "--loss.contrastive", "none"]
    quick = grid.switches("contrastive", quick=True)
    assert quick[:6] == ["--trainer.max_epochs", "2", "--data.x_out_size", "[32, 64]", "--trainer.max_minutes", "0.05"]


def test_differences_from_the_base_are_paired_by_seed(root):
    grid = fit_grid.Grid.read(root / "grid.yaml")
    runs = [
        {"row": row, "seed": seed, "fit_minutes": 1.0, "pasted": {"auprc": value}}
        for row, values in {"contrastive": (0.5, 0.7, 0.9), "NLL only": (0.4, 0.6, 0.8)}.items()
        for seed, value in enumerate(values)
    ]
    mean, half = fit_grid.difference(runs, grid, "NLL only", "pasted", "auprc")
    assert mean == pytest.approx(-0.1)
    assert half == pytest.approx(0.0, abs=1e-9)  # every seed lost the same, however far the seeds lie apart
    assert fit_grid.difference(runs[:3], grid, "NLL only", "pasted", "auprc") is None


def test_a_grid_whose_base_is_no_row_is_refused(root):
    (root / "bad.yaml").write_text("{config: a, base: b, tests: {}, rows: {c: {}}}")
    with pytest.raises(SystemExit, match="base 'b' is not one of its rows"):
        fit_grid.Grid.read(root / "bad.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "grids").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_row_of_the_shipped_grids_is_a_valid_configuration(path, monkeypatch):
    monkeypatch.setenv("FLOWCLAS_KIT", "/kit")
    grid = fit_grid.Grid.read(path)
    for row in grid.rows:
        config = load_config(ROOT / grid.config, grid.switches(row, quick=False))
        assert config.data.train, row
    load_config(ROOT / grid.config, grid.switches(row, quick=True))  # adds the same to every row


def test_a_confidence_interval_is_students():
    assert fit_rows.half_width([0.5]) is None
    assert fit_rows.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5, abs=1e-3)
