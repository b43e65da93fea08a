"""What every command that trains tells Lightning: the device, the arithmetic, and to keep its tips to itself."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.config import TrainerConfig


def hardware(trainer: TrainerConfig, device: torch.device) -> dict[str, Any]:
    """Lightning's arguments for device and precision. Raises FlowclasError where they do not go together."""
    precision = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[trainer.precision]
    if trainer.precision == "fp16" and device.type == "cpu":
        raise FlowclasError("trainer.precision fp16 needs a GPU; use fp32 or bf16 on a CPU")
    named = device.type == "cuda" and ":" in trainer.device
    if named and trainer.devices > 1:
        raise FlowclasError(f"trainer.device {trainer.device} is one GPU, trainer.devices {trainer.devices}; use cuda")
    return {
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "devices": [device.index] if named else trainer.devices,
        "num_nodes": trainer.nodes,
        "precision": precision,
    }


def quiet_lightning() -> None:
    """Its tips are for its own users; what matters is said here or raised."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
