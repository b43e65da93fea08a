"""Inlier frames, online pasting and the order of batches: all of it a function of (seed, epoch, index) alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from flowclas_ros.detection.images import list_images, read_image, read_mask
from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.config import DataConfig, FitConfig
from flowclas_ros.training.outliers import NoOutliers, OutlierSource, hold_out, open_outliers
from flowclas_ros.training.pseudo_outliers import IGNORE, PasteConfig, draw_count, paste

# Stands where an epoch's number does: validation pastes the same objects each time, as no training epoch does.
VALIDATION = 2**31 - 1


@dataclass(frozen=True)
class Frame:
    """An inlier image and the scene that it belongs to."""

    path: Path
    scene: str


@dataclass(frozen=True)
class FitData:
    """What a fit reads: training and validation frames, and the objects pasted into each."""

    train: list[Frame]
    val: list[Frame]
    outliers: OutlierSource
    outliers_val: OutlierSource


def open_data(data: DataConfig, seed: int) -> FitData:
    """Find all frames and objects, and hold out validation scenes and photos where none are given.

    Raises:
        FlowclasError: a folder is missing or without images, or there is nothing to hold out.
    """
    train = list_frames(data.train, data)
    if data.val:
        val = list_frames(data.val, data)
    else:
        train, val = hold_out_scenes(train, data.val_share, seed)
    if not data.outliers.given:  # a distillation may do without
        return FitData(train, val, NoOutliers(), NoOutliers())
    outliers = open_outliers(data.outliers)
    if data.outliers_val.given:
        outliers_val = open_outliers(data.outliers_val)
    else:
        outliers, outliers_val = hold_out(outliers, data.outliers_val_share, seed)
    return FitData(train, val, outliers, outliers_val)


def list_frames(folders: Sequence[str], config: DataConfig) -> list[Frame]:
    """All images below the folders, each with its scene: folder, sequence, and block of consecutive frames.

    Raises:
        FlowclasError: a folder is missing or without images, or sequence_regex does not match a name.
    """
    sequences: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for path in list_images(Path(folder)):
            sequences[f"{path.parent}/{_sequence(path, config.sequence_regex)}"].append(path)
    frames = []
    for sequence, paths in sorted(sequences.items()):
        for position, path in enumerate(sorted(paths)):
            block = f"#{position // config.scene_block}" if config.scene_block else ""
            frames.append(Frame(path, sequence + block))
    return frames


def _sequence(path: Path, pattern: str | None) -> str:
    if pattern is None:
        return ""
    try:
        found = re.search(pattern, path.name)
    except re.error as error:
        raise FlowclasError(f"data.sequence_regex '{pattern}' is no regular expression: {error}") from error
    if not found:
        raise FlowclasError(f"data.sequence_regex '{pattern}' does not match the file name '{path.name}'")
    return found.group(1) if found.groups() else found.group(0)


def hold_out_scenes(frames: Sequence[Frame], share: float, seed: int) -> tuple[list[Frame], list[Frame]]:
    """Split by scene: (the rest, about ``share`` of the scenes).

    Raises:
        FlowclasError: there is only one scene.
    """
    scenes = sorted({frame.scene for frame in frames})
    if len(scenes) < 2:
        raise FlowclasError(
            f"data.train holds one scene only ('{scenes[0]}'), so none can be held out for validation; "
            "give data.val, or cut the sequence with data.scene_block"
        )
    count = min(max(1, round(share * len(scenes))), len(scenes) - 1)
    order = np.random.default_rng(seed).permutation(len(scenes))
    held = {scenes[i] for i in order[:count]}
    return [f for f in frames if f.scene not in held], [f for f in frames if f.scene in held]


class InlierDataset(Dataset[dict[str, Any]]):
    """Frames as they are: ``image`` (3, H, W) uint8 RGB, ``label`` (H, W) uint8 of zeros."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = list(frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = read_image(self.frames[index].path)
        return {"image": _to_tensor(image), "label": torch.zeros(image.shape[:2], dtype=torch.uint8)}


class MixDataset(Dataset[dict[str, Any]]):
    """Inlier scenes with objects pasted, afresh for every (epoch, index).

    An item is ``image`` (3, H, W) uint8 RGB and ``label`` (H, W) uint8 (0 inlier, 1 pasted, 255 ignore); with
    ``auxiliary`` also ``out_image`` (3, H', W') and ``out_label`` (H', W'), an outlier's own picture.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        outliers: OutlierSource,
        data: DataConfig,
        paste_config: PasteConfig,
        *,
        seed: int,
        augment: bool,
        auxiliary: bool,
    ) -> None:
        self.frames, self.outliers = list(frames), outliers
        self.data, self.paste_config = data, paste_config
        self.seed, self.augment, self.auxiliary = seed, augment, auxiliary
        self.exposed = open_exposed(data.exposed) if augment and data.exposed is not None else []

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (VALIDATION, key)
        rng = np.random.default_rng([self.seed, epoch, index])
        if self.exposed and rng.random() < self.data.exposed_share:
            image, label = self._exposed(rng)
        else:
            image, label = self._pasted(index, rng)
        item = {"image": _to_tensor(image), "label": torch.from_numpy(label)}
        if self.auxiliary:
            picture, inside = self.outliers.image(int(rng.integers(len(self.outliers))))
            picture, inside = fit_into(picture, inside, self.data.x_out_size)
            item |= {"out_image": _to_tensor(picture), "out_label": torch.from_numpy(inside)}
        return item

    def _pasted(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(self.frames[index].path)
        if self.augment:
            image = augment(image, self.data, rng)
        count = draw_count(self.paste_config, rng) if len(self.outliers) else 0
        chosen = rng.integers(max(1, len(self.outliers)), size=count)
        return paste(image, [self.outliers.cutout(int(i)) for i in chosen], self.paste_config, rng)

    def _exposed(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A scene with outliers in it, mirrored and jittered as the others are; size and place stay as they are."""
        path, mask_path = self.exposed[int(rng.integers(len(self.exposed)))]
        image = read_image(path)
        label = read_mask(mask_path, size_of=image, image_name=str(path))
        if rng.random() < self.data.flip:
            image, label = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(label[:, ::-1])
        return (_jitter(image, self.data.jitter, rng) if self.data.jitter else image), label


