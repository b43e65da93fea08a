"""Items to batches, and images of unequal size in one: padded to be together, and taken each at its own size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowclas_ros.training.pseudo_outliers import IGNORE


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch; images of different sizes are padded at the right and bottom, with label 255 there.

    ``size`` (B, 2) holds each image's own height and width.
    """
    batch: dict[str, Any] = {"size": torch.tensor([item["image"].shape[1:] for item in items])}
    for image_key, label_key in (("image", "label"), ("out_image", "out_label")):
        if image_key in items[0]:
            pairs = [_pad(item[image_key], item[label_key], items, image_key) for item in items]
            batch[image_key] = torch.stack([image for image, _ in pairs])
            batch[label_key] = torch.stack([label for _, label in pairs])
    if "classes" in items[0]:
        batch["classes"] = torch.stack([_pad(item["image"], item["classes"], items, "image")[1] for item in items])
    return batch


def _pad(image: Tensor, label: Tensor, items: Sequence[dict[str, Any]], key: str) -> tuple[Tensor, Tensor]:
    height, width = (max(item[key].shape[axis] for item in items) for axis in (1, 2))
    bottom, right = height - image.shape[1], width - image.shape[2]
    if not bottom and not right:
        return image, label
    padded = np.pad(image.numpy(), ((0, 0), (0, bottom), (0, right)), mode="edge")
    return torch.from_numpy(padded), torch.nn.functional.pad(label, (0, right, 0, bottom), value=IGNORE)


def by_size(sizes: Tensor) -> list[tuple[tuple[int, int], list[int]]]:
    """Heights and widths (B, 2) of a batch's images: each that occurs, with the places of the images that have it."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, (height, width) in enumerate(sizes.tolist()):
        places.setdefault((height, width), []).append(place)
    return list(places.items())
