"""What every command that trains tells Lightning: its arithmetic and the learning rate's course."""

import itertools

import pytest
import torch

from flowclas_ros.training import trainer_setup
from flowclas_ros.training.config import TrainerConfig
from flowclas_ros.training.trainer_setup import lr_factor


@pytest.mark.parametrize(("flags", "precision"), [("avx2 avx512f", "32-true"), ("avx512f avx512_bf16", "bf16-mixed")])
def test_a_cpu_without_bfloat16_takes_fp32_and_says_so(flags, precision, tmp_path, monkeypatch, capsys):
    (tmp_path / "cpuinfo").write_text(f"flags : fpu sse2 {flags}\n")
    monkeypatch.setattr(trainer_setup, "CPU_INFO", tmp_path / "cpuinfo")
    chosen = trainer_setup.hardware(TrainerConfig(precision="bf16"), torch.device("cpu"))["precision"]
    assert chosen == precision
    assert ("is fp32, which is faster" in capsys.readouterr().out) == (precision == "32-true")


def test_the_learning_rate_warms_up_and_falls_to_zero():
    factors = [lr_factor(step, 4, 20) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0 and abs(factors[20]) < 1e-12
    assert all(a >= b for a, b in itertools.pairwise(factors[4:]))
