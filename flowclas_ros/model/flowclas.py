"""FlowCLAS (arXiv 2411.19888): a flow's likelihood of a frozen backbone's features as an anomaly score."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.backbone import FrozenBackbone
from flowclas_ros.model.config import FlowCLASConfig
from flowclas_ros.model.density import DiagonalGaussian
from flowclas_ros.model.flow_types import build_flow
from flowclas_ros.model.fusion import CellMoments, MarginFusion
from flowclas_ros.model.guided import along_edges
from flowclas_ros.model.memory import NormalMemory
from flowclas_ros.model.segmentation import SegmentationHead, energy_entropy

# Batches of the margin's pass: Fisher's discriminant wants many objects; means and medians of the latents and of the
# distances to the memory do with fewer, and each takes longer than the backbone.
LATENTS_EVERY = 4


class FlowCLAS(nn.Module):
    """Backbone, flow, base density and heads as one model: image in, score map out."""

    def __init__(self, config: FlowCLASConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = FrozenBackbone(config.backbone)
        channels = self.backbone.channels
        self.flow = build_flow(channels, config.flow, self.backbone.sections)
        self.base = DiagonalGaussian(channels)
        self.projection = nn.Conv2d(channels, config.projection_dim, 1) if config.projection_dim else None
        self.fusion: MarginFusion | None = None
        if config.margin_weight:
            margin = (config.projection_dim, channels, config.margin_weight)
            self.fusion = MarginFusion(*margin, centred=config.centred, neighbourhood=config.neighbourhood)
        remembers = config.memory_weight > 0
        self.memory = NormalMemory(self.backbone.sections, config.memory_layers) if remembers else None
        self.segmentation = SegmentationHead(channels, config.classes) if config.classes else None

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """Size in pixels at which the backbone sees an image of the given size."""
        if self.config.short_side is None:
            return height, width
        factor = self.config.short_side / min(height, width)
        return max(1, round(height * factor)), max(1, round(width * factor))

    def features(self, images: Tensor, *, resize: bool = True) -> Tensor:
        """The backbone's features: RGB in 0..1 (B, 3, H, W) -> (B, C, h, w), float32; at the short side unless told
        not to. Without gradients, unless low-rank updates are being trained in the backbone.
        """
        size = self.working_size(*images.shape[-2:])
        if resize and size != tuple(images.shape[-2:]):
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        return self.backbone(images).float()

    def latent(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, h, w) -> latent z (B, C, h, w) and log-determinant per pixel (B, h, w), in nats."""
        return self.flow(features)

    def nll_of_latent(self, z: Tensor, log_det: Tensor) -> Tensor:
        """-(log p(z) + log|det|) / C, in nats per dimension: (B, C, h, w), (B, h, w) -> (B, h, w)."""
        return -(self.base.log_prob(z) + log_det) / z.shape[1]

    def nll(self, features: Tensor) -> Tensor:
        """Negative log-likelihood of features (B, C, h, w) on their grid: (B, h, w), nats per dimension."""
        return self.nll_of_latent(*self.latent(features))

    def project(self, z: Tensor) -> Tensor:
        """Projection g of the whitened latent, L2-normalised: (B, C, h, w) -> (B, P, h, w).

        Raises:
            FlowclasError: the model was built without a projection head.
        """
        if self.projection is None:
            raise FlowclasError("this model has no projection head: build it with projection_dim above 0")
        return F.normalize(self.projection(self.base.whiten(z)).float(), dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """Class logits of features (B, C, h, w) on their grid: (B, K, h, w) float32.

        Raises:
            FlowclasError: the model was built without a segmentation head.
        """
        if self.segmentation is None:
            raise FlowclasError("this model has no segmentation head: build it with classes above 0")
        logits: Tensor = self.segmentation(features)
        return logits

    def energy_entropy(self, features: Tensor) -> Tensor:
        """Energy-entropy score of features (B, C, h, w) on their grid: (B, h, w) float32, nats."""
        return energy_entropy(self.logits(features), self.config.entropy_weight)

    def grid_score(self, features: Tensor) -> Tensor:
        """Anomaly score of features (B, C, h, w) on their grid: (B, h, w) float32, nats per dimension.

        The NLL; with ``margin_weight`` fused with the margin (``MarginFusion``). The likelihood sees what is
        rare, the margin what is foreign; together they leave fewer of both kinds of error. With ``memory_weight`` also
        with what is unlike all that was seen (``NormalMemory``).
        With ``energy_weight``, the energy-entropy score of the class logits is added (``SegmentationHead``); with
        ``score: energy_entropy`` it stands alone, in nats.
        """
        if self.config.score == "energy_entropy":
            return self.energy_entropy(features)
        score = self._likelihood_score(features)
        if self.config.energy_weight and self.segmentation is not None:
            energy = self.energy_entropy(features) - self.segmentation.energy_offset
            score = score + self.config.energy_weight * self.segmentation.energy_scale * energy
        return score

    def _likelihood_score(self, features: Tensor) -> Tensor:
        z, log_det = self.latent(features)
        nll = self.nll_of_latent(z, log_det).float()
        if self.fusion is None:
            return nll
        beside = self.config.memory_weight * self.memory(features) if self.memory is not None else None
        score: Tensor = self.fusion(nll, self.project(z), features, beside)
        return score

    @torch.no_grad()
    def fit_margin(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set the fusion's directions and scales from labelled features; the flow and the head stay as they are.

        Args:
            batches: features (B, C, h, w) with labels (B, h, w), 0 inlier, 1 outlier, anything else ignored.

        Raises:
            FlowclasError: no inlier or no outlier among them, or a model without margin_weight.
        """
        if self.fusion is None:
            raise FlowclasError("margin_weight is 0: this model's score is the NLL alone, there is no margin to fit")
        projections, seen, nlls, distances = CellMoments(), CellMoments(), [], []
        for number, (features, labels) in enumerate(batches):
            seen.add(self.fusion.seen(features), labels)
            if number % LATENTS_EVERY and projections.outliers.count:
                continue
            z, log_det = self.latent(features)
            projections.add(self.project(z), labels)
            nlls.append(self.nll_of_latent(z, log_det).float()[labels == 0])
            if self.memory is not None:
                distances.append(self.memory.distance(features)[labels == 0])
        if not nlls:
            raise FlowclasError("the margin needs inlier and outlier pixels, got no batch at all")
        self.fusion.fit(projections, seen, torch.cat(nlls))
        if self.memory is not None:
            self.memory.fit_scale(torch.cat(distances))

    @torch.no_grad()
    def fit_energy(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Bring the energy-entropy score to the spread that the rest of the score has on inliers.

        Args:
            batches: features (B, C, h, w) with labels (B, h, w), 0 inlier, anything else left out.

        Raises:
            FlowclasError: no inlier pixel, or no segmentation head.
        """
        rest, energy = [], []
        for features, labels in batches:
            rest.append(self._likelihood_score(features)[labels == 0])
            energy.append(self.energy_entropy(features)[labels == 0])
        if self.segmentation is None or not sum(len(values) for values in energy):
            raise FlowclasError("the energy-entropy score needs inlier pixels to be brought to scale, got none")
        self.segmentation.fit_scale(torch.cat(energy), torch.cat(rest))

    def forward(self, images: Tensor) -> Tensor:
        """Anomaly score of RGB images in 0..1.

        Args:
            images: (B, 3, H, W) of any size.

        Returns:
            (B, H, W) float32, nats per dimension: as ``image_score`` has it of the images' features.
        """
        return self.image_score(self.features(images), images)

    def image_score(self, features: Tensor, images: Tensor) -> Tensor:
        """Score of images (B, 3, H, W) whose features (B, C, h, w) are at hand: (B, H, W) float32, nats per dimension.

        The score of the grid (``grid_score``), interpolated bilinearly; with ``mirrored`` its mean with that of the
        mirrored image, with ``guided_radius`` along the image's edges.
        """
        height, width = images.shape[-2:]
        score = self.to_image(self.grid_score(features).unsqueeze(1), height, width)
        if self.config.mirrored:
            mirrored = self.grid_score(self.features(images.flip(-1))).unsqueeze(1)
            score = (score + self.to_image(mirrored, height, width).flip(-1)) / 2
        if self.config.guided_radius:
            radius = self.config.guided_radius * height / self.working_size(height, width)[0]
            score = along_edges(score, images.float(), radius)
        return score.squeeze(1)

    def to_image(self, grid: Tensor, height: int, width: int) -> Tensor:
        """A map on the grid (B, K, h, w) interpolated bilinearly to the image (B, K, height, width), in pixels."""
        # Cells tile the padded image exactly, so upsample to whole cells first and crop the padding off after.
        rows, cols = grid.shape[-2] * self.backbone.stride, grid.shape[-1] * self.backbone.stride
        work_h, work_w = self.working_size(height, width)
        grid = F.interpolate(grid, size=(rows, cols), mode="bilinear", align_corners=False)[..., :work_h, :work_w]
        if (work_h, work_w) != (height, width):
            grid = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
        return grid
