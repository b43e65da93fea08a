"""`flowclas calibrate`: a checkpoint's table anew, from images, videos and bags; the weights as they were."""

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("lightning", reason="lightning is not installed")
from node_support import make_checkpoint, picture

from flowclas_ros.cli import main
from flowclas_ros.detection.detector import Detector
from flowclas_ros.detection.images import write_png
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.model.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("calibrate") / "old.safetensors")


@pytest.fixture
def images(tmp_path) -> Path:
    """Six scenes of two frames each, twice as bright as those that the checkpoint was calibrated on."""
    for number in range(12):
        bright = np.clip(picture(number).astype(int) * 2, 0, 255).astype(np.uint8)
        write_png(tmp_path / "day" / f"s{number // 2}_{number % 2}.png", bright)
    return tmp_path / "day"


def calibrate(checkpoint: Path, output: Path, *arguments: object) -> int:
    return main(["calibrate", *map(str, arguments), "--checkpoint", str(checkpoint), "--output", str(output)])


def test_the_thresholds_hold_on_the_new_frames_and_the_weights_are_the_old_ones(tmp_path, checkpoint, images, capsys):
    new = tmp_path / "new.safetensors"
    assert calibrate(checkpoint, new, images, "--sequence-regex", "^(s[0-9]+)_") == 0
    before, now = load_checkpoint(checkpoint), load_checkpoint(new)
    assert all(value.equal(now.model.state_dict()[name]) for name, value in before.model.state_dict().items())
    detector = Detector(new, device="cpu", false_alarm_rate=0.3)
    assert detector.calibration.scenes == 6 and detector.calibration.drift is not None
    assert detector.guaranteed and not Detector(new, device="cpu", false_alarm_rate=0.2).guaranteed
    scores = [detector.score_batch([cv2.imread(str(path))[..., ::-1].copy()])[0][0] for path in images.iterdir()]
    share = float(np.mean([score > detector.threshold for score in scores]))
    assert share == pytest.approx((0.3 * 7 - 1) / 6, abs=2e-3)  # what the bound allows the mean of the scenes
    about = now.header["provenance"]
    assert about["made by"] == "test" and about["calibrated"]["from"]["sha256"] == before.header["sha256"]
    assert (about["calibrated"]["frames"], about["calibrated"]["scenes"]) == (12, 6)
    old = Detector(checkpoint, device="cpu", false_alarm_rate=0.01)
    flagged = float(np.mean([score > old.threshold for score in scores]))
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("0.01 "))
    assert float(row.split()[-1].rstrip("%")) / 100 == pytest.approx(flagged, rel=0.05, abs=1e-3)
    assert f"{old.threshold:.3f} -> {Detector(new, device='cpu', false_alarm_rate=0.01).threshold:.3f}" in row
    sheet = cv2.imread(str(tmp_path / "new.png"))
    assert sheet is not None and sheet.shape[0] > 6 * 200  # six rows


def test_a_video_and_a_bag_are_cut_into_scenes_of_so_many_frames(tmp_path, checkpoint):
    bags = pytest.importorskip("test_frames", reason="rosbags is not installed")
    bag = bags.record(tmp_path / "drive", {"/image": [bags.raw(picture(n), "rgb8", n) for n in range(5)]})
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (128, 96))
    for number in range(4):
        film.write(picture(number))
    film.release()
    output = tmp_path / "new.safetensors"
    assert calibrate(checkpoint, output, bag, tmp_path / "film.avi", "--topic", "/image", "--scene-block", 2) == 0
    about = load_checkpoint(output).header["provenance"]["calibrated"]
    assert (about["frames"], about["scenes"]) == (9, 5)  # 2 + 2 + 1 and 2 + 2
    assert calibrate(checkpoint, output, bag) == 0
    assert load_checkpoint(output).header["calibration"]["scenes"] == 1


def test_a_broken_frame_is_named_and_left_out(tmp_path, checkpoint, images, capsys):
    (images / "s0_0.png").write_bytes(b"no picture")
    output = tmp_path / "new.safetensors"
    assert calibrate(checkpoint, output, images) == 2
    error = capsys.readouterr().err
    assert "s0_0.png" in error and "1 frame(s) could not be read" in error
    assert load_checkpoint(output).header["provenance"]["calibrated"]["frames"] == 11


def test_a_scene_without_a_frame_that_can_be_read_is_left_out(tmp_path, checkpoint, images, capsys):
    (images / "t0_0.png").write_bytes(b"no picture")  # a scene of its own
    output = tmp_path / "new.safetensors"
    assert calibrate(checkpoint, output, images, "--sequence-regex", "^([a-z]+[0-9]+)_") == 2
    assert "t0_0.png" in capsys.readouterr().err
    assert load_checkpoint(output).header["provenance"]["calibrated"]["frames"] == 12


@pytest.mark.parametrize(
    ("output", "more", "told"),
    [
        ("new.pt", (), "new.pt is no .safetensors file"),
        ("new.safetensors", ("--sequence-regex", "^x"), "'^x' does not match the file name"),
        ("new.safetensors", ("--scene-block", "0"), "scene_block is 0; it must be 1 or more"),
        ("new.safetensors", ("nowhere",), "nowhere does not exist"),
        ("new.safetensors", (__file__,), "is no image, video or bag"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    tmp_path, checkpoint, images, capsys, monkeypatch, output, more, told
):
    before = set(tmp_path.rglob("*"))
    monkeypatch.setattr(Scorer, "score_batch", None)  # all of it is known before the first frame
    assert calibrate(checkpoint, tmp_path / output, images, *more) == 2
    assert told in capsys.readouterr().err
    assert set(tmp_path.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_told_before_the_first_frame(checkpoint, images, capsys, monkeypatch):
    monkeypatch.setattr(Scorer, "score_batch", None)
    assert calibrate(checkpoint, Path("/proc/nowhere/new.safetensors"), images) == 2
    assert "cannot write /proc/nowhere/new.safetensors" in capsys.readouterr().err


def test_a_checkpoint_is_calibrated_in_its_own_place(tmp_path, images):
    checkpoint = make_checkpoint(tmp_path / "own.safetensors")
    before = load_checkpoint(checkpoint).header["calibration"]
    assert calibrate(checkpoint, checkpoint, images) == 0
    assert load_checkpoint(checkpoint).header["calibration"] != before
