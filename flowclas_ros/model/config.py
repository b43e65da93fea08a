"""What a FlowCLAS model is made of: typed, checked options, stored in its checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from flowclas_ros.errors import FlowclasError, require
from flowclas_ros.model.backbone import BackboneConfig
from flowclas_ros.model.flow import FlowConfig


@dataclass(frozen=True)
class FlowCLASConfig:
    """Everything that a model's architecture and preprocessing consist of.

    Attributes:
        backbone: the frozen feature extractor.
        flow: the normalizing flow on its features.
        projection_dim: P, channels of the projection head that the contrastive loss uses; 0 for none.
        margin_weight: weight in the score of the margin, how much nearer a cell lies to the outliers than to the
            inliers (``MarginFusion``); 0: the published score, the negative log-likelihood (NLL) alone.
        centred: subtract each frame's median from its score (``MarginFusion``), for cameras in changing light and
            weather whose view no object can fill; needs margin_weight.
        neighbourhood: cells, odd; above 1 the margin also sees the features' means over a square of that many cells a
            side.
        memory_weight: weight in the score of the distance to a memory of normal cells (``NormalMemory``); 0 for none;
            needs margin_weight.
        memory_layers: which of the backbone's layers the memory compares, by their place in
            ``FrozenBackbone.sections``: 0 is the first layer that is read.
        guided_radius: pixels at the short side; above 0 the score at image resolution passes through two guided
            filters, of this radius and a wider one (``along_edges``), so that it follows the edges of the image; 0: no
            filter, as in the published score.
        mirrored: average the scores of each image and its mirror image: a little better, for twice the time.
        classes: K, number of inlier classes of the segmentation head; 0: the label-free track.
        score: basis of the score: ``nll``, to which the weighted terms are added, or ``energy_entropy``, from the class
            logits alone; then the flow does not run.
        energy_weight: weight of the energy-entropy score beside the NLL, after it is scaled to the spread of the rest
            on inliers.
        entropy_weight: alpha, the entropy's share in the energy-entropy score.
        short_side: pixels; images are resized to this shorter side before the backbone, so that objects have the size
            that they had in training, whatever the camera; null: not resized.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    projection_dim: int = 256
    margin_weight: float = 0.0
    centred: bool = False
    neighbourhood: int = 1
    memory_weight: float = 0.0
    memory_layers: tuple[int, ...] = ()
    guided_radius: float = 0.0
    mirrored: bool = False
    classes: int = 0
    score: Literal["nll", "energy_entropy"] = "nll"
    energy_weight: float = 0.0
    entropy_weight: float = 1.0
    short_side: int | None = None

    def __post_init__(self) -> None:
        self._check_classes()
        if self.margin_weight < 0 or (self.margin_weight and not self.projection_dim):
            raise FlowclasError(
                f"margin_weight is {self.margin_weight} with projection_dim {self.projection_dim}; it must be 0 or "
                "more, and 0 without a projection head"
            )
        if self.centred and not self.margin_weight:
            raise FlowclasError(
                "centred is true with margin_weight 0; the likelihood alone is not centred: set one of them"
            )
        if self.memory_weight < 0 or (self.memory_weight and not self.margin_weight):
            raise FlowclasError(
                f"memory_weight is {self.memory_weight} with margin_weight {self.margin_weight}; it must be 0 or more, "
                "and 0 without a margin"
            )
        cells, radius, side = self.neighbourhood, self.guided_radius, self.short_side
        require(cells >= 1 and cells % 2 == 1, "neighbourhood", f"{cells} cells", "odd, 1 for the cell alone")
        require(0 <= radius < math.inf, "guided_radius", f"{radius} px", "0 or more, 0 for no filter")
        require(self.projection_dim >= 0, "projection_dim", self.projection_dim, "0 or more")
        require(side is None or side >= 32, "short_side", f"{side} px", "at least 32, or null for none")

    def _check_classes(self) -> None:
        known = self.classes == 0 or 2 <= self.classes <= 255
        require(known, "classes", self.classes, "from 2 to 255, or 0 for no class labels")
        if self.energy_weight < 0 or self.entropy_weight < 0:
            raise FlowclasError(
                f"energy_weight is {self.energy_weight}, entropy_weight {self.entropy_weight}; both must be 0 or more"
            )
        if not self.classes and (self.energy_weight or self.score == "energy_entropy"):
            raise FlowclasError(
                "the energy-entropy score needs class logits: set classes, or score nll, energy_weight 0"
            )
        if self.score == "energy_entropy" and (self.energy_weight or self.margin_weight):
            raise FlowclasError(
                f"score energy_entropy stands alone: set energy_weight (now {self.energy_weight}) and margin_weight "
                f"(now {self.margin_weight}) to 0, or score to nll"
            )

    def gaussian(self) -> FlowCLASConfig:
        """The baseline on the same features: the likelihood of their full-covariance Gaussian, nothing beside it."""
        return replace(
            self,
            flow=replace(self.flow, steps=0, whitening=True),
            projection_dim=0,
            margin_weight=0.0,
            memory_weight=0.0,
            centred=False,
            guided_radius=0.0,
            mirrored=False,
            classes=0,
            score="nll",
            energy_weight=0.0,
        )

    @property
    def track(self) -> str:
        """``label`` when the model learned from class labels of the inliers, else ``label-free``: never compared."""
        return "label" if self.classes else "label-free"
