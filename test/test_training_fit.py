"""A whole fit: it reproduces, survives being killed, refuses what would spoil a run, and leaves whole files only."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fit_support import write_discs, write_noise
from safetensors.torch import load_file

from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.checkpoint import load_checkpoint
from flowclas_ros.training import fit as fitting
from flowclas_ros.training import trainer_setup
from flowclas_ros.training.calibrate import score_image
from flowclas_ros.training.config_file import load_config
from flowclas_ros.training.metrics import PixelMetrics

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parent.parent
STEPS = 9  # three epochs of three
YAML = """
model: {backbone: {name: mobilenetv2_100, weights: random, layers: [1], stride: 8}, flow: {steps: 1}, projection_dim: 8}
data: {train: [ROOT/train], val: [ROOT/val], scene_block: 2, outliers: {cutouts: ROOT/cut}, batch_size: 4,
       x_out_size: [64, 64], jitter: 0.1}
paste: {min_size: 0.3, max_size: 0.8}
loss: {samples: 32}
optimiser: {ema: 0.9, lr: 1e-3}
trainer: {max_epochs: 3, save_every: 2, device: cpu, log_every: 1}
"""
# Sends itself a signal when a step begins, or half-way through writing a state.
KILLER = """
import os, sys
from lightning.pytorch.callbacks import Callback
from flowclas_ros.training import fit
config, output, step, signum = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
class Kill(Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == step:
            os.kill(os.getpid(), signum)
make = fit._trainer
def with_kill(*arguments):
    trainer = make(*arguments)
    trainer.callbacks.insert(0, Kill())
    return trainer
fit._trainer = with_kill
sys.exit(fit.main(["--config", config, "--output", output]))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        write_noise(folder / split, count, rng)
    write_discs(folder / "cut", rng)
    (folder / "fit.yaml").write_text(YAML.replace("ROOT", str(folder)))
    return folder


def fit(root, name, *overrides, resume=False):
    torch.set_num_threads(1)
    config = load_config(root / "fit.yaml", ["--output", str(root / name), *overrides])
    return fitting.fit(config, resume=resume)


@pytest.fixture(scope="module")
def whole(root):
    """A run that nothing disturbed."""
    return fit(root, "whole").parent


def killed(root, name, step, signum):
    output = root / name
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLER, str(root / "fit.yaml"), str(output), str(step), str(int(signum))]
    return output, subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)


def assert_same_run(one, other):
    for name in ("model.safetensors", "best.safetensors"):
        ours, theirs = load_file(one / name), load_file(other / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    ours, theirs = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (one, other))
    assert ours["global_step"] == theirs["global_step"] == STEPS
    assert all(torch.equal(ours["state_dict"][key], theirs["state_dict"][key]) for key in ours["state_dict"])
    ours, theirs = (state["optimizer_states"][0]["state"] for state in (ours, theirs))
    assert all(torch.equal(ours[i][key], theirs[i][key]) for i in ours for key in ours[i])
    calibrations = [load_checkpoint(folder / "model.safetensors").header["calibration"] for folder in (one, other)]
    assert calibrations[0] == calibrations[1]


def assert_whole_files_only(output):
    names = {path.name for path in output.rglob("*")}
    assert not [name for name in names if name.endswith(".tmp") or name.startswith(".")]
    for path in output.glob("*.safetensors"):
        load_file(path)
    if (output / "last.ckpt").exists():
        torch.load(output / "last.ckpt", weights_only=True)


def test_a_fit_ends_in_a_calibrated_checkpoint_with_provenance(whole):
    loaded = load_checkpoint(whole / "model.safetensors")
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
    assert json.loads((whole / "metrics.json").read_text())["val/auprc"] == about["metrics"]["val/auprc"]
    assert cv2.imread(str(whole / "val_contact_sheet.png")).shape[1] > 900
    assert list((whole / "tensorboard").glob("events*"))
    assert_whole_files_only(whole)


