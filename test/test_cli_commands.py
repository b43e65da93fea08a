"""`flowclas evaluate` and `predict`: results, exit codes, one line per failure, nothing half-written."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from flowclas_ros import cli
from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.images import read_image
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.training import evaluate as training_evaluate

H, W = 48, 64
RNG = np.random.default_rng(3)
ROOT = Path(__file__).parents[1]


@pytest.fixture
def data(tmp_path) -> Path:
    """images/ and masks/ with four frames, one of them of another size."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index, (height, width) in enumerate([(H, W)] * 3 + [(40, 56)]):
        Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
            tmp_path / "images" / f"f{index}.png"
        )
        mask = RNG.choice(np.uint8([0, 1, 255]), (height, width), p=[0.8, 0.1, 0.1])
        Image.fromarray(mask).save(tmp_path / "masks" / f"f{index}.png")
    return tmp_path


def run(capsys, *argv: object) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in argv])
    out, err = capsys.readouterr()
    return code, out, err


def evaluate(data: Path, checkpoint: Path, *more: object) -> list[object]:
    folders = ["--images", data / "images", "--masks", data / "masks"]
    return ["evaluate", "--checkpoint", checkpoint, *folders, "--json", data / "f.json", "--device", "cpu", *more]


def predict(source: Path, checkpoint: Path, output: Path, *more: object) -> list[object]:
    return ["predict", "--checkpoint", checkpoint, "--input", source, "--output", output, "--device", "cpu", *more]


def error_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("options", "most", "streaming"),
    [([], 10**6, False), (["--streaming"], 10**6, True), ([], 100, True), (["--no-streaming"], 100, False)],
)
def test_evaluate_writes_pooled_figures_counts_provenance_rows_and_a_sheet(
    capsys, data, checkpoint, monkeypatch, options, most, streaming
):
    monkeypatch.setattr(training_evaluate, "EXACT_PIXELS", most)
    code, out, _ = run(capsys, *evaluate(data, checkpoint, *options))
    assert code == 0
    written = json.loads((data / "f.json").read_text())
    assert written["provenance"]["mode"] == ("streaming" if streaming else "exact")
    scorer = Scorer(checkpoint, device="cpu")
    masks = [np.asarray(Image.open(path)) for path in sorted((data / "masks").iterdir())]
    scores = [scorer.score_batch([read_image(path)])[0][0] for path in sorted((data / "images").iterdir())]
    label = np.concatenate([mask[mask != 255] for mask in masks])
    score = np.concatenate([score[mask != 255] for score, mask in zip(scores, masks, strict=True)])
    assert written["auprc"] == pytest.approx(average_precision_score(label, score), abs=1e-3 if streaming else 1e-6)
    assert 0 < written["fpr95"] <= 1
    assert 0 < written["auroc"] < 1
    assert written["images"] == 4
    assert written["pixels"] == label.size
    assert written["anomaly_pixels"] == label.sum()
    assert [row["name"] for row in written["per_image"]] == ["f0", "f1", "f2", "f3"]
    assert len(written["provenance"]["checkpoint_sha256"]) == 64
    assert {"torch", "flowclas_ros"} <= set(written["provenance"]["versions"])
    assert f"{written['auprc']:.4f}" in out
    assert written["track"] == "label-free" and out.startswith("label-free track")
    assert read_image(data / "f_sheet.png").shape[1] > 900
    assert [name for name in files_below(data) if "/" not in name] == ["f.json", "f_curves.png", "f_sheet.png"]
    assert read_image(data / "f_curves.png").shape[1] > 900
    assert 0 < written["f1_max"] <= 1 and 0 < written["aupro"] < 1
    assert written["components"]["frames"] == 4 and written["components"]["threshold"] == written["f1_threshold"]
    assert written["mean_per_image"]["auprc"] == pytest.approx(
        np.mean([r["auprc"] for r in written["per_image"]]), abs=1e-4
    )


