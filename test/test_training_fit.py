"""A whole fit: it reproduces, survives being killed, refuses what would spoil a run, and leaves whole files only."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fit_running import assert_same_run, assert_whole_files_only, fit
from fit_support import write_noise
from safetensors.torch import load_file
from torch.utils.data import get_worker_info

from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.images import read_image
from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.checkpoint import load_checkpoint
from flowclas_ros.training import data, trainer_setup
from flowclas_ros.training import fit as fitting
from flowclas_ros.training.calibrate import score_image
from flowclas_ros.training.config_file import load_config
from flowclas_ros.training.metrics import PixelMetrics

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parent.parent


def test_a_fit_ends_in_a_calibrated_checkpoint_with_provenance(whole_fit):
    loaded = load_checkpoint(whole_fit / "model.safetensors")
    about = loaded.header["provenance"]
    calibration = Calibration.from_dict(loaded.header["calibration"])
    assert calibration.scenes == 2
    assert calibration.pixels == 4 * 64 * 96
    assert about["seed"] == 0
    assert about["data"]["train"]["frames"] == 10
    assert about["data"]["outliers"]["objects"] + about["data"]["outliers_val"]["objects"] == 4
    assert about["config"]["loss"]["samples"] == 32
    assert 0 < about["metrics"]["val/auprc"] < 1
    assert about["metrics"]["step"] % 3 == 0
    assert json.loads((whole_fit / "metrics.json").read_text())["val/auprc"] == about["metrics"]["val/auprc"]
    assert cv2.imread(str(whole_fit / "val_contact_sheet.png")).shape[1] > 900
    assert list((whole_fit / "tensorboard").glob("events*"))
    assert_whole_files_only(whole_fit)


def write_scene(folder, image, mask):
    """As data.exposed and data.exposed_val take them."""
    for kind, picture in (("images", image), ("masks", mask)):
        (folder / kind).mkdir(parents=True)
        cv2.imwrite(str(folder / kind / "0.png"), picture)


def test_scenes_that_hold_outliers_are_what_a_checkpoint_is_chosen_by_and_not_what_it_is_calibrated_on(
    fit_root, whole_fit
):
    image = cv2.imread(str(fit_root / "val/000.png"))
    mask = np.zeros(image.shape[:2], np.uint8)
    image[20:44, 30:60], mask[20:44, 30:60] = (0, 255, 0), 1
    write_scene(fit_root / "seen", image, mask)
    path = fit(fit_root, "chosen", "--data.exposed_val", str(fit_root / "seen"))
    ours, theirs = (load_checkpoint(p).header for p in (path, whole_fit / "model.safetensors"))
    score = score_image(load_checkpoint(path).model, image[..., ::-1].copy(), torch.device("cpu"))
    metrics = PixelMetrics()
    metrics.update(score, mask)
    assert ours["provenance"]["metrics"]["val/auprc"] == pytest.approx(metrics.compute().auprc, abs=1e-3)
    assert ours["calibration"]["pixels"] == theirs["calibration"]["pixels"]


def test_scenes_to_choose_by_that_hold_no_outlier_are_refused_before_the_fit(fit_root):
    image = cv2.imread(str(fit_root / "val/000.png"))
    write_scene(fit_root / "unmarked", image, np.zeros(image.shape[:2], np.uint8))
    with pytest.raises(FlowclasError, match=r"no mask in '.*unmarked/masks' marks an outlier"):
        fit(fit_root, "never_begun", "--data.exposed_val", str(fit_root / "unmarked"))
    assert not (fit_root / "never_begun" / "last.ckpt").exists()


def test_validation_scenes_that_get_no_object_are_refused_before_the_fit(fit_root):
    """One scene, and an object in every other one."""
    (fit_root / "lone").mkdir()
    shutil.copy(fit_root / "val" / "000.png", fit_root / "lone")
    options = ("--data.val", f"[{fit_root}/lone]", "--paste.min_objects", "0", "--paste.max_objects", "1")
    with pytest.raises(FlowclasError, match=r"none of the 1 validation scenes got .*paste\.min_objects \(now 0"):
        fit(fit_root, "lone_begun", *options, "--seed", "1")
    assert not (fit_root / "lone_begun" / "tensorboard").exists()


def test_the_resumable_state_leaves_the_frozen_backbone_out(whole_fit):
    state = torch.load(whole_fit / "last.ckpt", weights_only=True)["state_dict"]
    assert state and not [key for key in state if key.startswith("model.backbone")]


def test_the_same_seed_gives_the_same_weights_whatever_the_workers(fit_root, whole_fit):
    assert_same_run(whole_fit, fit(fit_root, "again", "--data.workers", "1").parent)


def test_another_seed_gives_other_weights(fit_root, whole_fit):
    other = load_file(fit(fit_root, "seed1", "--seed", "1", "--trainer.max_epochs", "1"))
    assert not torch.equal(
        load_file(whole_fit / "model.safetensors")["flow.steps.0.actnorm.bias"], other["flow.steps.0.actnorm.bias"]
    )


def test_the_flows_noise_is_on_the_features_that_it_is_fitted_on(fit_root):
    options = ("--trainer.max_epochs", "1", "--optimiser.ema", "0")
    fits = [load_file(fit(fit_root, f"noise{noise}", "--model.flow.noise", noise, *options)) for noise in ("0", "1")]
    start, key = "flow.whitening.weight", "flow.steps.0.coupling.drive_first.2.weight"
    assert torch.equal(fits[0][start], fits[1][start])  # which both take from the features as they are
    assert not torch.equal(fits[0][key], fits[1][key])


def test_a_folder_with_a_run_in_it_is_refused(fit_root, whole_fit):
    with pytest.raises(FlowclasError, match="holds a run already; go on with --resume"):
        fit(fit_root, "whole")


@pytest.mark.parametrize("target", ["last.ckpt", "best.safetensors", "model.safetensors"])
def test_a_full_disk_is_one_line_naming_the_file_and_leaves_no_half_of_it(fit_root, target, monkeypatch):
    """The writers write half of their file, then fail as the operating system does."""
    from flowclas_ros.training import calibrate, callbacks

    def full(path):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    if target == "last.ckpt":
        monkeypatch.setattr("lightning.Trainer.save_checkpoint", lambda self, path, *a, **k: full(path))
    elif target == "best.safetensors":
        monkeypatch.setattr(callbacks.safetensors.torch, "save_file", lambda tensors, path, **k: full(path))
    else:
        monkeypatch.setattr(calibrate, "save_checkpoint", _save_to_full_disk)
    name = f"full-{target}"
    with pytest.raises(FlowclasError, match=rf"{target}.* could not be written: No space left on device") as raised:
        fit(fit_root, name, "--trainer.max_epochs", "1", "--trainer.save_every", "1")
    assert "\n" not in str(raised.value)
    assert not (fit_root / name / target).exists()
    assert_whole_files_only(fit_root / name)


def _save_to_full_disk(path, *_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_time_being_up_ends_the_run_with_a_checkpoint(fit_root, capsys):
    path = fit(fit_root, "short", "--trainer.max_minutes", "1e-6")
    assert "stopped at step 1 of 9 after trainer.max_minutes" in capsys.readouterr().out
    assert load_checkpoint(path).header["provenance"]["metrics"]["step"] == 1
    fit(fit_root, "short", "--trainer.max_minutes", "1e-6", resume=True)
    assert torch.load(path.parent / "last.ckpt", weights_only=True)["global_step"] == 1


def test_the_gaussian_baseline_needs_no_step_and_has_no_flow(fit_root):
    loaded = load_checkpoint(fit(fit_root, "gaussian", "--method", "gaussian"))
    assert loaded.model.config.flow.steps == 0
    assert loaded.model.projection is None
    assert loaded.header["calibration"]["scenes"] == 2
    assert loaded.header["provenance"]["metrics"]["val/auprc"] > 0


def test_likelihood_alone_is_a_switch(fit_root):
    path = fit(fit_root, "nll", "--loss.contrastive", "none", "--trainer.max_epochs", "1", "--optimiser.ema", "0")
    assert load_checkpoint(path).model.projection is None


def test_sixteen_bits_on_a_cpu_are_refused_and_bf16_works(fit_root, monkeypatch):
    monkeypatch.setattr(trainer_setup, "CPU_INFO", fit_root / "nowhere")  # bf16 even where the CPU has no units for it
    with pytest.raises(FlowclasError, match="precision fp16 needs a GPU"):
        fit(fit_root, "half", "--trainer.precision", "fp16")
    fit(fit_root, "half", "--trainer.precision", "bf16", "--trainer.max_epochs", "1")


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["--data.train", "[ROOT/none]"], "ROOT/none does not exist"),
        (["--data.train", "[ROOT/empty]"], "ROOT/empty holds no image"),
        (["--data.outliers.cutouts", "ROOT/train"], "no alpha channel"),
    ],
)
def test_bad_data_is_one_line(fit_root, overrides, text, capsys):
    (fit_root / "empty").mkdir(exist_ok=True)
    arguments = [a.replace("ROOT", str(fit_root)) for a in overrides]
    code = fitting.main(["--config", str(fit_root / "fit.yaml"), "--output", str(fit_root / "bad"), *arguments])
    assert code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and text.replace("ROOT", str(fit_root)) in line


def test_what_fails_in_a_process_that_reads_images_is_told_as_it_is_without_one(fit_root, capsys):
    """PyTorch would put the process's whole traceback before it."""
    write_noise(fit_root / "torn", 4, np.random.default_rng(0))
    (fit_root / "torn" / "004.png").write_bytes(b"no image")
    arguments = ["--config", str(fit_root / "fit.yaml"), "--data.train", f"[{fit_root}/torn]"]
    told = []
    for workers in ("0", "1"):
        output = ["--output", str(fit_root / f"torn{workers}"), "--data.workers", workers]
        assert fitting.main([*arguments, *output]) == 2
        told.append(capsys.readouterr().err)
    assert "torn/004.png is not an image" in told[0]
    assert told[1] == told[0]


