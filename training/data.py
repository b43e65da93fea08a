"""Inlier frames, online pasting and the order of batches: all of it a function of (seed, epoch, index) alone."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from flowclas_ros.detection.images import read_image
from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.apart import require_apart, require_other_photos
from flowclas_ros.training.augment import augment, fit_into, jitter
from flowclas_ros.training.benchmarks import inlier_images
from flowclas_ros.training.config import FitConfig
from flowclas_ros.training.corruptions import maybe_corrupt
from flowclas_ros.training.data_config import DataConfig
from flowclas_ros.training.exposed import ExposedDataset, to_tensor
from flowclas_ros.training.labels import label_path, read_class_map
from flowclas_ros.training.layouts import part_of_name
from flowclas_ros.training.outlier_split import NoOutliers, draw_share, hold_out
from flowclas_ros.training.outliers import OutlierSource, open_outliers
from flowclas_ros.training.pseudo_outliers import IGNORE, INLIER, OUTLIER, PasteConfig, draw_count, paste, recompress

# Stands where an epoch's number does: validation pastes the same objects each time, as no training epoch does.
VALIDATION = 2**31 - 1

# image (H, W, 3) uint8, label (H, W) uint8, and on the label track classes (H, W) uint8
Item = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Frame:
    """An inlier image, the scene that it belongs to, and on the label track the file of its class labels."""

    path: Path
    scene: str
    classes: Path | None = None


@dataclass(frozen=True)
class FitData:
    """What a fit reads: training and validation frames, and the objects pasted into each.

    exposed_val: names of the scenes with outliers that the checkpoint is chosen by, where they are used.
    """

    train: list[Frame]
    val: list[Frame]
    outliers: OutlierSource
    outliers_val: OutlierSource
    exposed_val: tuple[str, ...] = ()

    def held_out(self) -> str:
        """What is validated with, how much and a digest of its names: of other files, another text."""
        objects = [self.outliers_val.origin(i) for i in range(len(self.outliers_val))]
        frames = [str(frame.path) for frame in self.val]
        return f"{len(frames)} frames and {len(objects)} objects, names {_digest([*frames, *objects])}"

    def chosen_by(self) -> str:
        """The same of the scenes with outliers that the checkpoint is chosen by."""
        return f"{len(self.exposed_val)} scenes, names {_digest(self.exposed_val)}"


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def open_data(data: DataConfig, seed: int) -> FitData:
    """Find all frames and objects, and hold out validation scenes and photos where none are given.

    Raises:
        FlowclasError: a folder is missing or without images, there is nothing to hold out, or what is held out is
            fitted on too.
    """
    train = list_frames(data.train, data, data.labels.train)
    if data.val:
        val = list_frames(data.val, data, data.labels.val)
    else:
        train, val = hold_out_scenes(train, data.val_share, seed)
    require_apart(data, [frame.path for frame in train], [frame.path for frame in val])
    exposed_val: tuple[str, ...] = ()
    if data.exposed_val is not None:
        exposed_val = tuple(pair.name for pair in ExposedDataset(data.exposed_val).pairs)
    if not data.outliers.given:  # a distillation may do without
        return FitData(train, val, NoOutliers(), NoOutliers(), exposed_val)
    outliers = open_outliers(data.outliers)
    if data.outliers_val.given:
        outliers_val = open_outliers(data.outliers_val)
        require_other_photos(outliers, outliers_val)
    else:
        outliers, outliers_val = hold_out(outliers, data.outliers_val_share, seed)
    return FitData(train, val, outliers, outliers_val, exposed_val)


def list_frames(folders: Sequence[str], config: DataConfig, labels: Sequence[str] = ()) -> list[Frame]:
    """All images of the folders or splits (see inlier_images), each with its scene: folder, sequence, block of frames.

    ``labels`` are folders of class labels parallel to the folders of images, or none.

    Raises:
        FlowclasError: a folder is missing or without images, sequence_regex does not match a name, or an image has no
            class labels where there should be.
    """
    sequences: dict[str, list[Path]] = defaultdict(list)
    classes: dict[Path, Path] = {}
    pattern = config.sequence_regex
    for folder, label_folder in zip_longest(folders, labels):
        for path in inlier_images(folder):
            sequence = part_of_name(path, pattern, "data.sequence_regex") if pattern is not None else ""
            sequences[f"{path.parent}/{sequence}"].append(path)
            if label_folder is not None:
                classes[path] = label_path(path, Path(folder), Path(label_folder), config.labels)
    frames = []
    for sequence, paths in sorted(sequences.items()):
        position = {path: number for number, path in enumerate(sorted(paths, key=_in_time))}
        # Listed as text is sorted: by that order a run's batches are drawn, begun by whatever version.
        for path in sorted(paths):
            block = f"#{position[path] // config.scene_block}" if config.scene_block else ""
            frames.append(Frame(path, sequence + block, classes.get(path)))
    return frames


def _in_time(path: Path) -> tuple[list[str | int], str]:
    """Sorts frame_2 before frame_10, with zeros in front or without."""
    parts = re.split("([0-9]+)", path.name)
    return [int(part) if part.isdecimal() else part for part in parts], path.name


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
    held = draw_share(scenes, share, seed)
    return [f for f in frames if f.scene not in held], [f for f in frames if f.scene in held]


class InlierDataset(Dataset[dict[str, Any]]):
    """Frames as they are: ``image`` (3, H, W) uint8 RGB, ``label`` (H, W) uint8 of zeros."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = list(frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = read_image(self.frames[index].path)
        return {"image": to_tensor(image), "label": torch.zeros(image.shape[:2], dtype=torch.uint8)}


