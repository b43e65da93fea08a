"""What is fitted on: frames, class labels, and objects to paste."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from flowclas_ros.errors import FlowclasError, require
from flowclas_ros.training.corruptions import CorruptionConfig


@dataclass(frozen=True)
class OutlierConfig:
    """Where pseudo-outliers come from: exactly one of cut-outs, images with masks, or a COCO json with images.

    Attributes:
        cutouts: folder of RGBA images, one object each, transparent around it.
        images: folder of RGB images; with masks, or with coco_json.
        masks: folder parallel to images, non-zero where the object is, of a JPEG 128 or more; where 1 marks an object,
            255 is left out.
        coco_json: COCO instances file; photos that hold a road user, a traffic light or a stop sign are left out.
        group_regex: its first group in a file's name is the photo that the object came from, so that objects of one
            photo are never both trained on and held out; null: every file is a photo of its own.
        min_side: pixels; COCO photos with a shorter side are left out.
    """

    cutouts: str | None = None
    images: str | None = None
    masks: str | None = None
    coco_json: str | None = None
    group_regex: str | None = None
    min_side: int = 480

    def __post_init__(self) -> None:
        kinds = [self.cutouts is not None, self.masks is not None, self.coco_json is not None]
        if sum(kinds) > 1:
            raise FlowclasError(
                "outliers: give one of cutouts, images with masks, or images with coco_json, not several"
            )
        if (self.images is not None) != (self.masks is not None or self.coco_json is not None):
            raise FlowclasError("outliers: images goes with masks or with coco_json; give both of a pair")
        require(self.min_side >= 1, "outliers.min_side", self.min_side, "1 or more")

    @property
    def given(self) -> bool:
        """Whether any source is named."""
        return self.cutouts is not None or self.images is not None


@dataclass(frozen=True)
class LabelConfig:
    """Class labels of the inlier images, for the label track: images of one channel that hold class ids.

    Attributes:
        train: folders parallel to data.train, one each; empty: no labels, the label-free track.
        val: folders parallel to data.val, one each; empty where data.val is.
        encoding: ``ids``: the files hold 0 to model.classes - 1; ``cityscapes``: labelIds, mapped to the 19 trainIds.
        ignore: ids of pixels without a class.
    """

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    encoding: Literal["ids", "cityscapes"] = "ids"
    ignore: tuple[int, ...] = (255,)

    def __post_init__(self) -> None:
        require(all(0 <= i <= 65535 for i in self.ignore), "data.labels.ignore", self.ignore, "ids from 0 to 65535")


@dataclass(frozen=True)
class DataConfig:
    """Inlier images, pseudo-outliers, and how they become batches.

    Attributes:
        train: folders of inlier images, searched recursively.
        val: folders of inlier images for choosing the checkpoint and calibrating; empty: val_share of train's scenes is
            held out.
        val_share: share of train's scenes held out when val is empty.
        sequence_regex: its first group in a file's name is the frame's sequence; null: each folder is a sequence.
        scene_block: number of consecutive frames of a sequence that make a scene, the unit that calibration counts;
            null: a sequence is a scene.
        labels: class labels of train and val, for the label track only.
        outliers: objects to paste in training.
        outliers_val: objects to paste in validation; none named: outliers_val_share of the outliers' photos.
        outliers_val_share: share of the outliers' photos held out for validation when outliers_val is not given.
        exposed: folder with images/ and masks/ (0 normal, 1 outlier, 255 ignored) of scenes that hold outliers, such as
            `flowclas simulate --format folder --anomalies fit` renders. They are used whole, beside the pasted scenes.
        exposed_share: share of the training images that come from exposed.
        exposed_val: folder of such scenes, with outliers of other kinds, for choosing the checkpoint; null: val's
            scenes with objects pasted in. Calibration uses val in either case.
        crop: height and width in pixels of a training crop; null: the image's own.
        crop_scale: lowest and highest enlargement of the image before a crop is taken, as if the camera had come
            closer; the image never becomes smaller than the crop.
        flip: probability of a mirror image.
        jitter: brightness, contrast and saturation change by a factor up to 1 +- this.
        corruptions: weather and camera faults in training scenes.
        x_out_size: height and width in pixels of the auxiliary outlier images.
        batch_size: images per step and device.
        workers: processes that read images, in addition to the main one.
    """

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    val_share: float = 0.2
    sequence_regex: str | None = None
    scene_block: int | None = None
    labels: LabelConfig = field(default_factory=LabelConfig)
    outliers: OutlierConfig = field(default_factory=OutlierConfig)
    outliers_val: OutlierConfig = field(default_factory=OutlierConfig)
    outliers_val_share: float = 0.25
    exposed: str | None = None
    exposed_share: float = 0.5
    exposed_val: str | None = None
    crop: tuple[int, int] | None = None
    crop_scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5
    jitter: float = 0.0
    corruptions: CorruptionConfig = field(default_factory=CorruptionConfig)
    x_out_size: tuple[int, int] = (224, 224)
    batch_size: int = 8
    workers: int = 0

    def __post_init__(self) -> None:
        require(0 < self.val_share < 1, "data.val_share", self.val_share, "between 0 and 1")
        share = self.outliers_val_share
        require(0 < share < 1, "data.outliers_val_share", share, "between 0 and 1")
        require(self.scene_block is None or self.scene_block >= 1, "data.scene_block", self.scene_block, "1 or more")
        require(0 <= self.exposed_share <= 1, "data.exposed_share", self.exposed_share, "from 0 to 1")
        require(0 <= self.flip <= 1, "data.flip", self.flip, "from 0 to 1")
        require(0 <= self.jitter < 1, "data.jitter", self.jitter, "at least 0 and below 1")
        require(self.crop is None or min(self.crop) >= 32, "data.crop", self.crop, "at least 32 x 32 px, or null")
        require(min(self.x_out_size) >= 32, "data.x_out_size", self.x_out_size, "at least 32 x 32 px")
        for split in ("train", "val"):
            images, labels = len(getattr(self, split)), getattr(self.labels, split)
            if (self.labels.train or self.labels.val) and len(labels) != images:
                raise FlowclasError(
                    f"data.labels.{split} names {len(labels)} folders and data.{split} {images}; give one for each"
                )
        low, high = self.crop_scale
        require(0 < low <= high, "data.crop_scale", self.crop_scale, "two factors above 0, the lower first")
        require(self.batch_size >= 1, "data.batch_size", self.batch_size, "1 or more")
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")
