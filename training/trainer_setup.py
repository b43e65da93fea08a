"""What every command that trains tells Lightning: the device, the arithmetic, and to keep its tips to itself."""

from __future__ import annotations

import logging
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.batches import StepBatches
from flowclas_ros.training.config import OptimiserConfig, TrainerConfig

CPU_INFO = Path("/proc/cpuinfo")


def check_processes(trainer: TrainerConfig) -> None:
    """Raise FlowclasError where torchrun or srun started more processes than are to train together, or fewer: each
    would train by itself, on the same device into the same files, or a part of the run be left out. And where nothing
    started any on the other nodes, for which this one would wait half an hour.
    """
    launcher, started = "", None
    if TorchElasticEnvironment.detect():
        launcher, started = "torchrun", os.environ.get("WORLD_SIZE")
    elif SLURMEnvironment.detect():
        launcher, started = "srun", os.environ.get("SLURM_STEP_NUM_TASKS")  # none in a batch script without srun
    if started is None:
        if trainer.nodes > 1 and "MASTER_ADDR" not in os.environ:  # which whoever brings nodes together by hand sets
            raise FlowclasError(
                f"trainer.nodes is {trainer.nodes}, and neither torchrun nor srun started this: start the same command "
                "with one of them on every node, or set trainer.nodes 1"
            )
        return
    if int(started) != trainer.devices * trainer.nodes:
        raise FlowclasError(
            f"{launcher} started {started} process(es), and trainer.devices {trainer.devices} x trainer.nodes "
            f"{trainer.nodes} make {trainer.devices * trainer.nodes}; set them to what is started"
        )


def hardware(trainer: TrainerConfig, device: torch.device) -> dict[str, Any]:
    """Lightning's arguments for device and precision. Raises FlowclasError where they do not go together.

    A CPU without bfloat16 units takes fp32 in place of bf16, and it is said.
    """
    precision = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[trainer.precision]
    if trainer.precision == "fp16" and device.type == "cpu":
        raise FlowclasError("trainer.precision fp16 needs a GPU; use fp32 or bf16 on a CPU")
    if trainer.precision == "bf16" and device.type == "cpu" and not _cpu_has_bfloat16():
        rank_zero_only(print)("this CPU has no units for bf16: trainer.precision is fp32, which is faster here")
        precision = "32-true"
    named = device.type == "cuda" and ":" in trainer.device
    if named and trainer.devices > 1:
        raise FlowclasError(f"trainer.device {trainer.device} is one GPU, trainer.devices {trainer.devices}; use cuda")
    if device.type == "cuda" and trainer.devices > torch.cuda.device_count():
        raise FlowclasError(
            f"trainer.devices is {trainer.devices}, and PyTorch sees {torch.cuda.device_count()} GPU(s) here; use as "
            "many as there are on each node"
        )
    return {
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "devices": [device.index] if named else trainer.devices,
        "num_nodes": trainer.nodes,
        "precision": precision,
    }


def _cpu_has_bfloat16() -> bool:
    """By what Linux says of the CPU, x86 or ARM; elsewhere taken for granted."""
    if not CPU_INFO.is_file():
        return True
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", CPU_INFO.read_text()) is not None


@contextmanager
def worker_errors() -> Iterator[None]:
    """What fails in a process that reads images, in one line, as it is told where there are no such processes.

    Raises:
        FlowclasError: as it was raised there, without the traceback that PyTorch puts before its text; or such a
            process was killed, as where memory is short.
    """
    try:
        yield
    except FlowclasError as error:
        if not str(error).startswith("Caught "):
            raise
        raise FlowclasError(str(error).rpartition("FlowclasError: ")[2].strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise FlowclasError(
            f"a process that reads images was lost ({' '.join(str(error).split())}); set a smaller data.workers or "
            "data.batch_size, or give it more memory (in a container shared memory: docker run --shm-size 8g)"
        ) from error


def quiet_lightning() -> None:
    """Its tips are for its own users; what matters is said here or raised."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")


def adamw(
    parameters: Iterable[nn.Parameter], config: OptimiserConfig, batches: StepBatches
) -> OptimizerLRSchedulerConfig:
    """Lightning's answer to ``configure_optimizers``: AdamW on what is trained, with ``lr_factor`` at every step."""
    trained = [p for p in parameters if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
    warmup = round(config.warmup_epochs * batches.steps_per_epoch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: lr_factor(step, warmup, len(batches)))
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def lr_factor(step: int, warmup: int, total: int) -> float:
    """Learning rate at a step as a share of its top: linear to 1 over ``warmup`` steps, then a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