class MixDataset(Dataset[dict[str, Any]]):
    """Inlier scenes with objects pasted, afresh for every (epoch, index).

    An item is ``image`` (3, H, W) uint8 RGB and ``label`` (H, W) uint8 (0 inlier, 1 pasted, 255 ignore); with
    ``auxiliary`` also ``out_image`` (3, H', W') and ``out_label`` (H', W'), an outlier's own picture; with ``classes``
    (their number) also ``classes`` (H, W) uint8, each pixel's class, 255 where it has none or an object covers it.
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
        classes: int = 0,
    ) -> None:
        self.classes = classes
        self.frames, self.outliers = list(frames), outliers
        self.data, self.paste_config = data, paste_config
        self.seed, self.augment, self.auxiliary = seed, augment, auxiliary
        self.exposed = ExposedDataset(data.exposed) if augment and data.exposed is not None else None

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (VALIDATION, key)
        rng = np.random.default_rng([self.seed, epoch, index])
        if self.exposed and rng.random() < self.data.exposed_share:
            image, label, class_map = self._exposed(self.exposed, rng)
        else:
            image, label, class_map = self._pasted(index, rng)
        if self.augment:
            image = maybe_corrupt(image, self.data.corruptions, rng)  # the objects stand in the same weather
        item = {"image": to_tensor(image), "label": torch.from_numpy(label)}
        if class_map is not None:
            item["classes"] = torch.from_numpy(np.where(label == INLIER, class_map, IGNORE))
        if self.auxiliary:
            picture, inside = self.outliers.image(int(rng.integers(len(self.outliers))))
            picture, inside = fit_into(picture, inside, self.data.x_out_size)
            item |= {"out_image": to_tensor(picture), "out_label": torch.from_numpy(inside)}
        return item

    def _read(self, frame: Frame) -> tuple[np.ndarray, np.ndarray | None]:
        image = read_image(frame.path)
        if not self.classes or frame.classes is None:
            return image, None
        return image, read_class_map(frame.classes, image, self.classes, self.data.labels)

    def _pasted(self, index: int, rng: np.random.Generator) -> Item:
        image, class_map = self._read(self.frames[index])
        if self.augment:
            image, class_map = augment(image, self.data, rng, class_map)
        count = draw_count(self.paste_config, rng) if len(self.outliers) else 0
        chosen = rng.integers(max(1, len(self.outliers)), size=count)
        image, label = paste(image, [self.outliers.cutout(int(i)) for i in chosen], self.paste_config, rng)
        return recompress(image, self.paste_config, rng) if count else image, label, class_map

    def name(self, index: int) -> str:
        """The frame's file name."""
        return self.frames[index].path.name

    def require_outliers(self) -> None:
        """Raises FlowclasError when no scene gets an object as validation pastes them."""
        if not any((self[index]["label"] == OUTLIER).any() for index in range(len(self))):
            raise FlowclasError(
                f"none of the {len(self)} validation scenes got an object, so nothing can be told from the normal "
                f"world: raise paste.min_objects (now {self.paste_config.min_objects}) or paste.max_size (now "
                f"{self.paste_config.max_size}), or give more scenes"
            )

    def _exposed(self, scenes: ExposedDataset, rng: np.random.Generator) -> Item:
        """A scene with outliers in it, mirrored and jittered as the others are; size and place stay as they are."""
        image, label = scenes.read(int(rng.integers(len(scenes))))
        if rng.random() < self.data.flip:
            image, label = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(label[:, ::-1])
        if self.data.jitter:
            image = jitter(image, self.data.jitter, rng)
        return image, label, np.full_like(label, IGNORE) if self.classes else None


def training_set(config: FitConfig, data: FitData) -> MixDataset:
    """Training scenes, augmented, with objects pasted afresh every epoch."""
    auxiliary = config.loss.auxiliary and config.loss.contrastive != "none"
    return _mix(config, data.train, data.outliers, augment=True, auxiliary=auxiliary)


def validation_set(config: FitConfig, data: FitData) -> MixDataset | ExposedDataset:
    """Scenes that hold outliers where there are some, or else the validation frames as they are, with the same held-out
    objects pasted at the same places every time.
    """
    if config.data.exposed_val is not None:
        return ExposedDataset(config.data.exposed_val)
    return _mix(config, data.val, data.outliers_val, augment=False, auxiliary=False)


def _mix(config: FitConfig, frames: list[Frame], outliers: OutlierSource, **how: bool) -> MixDataset:
    classes = config.model.classes
    return MixDataset(frames, outliers, config.data, config.paste, seed=config.seed, classes=classes, **how)