def open_exposed(folder: str) -> list[tuple[Path, Path]]:
    """Images below ``<folder>/images`` with their masks below ``<folder>/masks``, by equal relative path.

    Raises FlowclasError when a folder is missing or without images, or an image has no mask.
    """
    images, masks = Path(folder) / "images", Path(folder) / "masks"
    pairs = [(path, masks / path.relative_to(images).with_suffix(".png")) for path in list_images(images)]
    for image, mask in pairs:
        if not mask.is_file():
            raise FlowclasError(f"data.exposed: image {image} has no mask {mask}")
    return pairs


def training_set(config: FitConfig, data: FitData) -> MixDataset:
    """Training scenes, augmented, with objects pasted afresh every epoch."""
    auxiliary = config.loss.auxiliary and config.loss.contrastive != "none"
    return MixDataset(
        data.train, data.outliers, config.data, config.paste, seed=config.seed, augment=True, auxiliary=auxiliary
    )


def validation_set(config: FitConfig, data: FitData) -> MixDataset:
    """Validation scenes as they are, with the same held-out objects pasted at the same places every time."""
    return MixDataset(
        data.val, data.outliers_val, config.data, config.paste, seed=config.seed, augment=False, auxiliary=False
    )


def augment(image: np.ndarray, config: DataConfig, rng: np.random.Generator) -> np.ndarray:
    """Enlarge, crop, mirror and change the colours of an inlier image (H, W, 3) uint8."""
    low, high = config.crop_scale
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if config.crop is not None:
        # Never smaller than the crop: a border of padding is no part of the normal world.
        factor = max(factor, config.crop[0] / image.shape[0], config.crop[1] / image.shape[1])
    if abs(factor - 1) > 1e-6:
        size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    if config.crop is not None:
        height, width = config.crop
        top = int(rng.integers(image.shape[0] - height + 1))
        left = int(rng.integers(image.shape[1] - width + 1))
        image = image[top : top + height, left : left + width]
    if rng.random() < config.flip:
        image = image[:, ::-1]
    return _jitter(image, config.jitter, rng) if config.jitter else np.ascontiguousarray(image)


def _jitter(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    brightness, contrast, saturation = rng.uniform(1 - amount, 1 + amount, 3).astype(np.float32)
    x = image.astype(np.float32)
    mean = x.mean()
    x = ((x - mean) * contrast + mean) * brightness
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    x = grey[..., None] + saturation * (x - grey[..., None])
    return np.clip(x + 0.5, 0, 255).astype(np.uint8)


def fit_into(image: np.ndarray, label: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Scale to the largest that fits ``size`` (height, width), aspect kept; the rest repeats the border, label 255."""
    height, width = size
    factor = min(height / image.shape[0], width / image.shape[1])
    new = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    image = cv2.resize(image, new, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    label = cv2.resize(label, new, interpolation=cv2.INTER_NEAREST)
    bottom, right = height - new[1], width - new[0]
    image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return image, cv2.copyMakeBorder(label, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=IGNORE)


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch; images of different sizes are padded at the right and bottom, with label 255 there."""
    batch: dict[str, Any] = {}
    for image_key, label_key in (("image", "label"), ("out_image", "out_label")):
        if image_key in items[0]:
            pairs = [_pad(item[image_key], item[label_key], items, image_key) for item in items]
            batch[image_key] = torch.stack([image for image, _ in pairs])
            batch[label_key] = torch.stack([label for _, label in pairs])
    return batch


def _pad(image: Tensor, label: Tensor, items: Sequence[dict[str, Any]], key: str) -> tuple[Tensor, Tensor]:
    height, width = (max(item[key].shape[axis] for item in items) for axis in (1, 2))
    bottom, right = height - image.shape[1], width - image.shape[2]
    if not bottom and not right:
        return image, label
    padded = np.pad(image.numpy(), ((0, 0), (0, bottom), (0, right)), mode="edge")
    return torch.from_numpy(padded), torch.nn.functional.pad(label, (0, right, 0, bottom), value=IGNORE)


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


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
            first = position * self.batch_size * self.world + self.rank
            chosen = [(first + i * self.world) % self.frames for i in range(self.batch_size)]
            yield [(epoch, int(order[i])) for i in chosen]