def test_evaluate_sets_clear_against_adverse_by_corruption_with_a_plot_and_a_sheet(capsys, data, checkpoint):
    code, out, _ = run(capsys, *evaluate(data, checkpoint, "--corruptions", "fog", "noise", "--severity", 5))
    assert code == 0
    result = json.loads((data / "f.json").read_text())
    adverse = result["corruptions"]
    assert adverse["severity"] == 5
    assert list(adverse["by_corruption"]) == ["fog", "noise"]
    assert adverse["clear"]["auprc"] == result["auprc"]
    for figures in (adverse["adverse"], *adverse["by_corruption"].values()):
        assert figures["auprc_lost"] == pytest.approx(1 - figures["auprc"] / result["auprc"], abs=1e-4)
    assert adverse["by_corruption"]["fog"]["auroc"] != adverse["by_corruption"]["noise"]["auroc"]
    assert "lost" in out
    for name in ("f_corruptions.png", "f_corruptions_sheet.png"):
        assert read_image(data / name).std() > 10  # a picture of something


def test_evaluate_names_an_unknown_corruption_and_those_there_are(capsys, data, checkpoint):
    code, _, err = run(capsys, *evaluate(data, checkpoint, "--corruptions", "hail"))
    assert code == 2
    assert "'hail' is unknown; known: rain, fog" in error_line(err)


def test_evaluate_takes_no_severity_of_nothing(capsys, data, checkpoint):
    code, _, err = run(capsys, *evaluate(data, checkpoint, "--severity", 5))
    assert code == 2
    assert "--severity 5 without --corruptions" in error_line(err)
    assert not (data / "f.json").exists()


def test_evaluate_names_a_mask_of_another_size_with_both_sizes(capsys, data, checkpoint):
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(data / "masks" / "f2.png")
    code, _, err = run(capsys, *evaluate(data, checkpoint))
    assert code == 2
    line = error_line(err)
    assert "f2.png is 20x10" in line
    assert f"{W}x{H}" in line
    assert not (data / "f.json").exists()


def test_evaluate_names_an_image_without_a_mask(capsys, data, checkpoint):
    (data / "masks" / "f1.png").unlink()
    code, _, err = run(capsys, *evaluate(data, checkpoint))
    assert code == 2
    assert "f1.png has no mask" in error_line(err)


def test_evaluate_of_masks_without_an_anomaly_is_an_error(capsys, data, checkpoint):
    for path in (data / "masks").iterdir():
        Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
    code, _, err = run(capsys, *evaluate(data, checkpoint))
    assert code == 2
    assert "labelled 1 (anomaly)" in error_line(err)
    assert not (data / "f.json").exists()


def test_evaluate_finds_a_mask_of_another_size_before_it_scores(capsys, data, checkpoint, monkeypatch):
    Image.fromarray(np.zeros((H, W - 1), np.uint8)).save(data / "masks" / "f2.png")
    monkeypatch.setattr(Scorer, "score_batch", None)
    code, _, err = run(capsys, *evaluate(data, checkpoint))
    assert code == 2 and "f2.png is 63x48" in error_line(err)


def test_evaluate_takes_the_upright_mask_of_an_image_that_lies_on_its_side(capsys, data, checkpoint):
    image = Image.open(data / "images" / "f1.png")
    exif = image.getexif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(data / "images" / "f1.png", exif=exif)
    assert run(capsys, *evaluate(data, checkpoint))[0] == 0


def test_predict_writes_the_four_files_of_each_frame_and_the_score_is_the_models(capsys, data, checkpoint):
    code, out, _ = run(capsys, *predict(data / "images", checkpoint, data / "out", "--false-alarm-rate", 0.2))
    assert code == 0
    kinds = ("heat.png", "mask.png", "overlay.png", "score.tiff")
    assert files_below(data / "out") == [f"f{index}_{kind}" for index in range(4) for kind in kinds]
    expected = Scorer(checkpoint, device="cpu").score_batch([read_image(data / "images" / "f3.png")])[0][0]
    score = np.asarray(Image.open(data / "out" / "f3_score.tiff"))
    assert score.dtype == np.float32
    np.testing.assert_array_equal(score, expected)
    threshold = Calibration.from_dict(Scorer(checkpoint, device="cpu").header["calibration"]).threshold(0.2)
    mask = np.asarray(Image.open(data / "out" / "f3_mask.png"))
    np.testing.assert_array_equal(mask, np.where(score > np.float32(threshold), 255, 0))
    assert Image.open(data / "out" / "f3_overlay.png").size == (56, 40)
    assert "4 frame(s)" in out


