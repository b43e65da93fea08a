"""`flowclas evaluate --benchmark`: what each benchmark reports, and scores as the SMIYC toolkit reads them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from flowclas_ros import cli
from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.images import read_image
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.model.backbone import BackboneConfig
from flowclas_ros.model.checkpoint import save_checkpoint
from flowclas_ros.model.config import FlowCLASConfig
from flowclas_ros.model.flow import FlowConfig
from flowclas_ros.model.flowclas import FlowCLAS
from flowclas_ros.training import evaluate_pictures

H, W = 40, 56
RNG = np.random.default_rng(11)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    backbone = BackboneConfig(name="mobilenetv2_100", weights="random", layers=(1,), stride=8)
    model = FlowCLAS(FlowCLASConfig(backbone, FlowConfig(steps=1, whitening=False), projection_dim=0))
    path = tmp_path_factory.mktemp("checkpoint") / "ours.safetensors"
    images = torch.rand(2, 3, H, W, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        calibration = Calibration.fit(score.numpy() for score in model.eval()(images)).to_dict()
    save_checkpoint(path, model, calibration=calibration, provenance={}, embed_backbone=True)
    return path


def write(path: Path, mask: bool = False, anomaly: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if mask:
        values = np.zeros((H, W), np.uint8)
        values[10:20, 10:30], values[-5:] = anomaly, 255
    else:
        values = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def evaluate(root: Path, checkpoint: Path, name: str, output: Path, *more: object) -> dict:
    words = ["evaluate", "--checkpoint", checkpoint, "--device", "cpu", "--benchmark", name, "--root", root]
    assert cli.main([str(word) for word in [*words, "--json", output / "f.json", *more]]) == 0
    return json.loads((output / "f.json").read_text())


def test_a_manifest_is_reported_by_condition_and_pooled(tmp_path, checkpoint, capsys):
    lines = ["image,mask,condition"]
    for index, condition in enumerate(("clear", "adverse", "clear")):
        write(tmp_path / f"{index}.png")
        write(tmp_path / f"{index}_mask.png", mask=True)
        lines.append(f"{index}.png,{index}_mask.png,{condition}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    result = evaluate(tmp_path / "list.csv", checkpoint, "manifest", tmp_path, "--false_alarm_rate", 0.3)
    scorer = Scorer(checkpoint, device="cpu")
    scores = [scorer.score_batch([read_image(tmp_path / f"{i}.png")])[0][0] for i in range(3)]
    label = np.asarray(Image.open(tmp_path / "0_mask.png"))
    inside = label != 255

    def reference(chosen):
        return average_precision_score(
            np.concatenate([label[inside]] * len(chosen)), np.concatenate([scores[i][inside] for i in chosen])
        )

    assert result["auprc"] == pytest.approx(reference([0, 1, 2]), abs=1e-6)
    assert result["conditions"]["clear"]["auprc"] == pytest.approx(reference([0, 2]), abs=1e-6)
    assert result["conditions"]["adverse"]["auprc"] == pytest.approx(reference([1]), abs=1e-6)
    assert [row["condition"] for row in result["per_image"]] == ["clear", "adverse", "clear"]
    threshold = Calibration.from_dict(scorer.header["calibration"]).threshold(0.3)
    for figures, chosen in ((result, [0, 1, 2]), (result["conditions"]["adverse"], [1])):
        above = np.concatenate([scores[i][label != 255] for i in chosen]) > threshold
        anomaly = np.concatenate([label[label != 255]] * len(chosen)) == 1
        assert (figures["recall"], figures["false_alarm_rate"]) == (above[anomaly].mean(), above[~anomaly].mean())
        assert 0 < figures["recall"] < 1
    printed = capsys.readouterr().out
    assert "adverse: auprc" in printed and "threshold for 30 % false alarms: recall" in printed


def test_a_condition_without_an_anomaly_costs_no_figure_of_the_rest(tmp_path, checkpoint, capsys):
    lines = ["image,mask,condition"]
    for index, (condition, value) in enumerate((("fog", 1), ("clear", 0))):
        write(tmp_path / f"{index}.png")
        write(tmp_path / f"{index}_mask.png", mask=True, anomaly=value)
        lines.append(f"{index}.png,{index}_mask.png,{condition}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    result = evaluate(tmp_path / "list.csv", checkpoint, "manifest", tmp_path, "--false_alarm_rate", 0.3)
    clear, fog = result["conditions"]["clear"], result["conditions"]["fog"]
    assert "labelled 1 (anomaly)" in clear["note"] and clear["recall"] is None
    normal = H * W - 5 * W  # the ignored rows
    both = clear["false_alarm_rate"] * normal + fog["false_alarm_rate"] * (normal - 200)
    assert both / (2 * normal - 200) == pytest.approx(result["false_alarm_rate"]) and 0 < clear["false_alarm_rate"] < 1
    assert "clear: no pixel of the 1 mask(s) is labelled 1" in capsys.readouterr().out


def test_smiyc_scores_are_exported_as_the_toolkit_reads_them_for_hidden_labels_too(tmp_path, checkpoint, capsys):
    h5py = pytest.importorskip("h5py", reason="needs h5py (extra training)")
    top = tmp_path / "dataset_AnomalyTrack"
    images = [write(top / "images" / f"{name}.jpg") for name in ("validation0000", "validation0001", "zebra0000")]
    for image in images[:2]:
        write(top / "labels_masks" / f"{image.stem}_labels_semantic.png", mask=True)
    result = evaluate(tmp_path, checkpoint, "smiyc_anomaly", tmp_path, "--export", tmp_path / "out")
    assert result["images"] == 2 and len(result["per_image"]) == 2  # the third has no public label
    assert result["components"]["min_predicted"] == 500 and "aupro" in result and "mean_per_image" not in result
    assert "note: the published smiyc_anomaly has 10 images" in capsys.readouterr().out
    folder = tmp_path / "out" / "anomaly_p" / "ours"
    assert sorted(path.stem for path in (folder / "AnomalyTrack-all").iterdir()) == [image.stem for image in images]
    assert len(list((folder / "AnomalyTrack-validation").iterdir())) == 2
    with h5py.File(folder / "AnomalyTrack-all" / "zebra0000.hdf5") as file:
        stored = file["value"][:]
    expected = Scorer(checkpoint, device="cpu").score_batch([read_image(images[2])])[0][0]
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, expected)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_full_disk_in_an_export_is_one_line_and_leaves_nothing_behind(tmp_path):
    pytest.importorskip("h5py", reason="needs h5py (extra training)")
    # In a process of its own: HDF5 used to take the whole process down.
    script = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.benchmarks import Pair
from flowclas_ros.training.data_sets import BENCHMARKS
from flowclas_ros.training.smiyc_export import SmiycExport

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file that may not grow stands for a disk that is full
export = SmiycExport(Path(sys.argv[1]), BENCHMARKS["smiyc_anomaly"], "smiyc_anomaly", method="ours")
score = np.random.default_rng(0).normal(size=(200, 300)).astype(np.float32)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    export.add(Pair("a", Path("a.jpg"), None), score)
except FlowclasError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout and "a.hdf5" in done.stdout
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_small_rate_is_said_and_not_rounded_to_none(tmp_path, checkpoint, capsys):
    write(tmp_path / "images/0.png")
    write(tmp_path / "masks/0.png", mask=True)
    evaluate(tmp_path, checkpoint, "folder", tmp_path, "--false-alarm-rate", 1e-5)
    assert "at the threshold for 0.001 % false alarms: recall" in capsys.readouterr().out


def test_mvtec_reports_regions_and_whole_images(tmp_path, checkpoint):
    write(tmp_path / "test/good/000.png")
    write(tmp_path / "test/hole/000.png")
    write(tmp_path / "ground_truth/hole/000_mask.png", mask=True, anomaly=255)
    result = evaluate(tmp_path, checkpoint, "mvtec", tmp_path, "--streaming")
    assert 0 <= result["aupro"] <= 1 and result["image_auroc"] in (0.0, 0.5, 1.0)
    assert result["images"] == 2 and "components" not in result


def test_an_evaluation_that_is_killed_leaves_no_score_maps_behind(tmp_path, checkpoint):
    write(tmp_path / "images/0.png")
    write(tmp_path / "masks/0.png", mask=True)
    # Killed once a frame's maps are kept.
    script = """
