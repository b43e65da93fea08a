"""A fit that was killed, interrupted or had finished is gone on with: as if nothing had been, or it says why not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fit_running import assert_same_run, assert_whole_files_only, fit
from PIL import Image

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.checkpoint import load_checkpoint
from flowclas_ros.training.config_file import load_config
from flowclas_ros.training.data import open_data

pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parent.parent
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


# What srun tells a task, as far as Lightning asks.
SRUN = {
    **{f"SLURM_{name}": "1" for name in ("JOB_ID", "NNODES", "NTASKS", "NTASKS_PER_NODE", "STEP_NUM_TASKS")},
    **{f"SLURM_{name}": "0" for name in ("PROCID", "LOCALID", "NODEID")},
    "SLURM_JOB_NAME": "fit",
}


def killed(fit_root, name, step, signum, **variables):
    output = fit_root / name
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-c", KILLER, str(fit_root / "fit.yaml"), str(output), str(step), str(int(signum))]
    return output, subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3, 5])  # before the first state, right after a validation, inside an epoch
def test_a_run_killed_and_resumed_equals_one_that_was_not(fit_root, whole_fit, step):
    output, done = killed(fit_root, f"kill{step}", step, signal.SIGKILL)
    assert done.returncode == -signal.SIGKILL
    assert_whole_files_only(output)
    fit(fit_root, f"kill{step}", resume=True)
    assert_same_run(whole_fit, output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "code", "variables"),
    [(signal.SIGINT, 130, {}), (signal.SIGTERM, 143, {}), (signal.SIGUSR1, 138, SRUN)],
)
def test_a_signal_saves_the_step_says_so_in_one_line_and_loses_nothing(fit_root, whole_fit, signum, code, variables):
    """SIGUSR1 is what SLURM sends ahead of time (--signal), and on which Lightning would save a state of its own."""
    output, done = killed(fit_root, f"signal{code}", 4, signum, **variables)
    assert done.returncode == code
    assert done.stderr.strip().splitlines()[-1].startswith("interrupted; state saved at step 5 in ")
    assert "Traceback" not in done.stderr
    assert_whole_files_only(output)
    assert not list(output.glob("hpc_ckpt*"))
    assert torch.load(output / "last.ckpt", weights_only=True)["global_step"] == 5
    fit(fit_root, output.name, resume=True)
    assert_same_run(whole_fit, output)


def test_a_finished_run_resumed_is_only_exported_again(fit_root, whole_fit, capsys):
    before = (whole_fit / "last.ckpt").read_bytes()
    fit(fit_root, "whole", resume=True)
    assert "had finished" in capsys.readouterr().out
    assert (whole_fit / "last.ckpt").read_bytes() == before


def test_a_finished_run_may_be_drawn_otherwise_and_moved_and_is_validated_and_calibrated_anew(fit_root, whole_fit):
    shutil.copytree(whole_fit, fit_root / "moved")
    fit(fit_root, "moved", "--model.guided_radius", "4", resume=True)
    before, after = (load_checkpoint(folder / "model.safetensors") for folder in (whole_fit, fit_root / "moved"))
    assert after.model.config == replace(before.model.config, guided_radius=4.0)
    for key, value in before.model.state_dict().items():
        assert torch.equal(value, after.model.state_dict()[key]), key
    figures = [
        json.loads((folder / "metrics.json").read_text())["val/auprc"] for folder in (whole_fit, fit_root / "moved")
    ]
    assert figures[0] != figures[1] and before.header["calibration"] != after.header["calibration"]
    assert load_config(fit_root / "moved" / "config.yaml").model.guided_radius == 4.0
    torch.save({"callbacks": {"RunState": {"finished": False}}}, fit_root / "moved" / "last.ckpt")
    with pytest.raises(FlowclasError, match=r"other settings of model\.guided_radius;"):
        fit(fit_root, "moved", "--model.guided_radius", "5", resume=True)


def test_a_run_that_its_time_ended_goes_on_with_more_of_it_as_if_it_had_not(fit_root, whole_fit):
    fit(fit_root, "timed", "--trainer.max_minutes", "1e-6")
    with pytest.raises(FlowclasError, match=r"other settings of model\.guided_radius;"):
        fit(fit_root, "timed", "--trainer.max_minutes", "5", "--model.guided_radius", "4", resume=True)
    fit(fit_root, "timed", resume=True)
    states = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (whole_fit, fit_root / "timed")]
    assert [state["global_step"] for state in states] == [9, 9]
    assert all(
        torch.equal(states[0]["state_dict"][key], states[1]["state_dict"][key]) for key in states[0]["state_dict"]
    )


def test_resuming_with_other_settings_names_them(fit_root, whole_fit):
    with pytest.raises(FlowclasError, match=r"other settings of loss\.alpha, optimiser\.lr;"):
        fit(fit_root, "whole", "--loss.alpha", "2", "--optimiser.lr", "1e-2", resume=True)


def test_resuming_where_other_scenes_would_be_held_out_is_refused(fit_root):
    shutil.copytree(fit_root / "train", fit_root / "growing")
    drawn = ("--data.train", f"[{fit_root}/growing]", "--data.val", "[]", "--trainer.max_minutes")
    given = ("--data.train", f"[{fit_root}/growing]", "--trainer.max_minutes")
    for name, data in (("grown", drawn), ("grown_beside", given)):
        fit(fit_root, name, *data, "1e-6")
    before = open_data(load_config(fit_root / "grown" / "config.yaml").data, seed=0)
    for i in range(4):
        shutil.copy(fit_root / "val" / f"{i:03d}.png", fit_root / "growing" / f"000{i}.png")
    after = open_data(load_config(fit_root / "grown" / "config.yaml").data, seed=0)
    assert {frame.path for frame in before.train} & {frame.path for frame in after.val}
    for minutes in ("1e-6", "5"):  # to be exported again, and to be gone on with
        with pytest.raises(FlowclasError, match=r"other files held out for validation: 2 frames and 1 objects, "):
            fit(fit_root, "grown", *drawn, minutes, resume=True)
    fit(fit_root, "grown_beside", *given, "5", resume=True)  # whose validation has folders of its own
    assert torch.load(fit_root / "grown_beside" / "last.ckpt", weights_only=True)["global_step"] == 4 * 3


def test_resuming_with_other_scenes_to_choose_by_is_refused(fit_root):
    scenes = fit_root / "chosen_by"
    for kind in ("images", "masks"):
        (scenes / kind).mkdir(parents=True)
    mask = np.zeros((64, 96), np.uint8)
    mask[10:30, 10:30] = 1
    for i in range(3):
        shutil.copy(fit_root / "val" / f"{i:03d}.png", scenes / "images" / f"{i}.png")
        size = Image.open(scenes / "images" / f"{i}.png").size
        Image.fromarray(np.resize(mask, size[::-1])).save(scenes / "masks" / f"{i}.png")
    options = ("--data.exposed_val", str(scenes), "--trainer.max_minutes")
    fit(fit_root, "chosen_by_scenes", *options, "1e-6")
    for kind in ("images", "masks"):
        (scenes / kind / "2.png").unlink()
    with pytest.raises(FlowclasError, match=r"validation: 3 scenes, names .* now there are 2 scenes, names "):
        fit(fit_root, "chosen_by_scenes", *options, "5", resume=True)


def test_nothing_to_resume_says_so(fit_root):
    with pytest.raises(FlowclasError, match="there is no run to resume"):
        fit(fit_root, "nowhere", resume=True)
