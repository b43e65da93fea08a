"""Which items make a step's batch, and images of unequal size in one: padded to be together, and taken each at its own
size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

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


class StepBatches(Sampler[list[tuple[int, int]]]):
    """The batches of a whole run, step by step, each a list of (epoch, index): a step's batch needs no history.

    A run can therefore begin at any step, and a resumed one reads what the uninterrupted one would have read. The
    order is a new permutation each epoch; an epoch's last batch is filled up from its beginning.
    """

    def __init__(
        self, frames: int, batch_size: int, *, epochs: int, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.frames, self.batch_size, self.seed = frames, batch_size, seed
        self.start, self.rank, self.world = start, rank, world
        self.steps_per_epoch = -(-frames // (batch_size * world))
        self.total = self.steps_per_epoch * epochs

    def __len__(self) -> int:
        """Steps of the whole run, those before ``start`` included."""
        return self.total

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, order_epoch = np.empty(0, int), -1
        for step in range(self.start, self.total):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = np.random.default_rng([self.seed, epoch]).permutation(self.frames), epoch
            # The ranks' batches one after another are the batch of a single process.
            first = (position * self.world + self.rank) * self.batch_size
            chosen = [(first + i) % self.frames for i in range(self.batch_size)]
            yield [(epoch, int(order[i])) for i in chosen]
