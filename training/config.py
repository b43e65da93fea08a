"""What a fit is made of: one tree of typed, checked options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from flowclas_ros.errors import FlowclasError, require
from flowclas_ros.model.config import FlowCLASConfig
from flowclas_ros.training.data_config import DataConfig
from flowclas_ros.training.losses import LossConfig
from flowclas_ros.training.pseudo_outliers import PasteConfig


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with a linear warm-up and a cosine to zero, stepped every batch.

    Attributes:
        lr: learning rate at the top of the schedule.
        weight_decay: weight decay of AdamW.
        warmup_epochs: epochs of linear warm-up.
        clip: largest gradient norm; 0: no clipping.
        ema: decay per step of a moving average of the weights, which is then validated and kept; 0: none.
    """

    lr: float = 1e-4
    weight_decay: float = 1e-5
    warmup_epochs: float = 1.0
    clip: float = 5.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        require(self.lr > 0, "optimiser.lr", self.lr, "above 0")
        require(self.weight_decay >= 0, "optimiser.weight_decay", self.weight_decay, "0 or more")
        require(self.warmup_epochs >= 0, "optimiser.warmup_epochs", self.warmup_epochs, "0 or more")
        require(self.clip >= 0, "optimiser.clip", self.clip, "0 or more")
        require(0 <= self.ema < 1, "optimiser.ema", self.ema, "at least 0 and below 1")


@dataclass(frozen=True)
class TrainerConfig:
    """How long, how often, on what.

    Attributes:
        max_epochs: number of epochs; the learning-rate schedule spans them.
        max_minutes: stop earlier after this time, summed over resumed runs; to go on, raise it and --resume; null: no
            limit.
        val_every: epochs between validations.
        save_every: steps between saves of the resumable state; validation and interrupts save too.
        log_every: steps between TensorBoard points.
        init_frames: largest number of training images, evenly spread, that the whitening is computed from.
        margin_scenes: number of pasted training scenes that set the margin's directions before each validation; few
            frames are reused with other objects. With fewer than some hundred scenes, chance decides the score.
        device: auto, cpu, cuda or cuda:<n>.
        devices: processes on each node, one per device.
        nodes: machines; start the same command on each with torchrun or SLURM, with output on a shared disk.
        precision: arithmetic of the network; whitening, log-determinants and scores stay float32. A CPU without bf16
            uses fp32.
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
            require(getattr(self, key) >= 1, f"trainer.{key}", getattr(self, key), "1 or more")
        minutes = self.max_minutes
        require(minutes is None or minutes > 0, "trainer.max_minutes", minutes, "above 0, or null for no limit")


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
            extra ``label``); merged into the checkpoint's own backbone at the end; 0: the backbone stays frozen.
        method: flowclas, or gaussian: the full-covariance Gaussian of the same features, a baseline without training.
        seed: random seed; the same seed gives the same weights, bit for bit on a CPU.
        output: folder of the run; it must not hold another run.
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

    # ClassVar alone is refused by Python 3.10 where annotations are read
    USAGE: ClassVar[str] = "flowclas fit --config FILE [--resume] [--KEY VALUE ...]"
    SUMMARY: ClassVar[str] = "Train a model on images of the normal world, and calibrate it."

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
        require(0 <= self.seed < 2**31, "seed", self.seed, "from 0 to 2^31 - 1")
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
        require(self.adapt_rank >= 0, "adapt_rank", self.adapt_rank, "0 or more")
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
