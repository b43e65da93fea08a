"""What every command that trains tells Lightning: its arithmetic and the learning rate's course."""

import itertools

import pytest
import torch

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training import trainer_setup
from flowclas_ros.training.config import TrainerConfig
from flowclas_ros.training.trainer_setup import check_processes, lr_factor

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2"}
SRUN = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "fit", "SLURM_STEP_NUM_TASKS": "2"}


@pytest.mark.parametrize(("flags", "precision"), [("avx2 avx512f", "32-true"), ("avx512f avx512_bf16", "bf16-mixed")])
def test_a_cpu_without_bfloat16_takes_fp32_and_says_so(flags, precision, tmp_path, monkeypatch, capsys):
    (tmp_path / "cpuinfo").write_text(f"flags : fpu sse2 {flags}\n")
    monkeypatch.setattr(trainer_setup, "CPU_INFO", tmp_path / "cpuinfo")
    chosen = trainer_setup.hardware(TrainerConfig(precision="bf16"), torch.device("cpu"))["precision"]
    assert chosen == precision
    assert ("is fp32, which is faster" in capsys.readouterr().out) == (precision == "32-true")


def test_more_gpus_than_there_are_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert trainer_setup.hardware(TrainerConfig(device="cuda", devices=2), torch.device("cuda", 0))["devices"] == 2
    with pytest.raises(FlowclasError, match=r"trainer\.devices is 3, and PyTorch sees 2 GPU"):
        trainer_setup.hardware(TrainerConfig(device="cuda", devices=3), torch.device("cuda", 0))


def test_the_learning_rate_warms_up_and_falls_to_zero():
    factors = [lr_factor(step, 4, 20) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0 and abs(factors[20]) < 1e-12
    assert all(a >= b for a, b in itertools.pairwise(factors[4:]))


@pytest.mark.parametrize(("launcher", "environment"), [("torchrun", TORCHRUN), ("srun", SRUN)])
def test_more_or_fewer_processes_than_the_options_say_are_refused(launcher, environment, monkeypatch):
    """Lightning lets each train by itself, on the first device and into the same files."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for options in (TrainerConfig(), TrainerConfig(devices=2, nodes=2)):
        with pytest.raises(FlowclasError, match=rf"{launcher} started 2 .*trainer\.devices {options.devices} x"):
            check_processes(options)
    check_processes(TrainerConfig(devices=2))
    check_processes(TrainerConfig(nodes=2))


def test_several_nodes_that_nothing_has_started_are_refused_and_not_waited_for(monkeypatch):
    several = TrainerConfig(nodes=2)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for environment in ({}, {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "fit"}):  # on a desk; in a batch script, no srun
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(FlowclasError, match=r"trainer\.nodes is 2, and neither torchrun nor srun started this"):
            check_processes(several)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")  # by hand, on each
    check_processes(several)


def test_a_batch_script_or_a_shell_of_slurm_starts_one_process_whatever_it_has_reserved(monkeypatch):
    for name, value in {**SRUN, "SLURM_STEP_NUM_TASKS": "1"}.items():
        monkeypatch.setenv(name, value)
    check_processes(TrainerConfig())
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    check_processes(TrainerConfig())
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    check_processes(TrainerConfig(devices=2))  # which Lightning starts itself