def test_scenes_that_hold_outliers_are_what_a_checkpoint_is_chosen_by_and_not_what_it_is_calibrated_on(root, whole):
    image = cv2.imread(str(root / "val/000.png"))
    mask = np.zeros(image.shape[:2], np.uint8)
    image[20:44, 30:60], mask[20:44, 30:60] = (0, 255, 0), 1
    for kind, picture in (("images", image), ("masks", mask)):
        (root / "seen" / kind).mkdir(parents=True)
        cv2.imwrite(str(root / "seen" / kind / "0.png"), picture)
    path = fit(root, "chosen", "--data.exposed_val", str(root / "seen"))
    ours, theirs = (load_checkpoint(p).header for p in (path, whole / "model.safetensors"))
    score = score_image(load_checkpoint(path).model, image[..., ::-1].copy(), torch.device("cpu"))
    metrics = PixelMetrics()
    metrics.update(score, mask)
    assert ours["provenance"]["metrics"]["val/auprc"] == pytest.approx(metrics.compute().auprc, abs=1e-3)
    assert ours["calibration"]["pixels"] == theirs["calibration"]["pixels"]


def test_the_resumable_state_leaves_the_frozen_backbone_out(whole):
    state = torch.load(whole / "last.ckpt", weights_only=True)["state_dict"]
    assert state and not [key for key in state if key.startswith("model.backbone")]


def test_the_same_seed_gives_the_same_weights_whatever_the_workers(root, whole):
    assert_same_run(whole, fit(root, "again", "--data.workers", "1").parent)


def test_another_seed_gives_other_weights(root, whole):
    other = load_file(fit(root, "seed1", "--seed", "1", "--trainer.max_epochs", "1"))
    assert not torch.equal(
        load_file(whole / "model.safetensors")["flow.steps.0.actnorm.bias"], other["flow.steps.0.actnorm.bias"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3, 5])  # before the first state, right after a validation, inside an epoch
def test_a_run_killed_and_resumed_equals_one_that_was_not(root, whole, step):
    output, done = killed(root, f"kill{step}", step, signal.SIGKILL)
    assert done.returncode == -signal.SIGKILL
    assert_whole_files_only(output)
    fit(root, f"kill{step}", resume=True)
    assert_same_run(whole, output)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_step_says_so_in_one_line_and_loses_nothing(root, whole, signum, code):
    output, done = killed(root, f"signal{code}", 4, signum)
    assert done.returncode == code
    assert done.stderr.strip().splitlines()[-1].startswith("interrupted; state saved at step 5 in ")
    assert "Traceback" not in done.stderr
    assert_whole_files_only(output)
    assert torch.load(output / "last.ckpt", weights_only=True)["global_step"] == 5
    fit(root, output.name, resume=True)
    assert_same_run(whole, output)


def test_a_finished_run_resumed_is_only_exported_again(root, whole, capsys):
    before = (whole / "last.ckpt").read_bytes()
    fit(root, "whole", resume=True)
    assert "had finished" in capsys.readouterr().out
    assert (whole / "last.ckpt").read_bytes() == before


def test_a_finished_run_may_be_drawn_otherwise_and_moved_and_is_validated_and_calibrated_anew(root, whole):
    shutil.copytree(whole, root / "moved")
    fit(root, "moved", "--model.guided_radius", "4", resume=True)
    before, after = (load_checkpoint(folder / "model.safetensors") for folder in (whole, root / "moved"))
    assert after.model.config == replace(before.model.config, guided_radius=4.0)
    for key, value in before.model.state_dict().items():
        assert torch.equal(value, after.model.state_dict()[key]), key
    figures = [json.loads((folder / "metrics.json").read_text())["val/auprc"] for folder in (whole, root / "moved")]
    assert figures[0] != figures[1] and before.header["calibration"] != after.header["calibration"]
    assert load_config(root / "moved" / "config.yaml").model.guided_radius == 4.0
    torch.save({"callbacks": {"RunState": {"finished": False}}}, root / "moved" / "last.ckpt")
    with pytest.raises(FlowclasError, match=r"other settings of model\.guided_radius;"):
        fit(root, "moved", "--model.guided_radius", "5", resume=True)


def test_a_folder_with_a_run_in_it_is_refused(root, whole):
    with pytest.raises(FlowclasError, match="holds a run already; go on with --resume"):
        fit(root, "whole")


