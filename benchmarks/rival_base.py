"""What every rival of rivals.py has: fit on frames of the normal world, then score one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from flowclas_ros.training.config import FitConfig

Image = npt.NDArray[np.uint8]
MINUTES = 3.0  # of processor time that a rival's gradient steps may use: the budget, whatever else the machine does


class Missing(Exception):
    """A rival that cannot be had here; the text says why."""


class Rival(ABC):
    """A method of anomaly segmentation.

    Args:
        config: of our own fit on the same data: it names frames, backbone and working size.
        frames: the training images.
        minutes: of processor time for gradient steps, of a rival that takes them.
        quick: a few frames and steps, to see whether it runs.
    """

    model: nn.Module  # once fitted: all that a checkpoint would have to hold
    settings: Mapping[str, Any] = MappingProxyType({})  # what a reader of the table should know

    def __init__(
        self, config: FitConfig, frames: Sequence[Path], *, minutes: float = MINUTES, quick: bool = False
    ) -> None:
        small = replace(config, model=replace(config.model, short_side=160))
        self.config, self.quick = small if quick else config, quick
        self.minutes = 0.0 if quick else minutes
        self.frames = list(frames)[:: max(1, len(frames) // 8)] if quick else list(frames)

    @abstractmethod
    def fit(self, seed: int) -> None:
        """Fit on the frames."""

    @abstractmethod
    def score(self, image: Image) -> npt.NDArray[np.float32]:
        """(H, W, 3) uint8 RGB -> (H, W) float32, higher where it is more anomalous."""

    def spread(self, count: int) -> list[Path]:
        """At most so many of the frames, evenly spread."""
        chosen = np.unique(np.linspace(0, len(self.frames) - 1, count).round().astype(int))
        return [self.frames[i] for i in chosen]


def to_tensor(image: Image) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
