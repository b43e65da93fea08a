"""Class labels of inlier images: where their files lie, and their ids brought to 0..K-1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.data_config import LabelConfig
from flowclas_ros.training.layouts import parallel
from flowclas_ros.training.pseudo_outliers import IGNORE

# Cityscapes' own table: labelIds that are evaluated, in the order of their trainIds 0..18; all others are ignored.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_LAST_ID = 33


def label_path(image: Path, images: Path, labels: Path, config: LabelConfig) -> Path:
    """The label file of an image: of its name, at the same place below ``labels`` as it below ``images``.

    Raises:
        FlowclasError: there is none.
    """
    if config.encoding == "cityscapes":
        image = image.with_name(image.name.replace("_leftImg8bit.", "_gtFine_labelIds."))
    return parallel(image, images, labels, what="class label")


def read_class_map(path: Path, image: np.ndarray, classes: int, config: LabelConfig) -> np.ndarray:
    """The class of every pixel, (H, W) uint8: 0..classes-1, or 255 where it is ignored.

    Raises:
        FlowclasError: the file cannot be read, is no map of ids, is not of the image's size, or holds an id that is
            neither a class nor ignored.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "P", "I", "I;16"):
                raise FlowclasError(
                    f"class label '{path}' has colours (mode {picture.mode}); give images of one channel, class ids"
                )
            ids = np.asarray(picture).astype(np.int64)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise FlowclasError(f"class label '{path}' cannot be read: {error}") from error
    if ids.shape != image.shape[:2]:
        raise FlowclasError(
            f"class label '{path}' is {ids.shape[1]}x{ids.shape[0]} px, its image {image.shape[1]}x{image.shape[0]}; "
            "give labels of the images' size"
        )
    table = _table(classes, config)
    unknown = sorted(set(np.unique(ids).tolist()) - set(table))
    if unknown:
        raise FlowclasError(
            f"class label '{path}' holds id {unknown[0]}, which is none of model.classes {classes} and not in "
            "data.labels.ignore; raise the one or add it to the other"
        )
    lookup = np.zeros(max(table) + 1, np.uint8)
    lookup[list(table)] = list(table.values())
    return lookup[ids]


def _table(classes: int, config: LabelConfig) -> dict[int, int]:
    """From the ids in a file, none negative, to classes."""
    if config.encoding == "cityscapes":
        known = {i: IGNORE for i in range(CITYSCAPES_LAST_ID + 1)} | {i: k for k, i in enumerate(CITYSCAPES_IDS)}
    else:
        known = {i: i for i in range(classes)}
    return known | {i: IGNORE for i in config.ignore}
