"""Sources of pseudo-outliers: RGBA cut-outs, images with masks, COCO; one small protocol for all."""

from __future__ import annotations

import contextlib
import io
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from flowclas_ros.detection.images import list_images, read_image
from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.data_config import OutlierConfig
from flowclas_ros.training.layouts import parallel, part_of_name

# Photos with any of these are never outliers of a road scene (FlowCLAS, section 4.1; shared with PEBAL and RPL).
ROAD_CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic light", "stop sign")
MIN_OBJECT_PX = 100  # a smaller object is a smudge at any scale that it can be pasted at
STRAY_PX = 10  # so many pixels of value 1 make no label mask of a black-and-white one with soft edges
CACHE_BYTES = 128_000_000  # of decoded objects kept in memory, in each worker


class OutlierSource(Protocol):
    """Objects that do not belong to the inlier world."""

    def __len__(self) -> int:
        """Number of objects."""
        ...

    def cutout(self, index: int) -> np.ndarray:
        """The object alone: (h, w, 4) uint8 RGBA, cropped to its box."""
        ...

    def image(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The picture it is from: RGB (H, W, 3) uint8, and (H, W) uint8: 1 the object, 255 anything else."""
        ...

    def origin(self, index: int) -> str:
        """Name of the photo it is from; objects of one photo stay on one side of a hold-out."""
        ...


class _Cache:
    """The last few results of a function of an index; not copied to workers, each fills its own."""

    def __init__(self, function: Callable[[int], Any], limit: int = CACHE_BYTES) -> None:
        self.function, self.limit, self.used = function, limit, 0
        self.items: OrderedDict[int, Any] = OrderedDict()

    def __call__(self, index: int) -> Any:
        if index not in self.items:
            self.items[index] = self.function(index)
            self.used += _bytes(self.items[index])
            while self.used > self.limit and len(self.items) > 1:
                self.used -= _bytes(self.items.popitem(last=False)[1])
        self.items.move_to_end(index)
        return self.items[index]


def _bytes(value: np.ndarray | tuple[np.ndarray, ...]) -> int:
    return value.nbytes if isinstance(value, np.ndarray) else sum(part.nbytes for part in value)


def _origin(path: Path, pattern: str | None) -> str:
    return path.name if pattern is None else part_of_name(path, pattern, "outliers.group_regex")


class CutoutFolder:
    """Every RGBA image of a folder is one object.

    Raises:
        FlowclasError: the folder holds no image, or an image has no alpha channel or is transparent throughout.
    """

    def __init__(self, folder: str | Path, group_regex: str | None = None) -> None:
        self.paths = list_images(Path(folder))
        self.origins = [_origin(path, group_regex) for path in self.paths]
        self.cutout: Callable[[int], np.ndarray] = _Cache(self._read)

    def __len__(self) -> int:
        return len(self.paths)

    def _read(self, index: int) -> np.ndarray:
        path = self.paths[index]
        try:
            with Image.open(path) as picture:
                if "A" not in picture.getbands() and "transparency" not in picture.info:
                    raise FlowclasError(f"cut-out '{path}' has no alpha channel; cut-outs are RGBA images")
                rgba = np.asarray(picture.convert("RGBA"))
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise FlowclasError(f"cut-out '{path}' cannot be read: {error}") from error
        if not rgba[..., 3].any():
            raise FlowclasError(f"cut-out '{path}' is transparent throughout; remove it")
        return _crop_to_box(rgba)

    def image(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The object on a plain ground of its own mean colour: a cut-out has no picture around it."""
        rgba = self.cutout(index)
        height, width = rgba.shape[:2]
        alpha = rgba[..., 3:].astype(np.float32) / 255
        mean = (rgba[..., :3] * alpha).sum((0, 1)) / alpha.sum()
        margin_y, margin_x = height // 8 + 1, width // 8 + 1
        picture = np.empty((height + 2 * margin_y, width + 2 * margin_x, 3), np.uint8)
        picture[:] = np.round(mean)
        inside = (slice(margin_y, margin_y + height), slice(margin_x, margin_x + width))
        picture[inside] = np.round(alpha * rgba[..., :3] + (1 - alpha) * mean)
        label = np.full(picture.shape[:2], 255, np.uint8)
        label[inside][rgba[..., 3] >= 128] = 1
        return picture, label

    def origin(self, index: int) -> str:
        """The photo by group_regex, else the file."""
        return self.origins[index]


class _Photos:
    """Objects within photos: what a photo and the object's place in it give."""

    def __init__(self) -> None:
        self._picture = _Cache(self._read)

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The photo (H, W, 3) uint8 RGB, and (H, W) bool: the object."""
        raise NotImplementedError

    def cutout(self, index: int) -> np.ndarray:
        """The object alone, RGBA."""
        image, inside = self._picture(index)
        return _crop_to_box(np.dstack([image, inside.astype(np.uint8) * 255]))

    def image(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The whole photo; only this object is labelled."""
        image, inside = self._picture(index)
        return image, np.where(inside, 1, 255).astype(np.uint8)


class MaskedImages(_Photos):
    """Images with a parallel folder of masks; every connected component of a mask is one object.

    A mask is black and white, or it numbers its objects from 1, and 255 is neither object nor ground.

    Raises:
        FlowclasError: an image has no mask, or one of another size; no mask holds an object.
    """

    def __init__(self, images: str | Path, masks: str | Path, group_regex: str | None = None) -> None:
        super().__init__()
        root, mask_root = Path(images), Path(masks)
        self.objects: list[tuple[Path, Path, int]] = []
        for path in list_images(root):
            mask_path = parallel(path, root, mask_root)
            _, components = _components(mask_path)
            self.objects += [(path, mask_path, label) for label in components]
        if not self.objects:
            raise FlowclasError(f"masks '{mask_root}' hold no object of at least {MIN_OBJECT_PX} px")
        self.origins = [_origin(path, group_regex) for path, _, _ in self.objects]

    def __len__(self) -> int:
        return len(self.objects)

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        path, mask_path, label = self.objects[index]
        image, (labels, _) = read_image(path), _components(mask_path)
        if image.shape[:2] != labels.shape:
            raise FlowclasError(
                f"mask '{mask_path}' is {labels.shape[1]}x{labels.shape[0]} px, its image '{path}' "
                f"{image.shape[1]}x{image.shape[0]}; give masks of the images' size"
            )
        return image, labels == label

    def origin(self, index: int) -> str:
        """The photo by group_regex, else the file."""
        return self.origins[index]


class CocoObjects(_Photos):
    """The objects of a COCO instances json, polygons and run lengths, crowds left out.

    Photos that hold any of ``exclude``, or have a side under ``min_side`` px, are left out.

    Raises:
        FlowclasError: the json is not one of COCO, or nothing is left.
    """

    def __init__(
        self, coco_json: str | Path, images: str | Path, *, exclude: Sequence[str] = ROAD_CLASSES, min_side: int = 480
    ) -> None:
        super().__init__()
        self.root, self.json = Path(images), Path(coco_json)
        self.coco = _load_coco(self.json)
        excluded = set(self.coco.getCatIds(catNms=list(exclude)) if exclude else [])
        banned = {a["image_id"] for a in self.coco.anns.values() if a["category_id"] in excluded}
        kept = {i for i, m in self.coco.imgs.items() if i not in banned and min(m["height"], m["width"]) >= min_side}
        self.annotations = [
            a["id"]
            for a in self.coco.anns.values()
            if a["image_id"] in kept
            and not a.get("iscrowd", 0)
            and a.get("segmentation")
            and a.get("area", MIN_OBJECT_PX) >= MIN_OBJECT_PX
        ]
        if not self.annotations:
            raise FlowclasError(
                f"'{self.json}' leaves no object: photos with {', '.join(exclude)} or a side under {min_side} px are "
                "not used; lower outliers.min_side or give another file"
            )

    def __len__(self) -> int:
        return len(self.annotations)

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        annotation = self.coco.anns[self.annotations[index]]
        image = read_image(self.root / self.coco.imgs[annotation["image_id"]]["file_name"])
        try:
            inside = self.coco.annToMask(annotation).astype(bool)
        except Exception as error:  # a polygon of two points, run lengths that are cut short: each fails in its own way
            raise FlowclasError(f"'{self.json}': annotation {annotation['id']} has no outline: {error}") from error
        if not inside.any():
            raise FlowclasError(f"'{self.json}': annotation {annotation['id']} lies outside its photo; remove it")
        if inside.shape != image.shape[:2]:
            name = self.coco.imgs[annotation["image_id"]]["file_name"]
            raise FlowclasError(f"'{self.root / name}' is not of the size that '{self.json}' states for it")
        return image, inside

    def origin(self, index: int) -> str:
        """The photo's file name."""
        return str(self.coco.imgs[self.coco.anns[self.annotations[index]]["image_id"]]["file_name"])


def open_outliers(config: OutlierConfig) -> OutlierSource:
    """The source that the configuration names."""
    if config.cutouts is not None:
        return CutoutFolder(config.cutouts, config.group_regex)
    if config.images is not None and config.masks is not None:
        return MaskedImages(config.images, config.masks, config.group_regex)
    if config.images is not None and config.coco_json is not None:
        return CocoObjects(config.coco_json, config.images, min_side=config.min_side)
    raise FlowclasError("outliers: give cutouts, images with masks, or images with coco_json")


def _crop_to_box(rgba: np.ndarray) -> np.ndarray:
    rows, cols = np.flatnonzero(rgba[..., 3].any(1)), np.flatnonzero(rgba[..., 3].any(0))
    return np.ascontiguousarray(rgba[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1])


def _components(path: Path) -> tuple[np.ndarray, list[int]]:
    """Connected components (8-connected) of the objects' pixels; labels of those large enough."""
    try:
        with Image.open(path) as picture:
            mask = np.asarray(picture.convert("L") if picture.mode not in ("L", "P", "I", "I;16", "1") else picture)
            lossy = picture.format == "JPEG"
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise FlowclasError(f"mask '{path}' cannot be read: {error}") from error
    # Of a JPEG the greys are of the compression, some pixels around the object too: that ring would be pasted with it.
    inside = mask >= 128 if lossy else mask > 0
    # 255 is "ignore" where 1 marks an object; ones in a black-and-white mask are specks at soft edges, as light greys.
    if np.count_nonzero(mask == 1) > STRAY_PX and not ((mask >= 128) & (mask < 255)).any():
        inside &= mask != 255
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    return labels, [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= MIN_OBJECT_PX]


def _load_coco(path: Path) -> Any:
    from pycocotools.coco import COCO

    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
        coco = COCO()
        coco.dataset = content
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            coco.createIndex()
        if not coco.imgs or not coco.anns or not coco.cats:
            raise KeyError("images, annotations or categories")
        for part, keys in (("images", ("file_name", "height", "width")), ("categories", ("name",))):
            if lacking := {key for entry in content[part] for key in keys if key not in entry}:
                raise KeyError(f"{min(lacking)} of {part}")
    except (OSError, ValueError) as error:
        raise FlowclasError(f"COCO annotations '{path}' cannot be read: {error}") from error
    except (KeyError, TypeError) as error:
        raise FlowclasError(f"'{path}' is not a COCO instances file: it lacks {error}") from error
    return coco
