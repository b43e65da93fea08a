"""What a fit is made of: one tree of typed, checked options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.config import FlowCLASConfig
from flowclas_ros.training.corruptions import CorruptionConfig
from flowclas_ros.training.losses import LossConfig
from flowclas_ros.training.pseudo_outliers import PasteConfig


def _require(holds: bool, key: str, value: object, rule: str) -> None:
    if not holds:
        raise FlowclasError(f"{key} is {value}; it must be {rule}")


@dataclass(frozen=True)
class OutlierConfig:
    """Where pseudo-outliers come from: exactly one of cut-outs, images with masks, or a COCO json with images.

    Attributes:
        cutouts: folder of RGBA images, one object each, transparent around it.
        images: folder of RGB images; with masks, or with coco_json.
        masks: folder parallel to images, non-zero where the object is; where 1 marks an object, 255 is left out.
        coco_json: COCO instances file; photos that hold a road user, a traffic light or a stop sign are left out.
        group_regex: its first group in a file's name says which photo the object came from, so that objects of one
            photo never stand on both sides of the hold-out; null: every file is a photo of its own.
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
        _require(self.min_side >= 1, "outliers.min_side", self.min_side, "1 or more")

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
        encoding: ``ids``: the files hold 0 to model.classes - 1; ``cityscapes``: labelIds, brought to the 19 trainIds.
        ignore: ids of pixels without a class.
    """

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    encoding: Literal["ids", "cityscapes"] = "ids"
    ignore: tuple[int, ...] = (255,)

    def __post_init__(self) -> None:
        _require(all(0 <= i <= 65535 for i in self.ignore), "data.labels.ignore", self.ignore, "ids from 0 to 65535")


@dataclass(frozen=True)
class DataConfig:
    """Inlier images, pseudo-outliers, and how they become batches.

    Attributes:
        train: folders of inlier images, searched recursively.
        val: folders of inlier images to choose and calibrate on; empty: val_share of train's scenes is held out.
        val_share: share of train's scenes held out when val is empty.
        sequence_regex: its first group in a file's name is the frame's sequence; null: a folder is a sequence.
        scene_block: so many consecutive frames of a sequence make a scene, the block that calibration counts by;
            null: a sequence is a scene.
        labels: class labels of train and val, for the label track only.
        outliers: objects to paste in training.
        outliers_val: objects to paste in validation; none named: outliers_val_share of the outliers' photos.
        outliers_val_share: share of the outliers' photos held out for validation when outliers_val is not given.
        exposed: folder with images/ and masks/ (0 normal, 1 outlier, 255 ignored) of scenes that hold outliers, such as
            `flowclas simulate --format folder --anomalies fit` renders; trained on beside the pasted scenes, whole.
        exposed_share: share of the training images that come from there.
        exposed_val: folder of such scenes to choose the checkpoint by, with outliers of other kinds; null: val's scenes
            with objects pasted. Calibration takes val's in either case.
        crop: height and width in pixels of a training crop; null: the image's own.
        crop_scale: lowest and highest enlargement of the image before a crop is taken, as if the camera had come
            closer; less than the crop is never left.
        flip: probability of a mirror image.
        jitter: brightness, contrast and saturation change by a factor up to 1 +- this.
        corruptions: weather and camera faults that training scenes are seen under.
        x_out_size: height and width in pixels of the auxiliary outlier images.
        batch_size: images per step and device.
        workers: processes that read images, beside the main one.
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
        _require(0 < self.val_share < 1, "data.val_share", self.val_share, "between 0 and 1")
        share = self.outliers_val_share
        _require(0 < share < 1, "data.outliers_val_share", share, "between 0 and 1")
        _require(self.scene_block is None or self.scene_block >= 1, "data.scene_block", self.scene_block, "1 or more")
        _require(0 <= self.exposed_share <= 1, "data.exposed_share", self.exposed_share, "from 0 to 1")
        _require(0 <= self.flip <= 1, "data.flip", self.flip, "from 0 to 1")
        _require(0 <= self.jitter < 1, "data.jitter", self.jitter, "at least 0 and below 1")
        _require(self.crop is None or min(self.crop) >= 32, "data.crop", self.crop, "at least 32 x 32 px, or null")
        _require(min(self.x_out_size) >= 32, "data.x_out_size", self.x_out_size, "at least 32 x 32 px")
        for split in ("train", "val"):
            images, labels = len(getattr(self, split)), getattr(self.labels, split)
            if (self.labels.train or self.labels.val) and len(labels) != images:
                raise FlowclasError(
                    f"data.labels.{split} names {len(labels)} folders and data.{split} {images}; give one for each"
                )
        low, high = self.crop_scale
        _require(0 < low <= high, "data.crop_scale", self.crop_scale, "two factors above 0, the lower first")
        _require(self.batch_size >= 1, "data.batch_size", self.batch_size, "1 or more")
        _require(self.workers >= 0, "data.workers", self.workers, "0 or more")


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with a linear warm-up and a cosine to zero, stepped every batch.

    Attributes:
        lr: learning rate at the top of the schedule.
        weight_decay: of AdamW.
        warmup_epochs: epochs of linear warm-up.
        clip: largest norm of the gradient; 0: no clipping.
        ema: decay per step of the weights' moving average, which is then what is validated and kept; 0: none.
    """

    lr: float = 1e-4
    weight_decay: float = 1e-5
    warmup_epochs: float = 1.0
    clip: float = 5.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        _require(self.lr > 0, "optimiser.lr", self.lr, "above 0")
        _require(self.weight_decay >= 0, "optimiser.weight_decay", self.weight_decay, "0 or more")
        _require(self.warmup_epochs >= 0, "optimiser.warmup_epochs", self.warmup_epochs, "0 or more")
        _require(self.clip >= 0, "optimiser.clip", self.clip, "0 or more")
        _require(0 <= self.ema < 1, "optimiser.ema", self.ema, "at least 0 and below 1")


@dataclass(frozen=True)
class TrainerConfig:
    """How long, how often, on what.

    Attributes:
        max_epochs: epochs; the learning rate's schedule spans them.
        max_minutes: stop earlier once resumed runs together took so long; --resume with more goes on; null: no limit.
        val_every: epochs from one validation to the next.
        save_every: steps from one save of the resumable state to the next; validation and interrupts save too.
        log_every: steps from one TensorBoard point to the next.
        init_frames: at most so many training images, evenly spread, fit the whitening.
        margin_scenes: so many pasted training scenes set the margin's directions before each validation; of few frames
            the same ones with other objects: fewer scenes than some hundred make the score one of chance.
        device: auto, cpu, cuda or cuda:<n>.
        devices: processes, one a device, on each node.
        nodes: machines; start the same command on each with torchrun or SLURM.
        precision: of the network; whitening, log-determinants and scores stay float32. A CPU without bf16 takes fp32.
    """

    max_epochs: int = 20
    max_minutes: float | None = None
    val_every: int = 1
    save_every: int = 200
    log_every: int = 10
    init_frames: int = 2000
    margin_scenes: int = 1024
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        counts = ["max_epochs", "val_every", "save_every", "log_every", "init_frames", "margin_scenes"]
        for key in [*counts, "devices", "nodes"]:
            _require(getattr(self, key) >= 1, f"trainer.{key}", getattr(self, key), "1 or more")
        minutes = self.max_minutes
        _require(minutes is None or minutes > 0, "trainer.max_minutes", minutes, "above 0, or null for no limit")


@dataclass(frozen=True)
class FitConfig:
    """A whole fit.

    Attributes:
        model: backbone, flow and projection head.
        data: images and batches.
        paste: how pseudo-outliers are pasted.
        loss: the weights and the form of the loss.
        optimiser: learning rate and schedule.
        trainer: duration, validation, device.
        adapt_rank: rank of the low-rank updates that adapt the backbone to the class labels (label track; needs the
            extra ``label``); merged into the checkpoint's own backbone when the fit ends; 0: the backbone is frozen.
        method: flowclas, or gaussian: the full-covariance Gaussian on the same features, the baseline without training.
        seed: of everything random; the same seed gives the same weights, bit for bit on a CPU.
        output: folder of the run; must not hold another run.
        embed_backbone: store the backbone's weights in the checkpoint, so that a robot needs no other file.
    """

    model: FlowCLASConfig = field(default_factory=FlowCLASConfig)
    data: DataConfig = field(default_factory=DataConfig)
    paste: PasteConfig = field(default_factory=PasteConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    adapt_rank: int = 0
    method: Literal["flowclas", "gaussian"] = "flowclas"
    seed: int = 0
    output: str = "runs/fit"
    embed_backbone: bool = True

    USAGE: ClassVar = "flowclas fit --config FILE [--resume] [--KEY VALUE ...]"
    SUMMARY: ClassVar = "Fit a model on images of the normal world."

    def __post_init__(self) -> None:
        if not self.data.train:
            raise FlowclasError("data.train names no folder of inlier images; give at least one")
        if not self.data.outliers.given:
            raise FlowclasError(
                "data.outliers names no pseudo-outliers, which training or the choice of a checkpoint needs; "
                "give data.outliers.cutouts, or images with masks or coco_json"
            )
        if self.data.crop is not None and self.model.short_side is not None:
            raise FlowclasError(
                f"data.crop {self.data.crop} and model.short_side {self.model.short_side} cannot go together: a crop "
                "would be enlarged to the short side, and the robot's whole images not; set one of them to null"
            )
        if self.loss.cells is not None and not self.model.flow.pointwise:
            raise FlowclasError(
                f"loss.cells {self.loss.cells} draws single cells, but this flow ('{self.model.flow.type}', kernels "
                f"{self.model.flow.kernels}, subnet '{self.model.flow.subnet}') looks at their neighbours too; "
                "set loss.cells null, or a plain glow with kernels [1]"
            )
        _require(0 <= self.seed < 2**31, "seed", self.seed, "from 0 to 2^31 - 1")
        if self.method == "flowclas":
            self._check_track()
        if self.method == "flowclas" and self.loss.contrastive != "none" and not self.model.projection_dim:
            raise FlowclasError(
                f"loss.contrastive {self.loss.contrastive} is of the projection head, and model.projection_dim is 0; "
                "give it some channels, such as 128, or set loss.contrastive none"
            )
        if self.method == "flowclas" and self.model.flow.steps == 0 and self.loss.fits_flow:
            raise FlowclasError("method flowclas with model.flow.steps 0 has nothing to train; use method gaussian")

    def _check_track(self) -> None:
        """The label track is whole or not there: classes, their labels and a loss on them go together."""
        classes, labels, loss = self.model.classes, self.data.labels, self.loss
        if not (bool(classes) == bool(labels.train) == loss.fits_classes):
            raise FlowclasError(
                f"the label track needs all of model.classes (now {classes}), data.labels.train (now "
                f"{len(labels.train)} folders) and loss.segmentation or loss.energy_entropy (now {loss.segmentation}, "
                f"{loss.energy_entropy}); the label-free track none of them"
            )
        if classes and self.data.exposed_val is not None:
            raise FlowclasError(
                f"data.exposed_val '{self.data.exposed_val}' has no class labels, which the label track (model.classes "
                f"{classes}) is validated on; leave it out, and val's scenes with objects pasted are used"
            )
        if labels.encoding == "cityscapes" and classes not in (0, 19):
            raise FlowclasError(f"model.classes is {classes}; with data.labels.encoding cityscapes it must be 19")
        if not loss.fits_flow and self.model.score != "energy_entropy":
            raise FlowclasError(
                "loss.alpha 0 with loss.contrastive none fits no flow for score nll; set model.score energy_entropy"
            )
        _require(self.adapt_rank >= 0, "adapt_rank", self.adapt_rank, "0 or more")
        if self.adapt_rank and not (classes and self.embed_backbone):
            raise FlowclasError(
                f"adapt_rank {self.adapt_rank} needs class labels (model.classes, now {classes}) and embed_backbone "
                f"true (now {self.embed_backbone}): the adapted backbone lies nowhere else"
            )
        if self.adapt_rank and self.model.memory_weight:
            raise FlowclasError(
                f"adapt_rank {self.adapt_rank} changes the features, and the memory (model.memory_weight "
                f"{self.model.memory_weight}) holds them as they were: set one of the two to 0"
            )
