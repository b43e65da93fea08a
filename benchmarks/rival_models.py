"""The rivals of rivals.py by name: neighbours on our own features here, anomalib's in files of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from anomalib_rivals import DraemRival, FastFlowRival, PatchCoreRival, UFlowRival
from efficientad_rival import EfficientAdRival
from rich.progress import track
from rival_base import Image, Rival, to_tensor
from torch import Tensor

from flowclas_ros.detection.images import read_image
from flowclas_ros.model.flowclas import FlowCLAS


class NeighbourMemory(FlowCLAS):
    """Our own features, whitened; the score is the mean distance to the nearest cells of a memory of normal ones."""

    remembered: Tensor
    neighbours = 5

    def grid_score(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h, w), the mean Euclidean distance to the nearest neighbours in the whitened space."""
        rows = self.latent(features)[0].movedim(1, -1)
        nearest = torch.cdist(rows.flatten(0, 2), self.remembered).topk(self.neighbours, dim=1, largest=False).values
        return nearest.mean(dim=1).view(rows.shape[:3])


class Neighbours(Rival):
    """k nearest neighbours over a random subset of the training cells; size and images are drawn as ours are."""

    settings = MappingProxyType({"neighbours": NeighbourMemory.neighbours, "memory_cells": 10_000, "whitened": True})

    def fit(self, seed: int) -> None:
        config = self.config.model.gaussian()
        self.model = NeighbourMemory(replace(config, flow=replace(config.flow, type="glow"))).eval()
        frames = self.spread(self.config.trainer.init_frames)
        self.model.flow.initialise([(self._features(path), None) for path in track(frames, "features")])
        generator = torch.Generator().manual_seed(seed)
        share = math.ceil(self.settings["memory_cells"] / len(frames))
        drawn = []
        for path in track(frames, "memory"):
            rows = self.model.latent(self._features(path))[0].movedim(1, -1).flatten(0, 2)
            drawn.append(rows[torch.randperm(len(rows), generator=generator)[:share]])
        self.model.register_buffer("remembered", torch.cat(drawn))

    def _features(self, path: Path) -> Tensor:
        return self.model.features(to_tensor(read_image(path)))

    @torch.inference_mode()
    def score(self, image: Image) -> npt.NDArray[np.float32]:
        return self.model(to_tensor(image))[0].numpy()


RIVALS: dict[str, Callable[..., Rival]] = {
    "k nearest neighbours": Neighbours,
    "FastFlow (anomalib)": FastFlowRival,
    "U-Flow (anomalib)": UFlowRival,
    "PatchCore (anomalib)": PatchCoreRival,
    "DRAEM (anomalib)": DraemRival,
    "EfficientAD (anomalib)": EfficientAdRival,
}