def test_a_process_that_reads_images_and_is_killed_is_one_line_with_the_way_out(fit_root, monkeypatch):
    """As Linux does where memory is short, and a container where shared memory is."""

    def killed(path):
        if get_worker_info() is not None:  # or the tests would end here
            os.kill(os.getpid(), signal.SIGKILL)
        return read_image(path)

    monkeypatch.setattr(data, "read_image", killed)
    with pytest.raises(FlowclasError, match=r"reads images was lost \(DataLoader worker .*smaller data\.workers"):
        fit(fit_root, "lost", "--data.workers", "1")


def test_a_fit_that_diverges_is_one_line_with_the_way_out(fit_root):
    steep = ("--optimiser.lr", "1e6", "--optimiser.clip", "0", "--trainer.max_epochs", "1")
    with pytest.raises(FlowclasError, match=r"not finite at step 3: the fit diverged; lower optimiser\.lr"):
        fit(fit_root, "steep", *steep)


@pytest.mark.slow
def test_the_kit_fits_end_to_end_in_a_few_steps(kit, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWCLAS_KIT", str(kit))
    for split, source, every in (("train", "train", 40), ("val", "val", 20)):
        (tmp_path / split).mkdir()
        for path in sorted((kit / "camvid/images" / source).glob("*.jpg"))[::every]:
            (tmp_path / split / path.name).symlink_to(path)
    overrides = ["--data.train", f"[{tmp_path}/train]", "--data.val", f"[{tmp_path}/val]", "--data.workers", "0"]
    overrides += ["--output", str(tmp_path / "run"), "--trainer.max_epochs", "1", "--trainer.device", "cpu"]
    overrides += ["--trainer.margin_scenes", "40", "--model.short_side", "240"]
    path = fitting.fit(load_config(ROOT / "config/training/kit_road.yaml", overrides))
    header = load_checkpoint(path).header
    assert header["provenance"]["metrics"]["val/auprc"] > 0.1  # a guess would have some 0.03
    assert header["calibration"]["scenes"] == 1


def test_a_fit_out_of_memory_says_which_options_to_change(fit_root, monkeypatch):
    def explode(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(fitting.FitModule, "training_step", explode)
    with pytest.raises(FlowclasError, match=r"out of memory for this fit: use a smaller data\.batch_size"):
        fit(fit_root, "large")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_fit_on_a_gpu_is_that_on_the_cpu_but_for_rounding(fit_root, precision):
    options = ("--model.margin_weight", "1", "--model.flow.noise", "0", "--trainer.precision")
    paths = [
        fit(fit_root, f"{device}_{precision}", *options, chosen, "--trainer.device", device)
        for device, chosen in (("cpu", "fp32"), ("cuda", precision))
    ]
    ours, theirs = (load_checkpoint(path).header["provenance"]["metrics"]["val/inlier_score"] for path in paths)
    assert ours == pytest.approx(theirs, abs=0.1)  # nats per dimension