def test_resuming_with_other_settings_names_them(root, whole):
    with pytest.raises(FlowclasError, match=r"other settings of loss\.alpha, optimiser\.lr;"):
        fit(root, "whole", "--loss.alpha", "2", "--optimiser.lr", "1e-2", resume=True)


def test_nothing_to_resume_says_so(root):
    with pytest.raises(FlowclasError, match="there is no run to resume"):
        fit(root, "nowhere", resume=True)


@pytest.mark.parametrize("target", ["last.ckpt", "best.safetensors", "model.safetensors"])
def test_a_full_disk_is_one_line_naming_the_file_and_leaves_no_half_of_it(root, target, monkeypatch):
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
        fit(root, name, "--trainer.max_epochs", "1", "--trainer.save_every", "1")
    assert "\n" not in str(raised.value)
    assert not (root / name / target).exists()
    assert_whole_files_only(root / name)


def _save_to_full_disk(path, *_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_time_being_up_ends_the_run_with_a_checkpoint(root, capsys):
    path = fit(root, "short", "--trainer.max_minutes", "1e-6")
    assert "stopped at step 1 of 9 after trainer.max_minutes" in capsys.readouterr().out
    assert load_checkpoint(path).header["provenance"]["metrics"]["step"] == 1
    fit(root, "short", "--trainer.max_minutes", "1e-6", resume=True)
    assert torch.load(path.parent / "last.ckpt", weights_only=True)["global_step"] == 1


def test_the_gaussian_baseline_needs_no_step_and_has_no_flow(root):
    loaded = load_checkpoint(fit(root, "gaussian", "--method", "gaussian"))
    assert loaded.model.config.flow.steps == 0
    assert loaded.model.projection is None
    assert loaded.header["calibration"]["scenes"] == 2
    assert loaded.header["provenance"]["metrics"]["val/auprc"] > 0


def test_likelihood_alone_is_a_switch(root):
    path = fit(root, "nll", "--loss.contrastive", "none", "--trainer.max_epochs", "1", "--optimiser.ema", "0")
    assert load_checkpoint(path).model.projection is None


def test_sixteen_bits_on_a_cpu_are_refused_and_bf16_works(root, monkeypatch):
    monkeypatch.setattr(trainer_setup, "CPU_INFO", root / "nowhere")  # bf16 even where the CPU has no units for it
    with pytest.raises(FlowclasError, match="precision fp16 needs a GPU"):
        fit(root, "half", "--trainer.precision", "fp16")
    fit(root, "half", "--trainer.precision", "bf16", "--trainer.max_epochs", "1")


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["--data.train", "[ROOT/none]"], "ROOT/none does not exist"),
        (["--data.train", "[ROOT/empty]"], "ROOT/empty holds no image"),
        (["--data.outliers.cutouts", "ROOT/train"], "no alpha channel"),
    ],
)
def test_bad_data_is_one_line(root, overrides, text, capsys):
    (root / "empty").mkdir(exist_ok=True)
    arguments = [a.replace("ROOT", str(root)) for a in overrides]
    code = fitting.main(["--config", str(root / "fit.yaml"), "--output", str(root / "bad"), *arguments])
    assert code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and text.replace("ROOT", str(root)) in line


@pytest.mark.slow
def test_the_kit_fits_end_to_end_in_a_few_steps(kit, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWCLAS_KIT", str(kit))
    for split, source, every in (("train", "train", 40), ("val", "val", 20)):
        (tmp_path / split).mkdir()
        for path in sorted((kit / "camvid/images" / source).glob("*.jpg"))[::every]:
            (tmp_path / split / path.name).symlink_to(path)
    overrides = ["--data.train", f"[{tmp_path}/train]", "--data.val", f"[{tmp_path}/val]", "--data.workers", "0"]
    overrides += ["--output", str(tmp_path / "run"), "--trainer.max_epochs", "1", "--trainer.device", "cpu"]
    overrides += ["--trainer.margin_scenes", "40"]
    path = fitting.fit(load_config(ROOT / "config/training/kit_road.yaml", overrides))
    header = load_checkpoint(path).header
    assert header["provenance"]["metrics"]["val/auprc"] > 0.1  # a guess would have some 0.03
    assert header["calibration"]["scenes"] == 1