import os, signal, sys
from flowclas_ros import cli
from flowclas_ros.training.figures import Figures

def kill(self):
    os.kill(os.getpid(), signal.SIGKILL)

Figures.compute = kill
cli.main(sys.argv[1:])
"""
    words = ["evaluate", "--checkpoint", checkpoint, "--device", "cpu", "--benchmark", "folder", "--root", tmp_path]
    words += ["--json", tmp_path / "out" / "f.json"]
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("count", "best", "worst"), [(1, 1, 0), (3, 2, 1), (6, 3, 3), (20, 4, 4)])
def test_the_sheet_has_its_best_and_worst_frames_each_once(monkeypatch, count, best, worst):
    labels = []
    monkeypatch.setattr(
        evaluate_pictures, "contact_sheet", lambda rows, **_: labels.extend(t[0] for r in rows for t in r)
    )
    sheet = evaluate_pictures.Sheet(None)
    for index in np.random.default_rng(0).permutation(count):
        row = {"name": f"{index:02d}", "auprc": index / count}
        sheet.add(row, np.zeros((H, W, 3), np.uint8), np.zeros((H, W), np.uint8), np.zeros((H, W), np.float32))
    sheet.draw({"auprc": 0.5, "fpr95": 0.5, "auroc": 0.5, "images": count})
    shown = [label for label in labels if ": " in label]
    assert sorted(label for label in shown if "best" in label) == [f"best: {count - best + i:02d}" for i in range(best)]
    assert sorted(label for label in shown if "worst" in label) == [f"worst: {i:02d}" for i in range(worst)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--benchmark", "road_anomaly"], "either --images and --masks, or --benchmark and --root"),
        (["--images", "x"], "either --images and --masks, or --benchmark and --root"),
        (["--benchmark", "road_anomaly", "--root", "x", "--images", "x"], "either --images and --masks"),
    ],
)
def test_half_a_choice_of_data_is_one_line(tmp_path, checkpoint, capsys, options, words):
    code = cli.main(["evaluate", "--checkpoint", str(checkpoint), "--json", str(tmp_path / "f.json"), *options])
    assert code == 2 and words in capsys.readouterr().err


def test_a_folder_as_the_json_is_refused_before_anything_is_scored(tmp_path, checkpoint, capsys, monkeypatch):
    write(tmp_path / "images/0.png")
    write(tmp_path / "masks/0.png", mask=True)
    monkeypatch.setattr(Scorer, "score_batch", lambda *_: pytest.fail("scored"))
    words = ["evaluate", "--checkpoint", checkpoint, "--benchmark", "folder", "--root", tmp_path, "--json", tmp_path]
    assert cli.main([str(word) for word in words]) == 2
    assert f"--json {tmp_path} is a folder: name the file" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "missing"), [(0, "1 (anomaly)"), (255, "1 (anomaly)"), (1, "0 (normal)")])
def test_masks_of_one_class_are_refused_before_anything_is_scored(
    tmp_path, checkpoint, capsys, monkeypatch, value, missing
):
    """255 for the anomaly is what a black-and-white mask has, and means ignored."""
    for place in range(2):
        write(tmp_path / f"images/{place}.png")
        mask = write(tmp_path / f"masks/{place}.png", mask=True)
        Image.fromarray(np.full((H, W), value, np.uint8)).save(mask)
    monkeypatch.setattr(Scorer, "score_batch", lambda *_: pytest.fail("scored"))
    words = ["evaluate", "--checkpoint", checkpoint, "--benchmark", "folder", "--root", tmp_path]
    assert cli.main([str(word) for word in [*words, "--json", tmp_path / "f.json"]]) == 2
    assert f"no pixel of the 2 mask(s) is labelled {missing}" in capsys.readouterr().err


def test_an_export_of_a_benchmark_that_the_toolkit_does_not_know_is_refused(tmp_path, checkpoint, capsys):
    write(tmp_path / "images/0.png")
    write(tmp_path / "masks/0.png", mask=True)
    words = ["evaluate", "--checkpoint", checkpoint, "--benchmark", "folder", "--root", tmp_path]
    words += ["--json", tmp_path / "f.json", "--export", tmp_path / "out"]
    assert cli.main([str(word) for word in words]) == 2
    assert "--export is for smiyc_anomaly" in capsys.readouterr().err
