"""What a distillation is made of; images, pasting and optimiser are those of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from flowclas_ros.errors import FlowclasError, require
from flowclas_ros.model.backbone import BackboneConfig
from flowclas_ros.training.config import OptimiserConfig, TrainerConfig
from flowclas_ros.training.data_config import DataConfig
from flowclas_ros.training.pseudo_outliers import PasteConfig


@dataclass(frozen=True)
class DistillConfig:
    """A whole distillation.

    Attributes:
        teacher: the backbone to learn from, any timm model that takes images of any size; read only.
        student: the backbone that learns: any timm model that ``flowclas fit`` takes, usually a small convolutional
            net. Its weights are random, hub, or a local file to start from. Give it the layers and stride that it will
            be used with.
        data: as in ``flowclas fit``, without x_out_size. Any images will do, the more like the robot's the better.
            Outliers are optional; they show the student what objects look like.
        paste: how outliers are pasted.
        outlier_weight: weight of a second task beside imitating the teacher: to tell how much of each cell is outlier,
            by a linear map of the student's features (cross-entropy); 0: imitation alone.
        optimiser: learning rate and schedule.
        trainer: duration and device, as in ``flowclas fit``, without save_every and log_every, on one device.
        dtype: number format of the file; fp16 halves its size.
        seed: random seed.
        output: the .safetensors file to write; a .json with provenance is written beside it.
    """

    teacher: BackboneConfig = field(default_factory=BackboneConfig)
    student: BackboneConfig = field(default_factory=lambda: BackboneConfig("mobilenetv2_050", "random"))
    data: DataConfig = field(default_factory=DataConfig)
    paste: PasteConfig = field(default_factory=PasteConfig)
    outlier_weight: float = 0.0
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(lr=2e-3, weight_decay=0.01))
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    dtype: Literal["fp32", "fp16"] = "fp32"
    seed: int = 0
    output: str = "student.safetensors"

    USAGE: ClassVar[str] = "flowclas distill --config FILE [--KEY VALUE ...]"
    SUMMARY: ClassVar[str] = "Train a small backbone to give the feature map of a large one, on any images."

    def __post_init__(self) -> None:
        if not self.data.train:
            raise FlowclasError("data.train names no folder of images; give at least one")
        if self.outlier_weight < 0 or (self.outlier_weight and not (self.data.outliers.given or self.data.exposed)):
            raise FlowclasError(
                f"outlier_weight is {self.outlier_weight}; it must be 0 or more, and 0 without data.outliers or "
                "data.exposed"
            )
        if not self.output.endswith(".safetensors"):
            raise FlowclasError(f"output is '{self.output}'; it must end in .safetensors")
        require(0 <= self.seed < 2**31, "seed", self.seed, "from 0 to 2^31 - 1")
        if self.trainer.devices > 1 or self.trainer.nodes > 1:
            raise FlowclasError("trainer.devices and trainer.nodes must be 1: a distillation runs on one device")
