"""Scenes that hold outliers already, each with its mask: to train on beside pasted ones, or to choose by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flowclas_ros.detection.images import read_image
from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.benchmarks import pair_folders


class ExposedDataset(Dataset[dict[str, Any]]):
    """A folder's images/ with its masks/: ``image`` (3, H, W) uint8 RGB, ``label`` (H, W) uint8 (0, 1, 255 ignore).

    Raises:
        FlowclasError: a folder is missing or empty, or an image has no mask or several.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.pairs = pair_folders(Path(folder) / "images", Path(folder) / "masks")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = self.read(index)
        return {"image": to_tensor(image), "label": torch.from_numpy(label)}

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) and label (H, W)."""
        image = read_image(self.pairs[index].image)
        return image, self.pairs[index].read_mask(image)

    def name(self, index: int) -> str:
        """The image's file name."""
        return self.pairs[index].image.name

    def require_outliers(self) -> None:
        """Raises FlowclasError when no mask marks an outlier."""
        if not any((self.read(index)[1] == 1).any() for index in range(len(self))):
            raise FlowclasError(
                f"no mask in '{self.folder}/masks' marks an outlier (1), so nothing can be told from the normal world: "
                "give scenes that hold some"
            )


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) to (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