def test_predict_names_and_counts_broken_images_and_still_does_the_rest(capsys, data, checkpoint):
    (data / "images" / "f1.png").write_bytes((data / "images" / "f1.png").read_bytes()[:200])
    (data / "images" / "f9.jpg").touch()
    code, out, err = run(capsys, *predict(data / "images", checkpoint, data / "out"))
    assert code == 2
    assert "f1.png is corrupt or truncated" in err
    assert "f9.jpg is empty" in err
    assert "2 frame(s)" in error_line(err)
    assert "3 frame(s)" in out
    assert len(files_below(data / "out")) == 3 * 4


@pytest.mark.parametrize("place", ["images", "images/sub/out"])
def test_predict_does_not_write_where_the_next_run_would_read(capsys, data, checkpoint, place):
    code, _, err = run(capsys, *predict(data / "images", checkpoint, data / place))
    assert code == 2 and "lies in the folder that is read" in error_line(err)
    assert len(files_below(data / "images")) == 4


def test_predict_says_when_a_video_ends_before_its_time(capsys, data, checkpoint):
    video = cv2.VideoWriter(str(data / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (W, H))
    for _ in range(8):
        video.write(RNG.integers(0, 256, (H, W, 3), dtype=np.uint8))
    video.release()
    code, _, err = run(capsys, *predict(data / "v.avi", checkpoint, data / "whole"))
    assert code == 0 and "note" not in err
    content = (data / "v.avi").read_bytes()
    (data / "v.avi").write_bytes(content[: len(content) // 2])
    code, _, err = run(capsys, *predict(data / "v.avi", checkpoint, data / "out"))
    frames = len(files_below(data / "out")) // 4
    assert 0 < frames < 8 and f"v.avi ended after {frames} of the 8 frames that it announces" in err


@pytest.mark.parametrize(
    ("source", "words"),
    [("gone", "gone does not exist"), ("empty", "holds no image"), ("images/f0.txt", "f0.txt is no image")],
)
def test_predict_of_an_unusable_input_is_one_line(capsys, data, checkpoint, source, words):
    (data / "empty").mkdir()
    (data / "images" / "f0.txt").touch()
    code, _, err = run(capsys, *predict(data / source, checkpoint, data / "out"))
    assert code == 2
    assert words in error_line(err)


def test_a_truncated_checkpoint_is_one_line_naming_it(capsys, data, checkpoint):
    broken = data / "broken.safetensors"
    broken.write_bytes(checkpoint.read_bytes()[:1000])
    code, _, err = run(capsys, *predict(data / "images", broken, data / "out"))
    assert code == 2
    assert "broken.safetensors" in error_line(err)


def test_a_full_disk_ends_in_one_line_without_half_a_file(data, checkpoint):
    def small_disk() -> None:  # no file may grow beyond 4 kB: the score of 48x64 pixels is 12 kB
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = flowclas(predict(data / "images" / "f0.png", checkpoint, data / "out"), preexec_fn=small_disk)
    _, err = done.communicate(timeout=120)
    assert done.returncode == 2
    assert "cannot write" in error_line(err)
    assert "f0_score.tiff" in error_line(err)
    assert files_below(data / "out") == []


def test_ctrl_c_ends_in_one_line_with_130_and_only_whole_files(data, checkpoint):
    for index in range(300):
        (data / "images" / f"g{index:03d}.png").write_bytes((data / "images" / "f0.png").read_bytes())
    running = flowclas(predict(data / "images", checkpoint, data / "out"))
    deadline = time.monotonic() + 60
    while not (data / "out" / "f0_overlay.png").exists():
        assert time.monotonic() < deadline, "predict wrote nothing"
        assert running.poll() is None, "predict ended before it was interrupted"
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert err.rstrip().splitlines()[-1] == "interrupted"
    written = files_below(data / "out")
    assert not [name for name in written if name.endswith(".tmp")]
    for name in written:
        Image.open(data / "out" / name).load()


def flowclas(argv: list[object], **settings) -> subprocess.Popen:
    # A child of a background job inherits SIGINT ignored; Python then installs no handler for Ctrl-C.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from flowclas_ros.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *map(str, argv)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=env, **pipes, **settings)
