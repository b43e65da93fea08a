"""Changes of a picture that keep what it shows: size, crop, mirror, colours; its labels go along."""

from __future__ import annotations

import cv2
import numpy as np

from flowclas_ros.training.data_config import DataConfig
from flowclas_ros.training.pseudo_outliers import IGNORE


def augment(
    image: np.ndarray, config: DataConfig, rng: np.random.Generator, class_map: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Enlarge, crop, mirror and change the colours of an inlier image (H, W, 3) uint8; its classes (H, W) go along."""
    maps = [image] if class_map is None else [image, class_map]
    low, high = config.crop_scale
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    height, width = config.crop or image.shape[:2]
    # Never smaller than the crop: a border of padding is no part of the normal world.
    factor = max(factor, height / image.shape[0], width / image.shape[1])
    if abs(factor - 1) > 1e-6:
        size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
        smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        maps = [cv2.resize(m, size, interpolation=smooth if m.ndim == 3 else cv2.INTER_NEAREST) for m in maps]
    if maps[0].shape[:2] != (height, width):
        top = int(rng.integers(maps[0].shape[0] - height + 1))
        left = int(rng.integers(maps[0].shape[1] - width + 1))
        maps = [m[top : top + height, left : left + width] for m in maps]
    if rng.random() < config.flip:
        maps = [m[:, ::-1] for m in maps]
    image, *rest = (np.ascontiguousarray(m) for m in maps)
    if config.jitter:
        image = jitter(image, config.jitter, rng)
    return image, rest[0] if rest else None


def jitter(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation of (H, W, 3) uint8 RGB changed by factors up to 1 +- ``amount``."""
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
