"""The FlowCLAS objective: weighted inlier likelihood plus a supervised contrastive loss in latent space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from flowclas_ros.errors import FlowclasError, require
from flowclas_ros.model import FlowCLAS
from flowclas_ros.model.fusion import near_outliers
from flowclas_ros.training.distributed import (
    mean_of_shares,
    mean_over_processes,
    sample_over_processes,
    sizes_over_processes,
)
from flowclas_ros.training.pseudo_outliers import IGNORE, INLIER, OUTLIER

OUTLIER_SHARE = 0.25  # of a cell's pixels that make it an outlier
NEAR_INLIER = 2  # an inlier cell near an outlier, where near_share tells them from the others
NEAR_CELLS = 8  # one in so many of the inlier cells that are drawn is a near one
HARD_DRAW = 8  # times as many inliers as are wanted, of which hard_share takes the hardest


@dataclass(frozen=True)
class LossConfig:
    """Weights and settings of the objective.

    Attributes:
        alpha: weight of the mean inlier NLL in nats per dimension (the paper's 0.07 on the sum over C = 1024 channels
            is 72 here, the WACV release's 1e-6 on the sum over pixels too about 2.8).
        contrastive: ``infonce`` (each positive against the negatives), ``supcon`` (each positive against all others,
            Khosla et al. 2020, eq. 2), or ``none`` for the likelihood alone.
        temperature: tau of the contrastive loss.
        samples: N, largest number of pixels of each set (inliers, outliers, auxiliary outliers) per batch.
        near_share: share of the inlier pixels of the contrast set that are drawn from near an outlier
            (``fusion.near_outliers``), where the features see it and most false alarms lie; 0: drawn anywhere.
        hard_share: share of the other inlier pixels of the contrast set that are the hardest of a larger draw, those
            whose projections lie furthest towards the outliers' (online hard example mining, Shrivastava et al. 2016);
            fewer false alarms on what is normal but rare, as signs and stickers are; 0: drawn at random.
        auxiliary: add the pixels of the auxiliary outlier images x_out to the contrast set.
        cells: number of inlier cells of a batch that the flow sees, drawn at random, with at most a quarter as many
            outlier cells; null: all. Makes the flow's part of a step cheaper at little loss, since neighbouring cells
            tell much the same. Only for flows that look at one cell at a time.
        outlier_weight: weight of a term that lowers the outliers' likelihood directly: an outlier pixel costs as much
            as its NLL falls short of ``outlier_margin`` above the inliers' mean; 0: no such term.
        outlier_margin: bound of that term, in nats per dimension. Without it, the flow would push outliers ever
            further.
        segmentation: weight of cross-entropy and Lovasz-softmax on the inliers' classes (label track).
        energy_entropy: weight of the energy-entropy loss on the class logits (label track).
    """

    alpha: float = 1.0
    contrastive: Literal["infonce", "supcon", "none"] = "infonce"
    temperature: float = 0.1
    samples: int = 512
    near_share: float = 0.0
    hard_share: float = 0.0
    auxiliary: bool = True
    cells: int | None = None
    outlier_weight: float = 0.0
    outlier_margin: float = 1.0
    segmentation: float = 0.0
    energy_entropy: float = 0.0

    def __post_init__(self) -> None:
        for name in ("alpha", "outlier_weight", "segmentation", "energy_entropy"):
            require(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), "0 or more")
        for name in ("temperature", "outlier_margin"):
            require(getattr(self, name) > 0, f"loss.{name}", getattr(self, name), "above 0")
        require(self.samples >= 2, "loss.samples", self.samples, "at least 2")
        for name in ("near_share", "hard_share"):
            require(0 <= getattr(self, name) <= 1, f"loss.{name}", getattr(self, name), "from 0 to 1")
        require(self.cells is None or self.cells >= 2, "loss.cells", self.cells, "at least 2, or null for all")
        if not self.fits_flow and not self.fits_classes:
            raise FlowclasError("loss.alpha 0 with loss.contrastive none leaves nothing to fit")

    @property
    def fits_flow(self) -> bool:
        """Whether any term reaches the flow."""
        return self.alpha > 0 or self.contrastive != "none" or self.outlier_weight > 0

    @property
    def fits_classes(self) -> bool:
        """Whether any term reaches the segmentation head."""
        return self.segmentation > 0 or self.energy_entropy > 0


def cell_shares(
    labels: Tensor, working_size: tuple[int, int], grid: tuple[int, int], stride: int
) -> tuple[Tensor, Tensor]:
    """How much of each cell is outlier, and how much unlabelled or padding: (B, h, w) each, in 0..1.

    Arguments as in `labels_to_grid`.
    """
    if tuple(labels.shape[-2:]) != tuple(working_size):
        labels = F.interpolate(labels.unsqueeze(1), size=working_size, mode="nearest-exact").squeeze(1)
    pad_h, pad_w = grid[0] * stride - labels.shape[-2], grid[1] * stride - labels.shape[-1]
    labels = F.pad(labels, (0, pad_w, 0, pad_h), value=IGNORE)
    shares = F.avg_pool2d(torch.stack([labels == OUTLIER, labels == IGNORE], dim=1).float(), stride)
    outlier, ignored = shares.unbind(dim=1)
    return outlier, ignored


def labels_to_grid(labels: Tensor, working_size: tuple[int, int], grid: tuple[int, int], stride: int) -> Tensor:
    """Pixel labels reduced to the feature grid.

    A cell is an outlier when at least a quarter of it is (an object's rim and a thin object count), an inlier when none
    of it is; any other cell, and one that is more than half unlabelled or padding, is ignored.

    Args:
        labels: (B, H, W) uint8, 0 inlier, 1 outlier, 255 ignore.
        working_size: pixels at which the backbone saw the images.
        grid: (h, w) of the feature map.
        stride: pixels per cell.

    Returns:
        (B, h, w) uint8 with the same three values.
    """
    outlier, ignored = cell_shares(labels, working_size, grid, stride)
    result = torch.full(outlier.shape, IGNORE, dtype=torch.uint8, device=labels.device)
    result[(outlier == 0) & (ignored <= 0.5)] = INLIER
    result[outlier >= OUTLIER_SHARE] = OUTLIER
    return result


def mean_inlier_nll(nll: Tensor, labels: Tensor) -> Tensor:
    """Mean over the inlier pixels alone: nll (B, h, w) nats per dimension, labels (B, h, w); 0 where there is none.

    Of several processes, this one's share of the mean over all of them (see `mean_over_processes`).
    """
    # Selected, not multiplied by a mask: a NaN or infinity in an ignored pixel must not reach the sum.
    return mean_over_processes(nll[labels == INLIER], empty=0.0)


def outlier_hinge(outlier_nll: Tensor, inlier_nll: Tensor, margin: float) -> Tensor:
    """How far outliers are from being ``margin`` less likely than the mean inlier, on average; 0 where there is none.

    Args:
        outlier_nll: (N,) of the outlier pixels, nats per dimension.
        inlier_nll: scalar, the inliers' mean; taken as given, so that this term moves the outliers alone.
        margin: nats per dimension.
    """
    shortfall = F.relu(inlier_nll.detach() + margin - outlier_nll)
    return mean_over_processes(shortfall, empty=0.0)


def contrastive_loss(anchors: Tensor, anchor_labels: Tensor, extra: Tensor, config: LossConfig) -> Tensor:
    """Supervised InfoNCE over L2-normalised projections.

    Args:
        anchors: (N, P) inlier and outlier pixels of x_mix.
        anchor_labels: (N,) 0 or 1.
        extra: (M, P) auxiliary outlier pixels: contrast only, label outlier.
        config: form and temperature.

    Returns:
        Scalar, mean over anchors; an anchor is neither its own positive nor in its own denominator.
    """
    contrast = torch.cat([anchors, extra])
    contrast_labels = torch.cat([anchor_labels, anchor_labels.new_full((extra.shape[0],), OUTLIER)])
    # Never in half precision: once the classes stand apart, the gradient is what large terms leave of one another.
    with torch.autocast(anchors.device.type, enabled=False):
        similarity = anchors @ contrast.T / config.temperature
    self_mask = torch.eye(anchors.shape[0], contrast.shape[0], dtype=torch.bool, device=anchors.device)
    positive = (anchor_labels[:, None] == contrast_labels[None, :]) & ~self_mask
    if config.contrastive == "supcon":
        denominator = similarity.masked_fill(self_mask, -torch.inf).logsumexp(dim=1, keepdim=True)
    else:
        negatives = similarity.masked_fill(positive | self_mask, -torch.inf).logsumexp(dim=1, keepdim=True)
        denominator = torch.logaddexp(similarity, negatives)
    log_ratio = (similarity - denominator).masked_fill(~positive, 0.0)
    counts = positive.sum(dim=1)
    per_anchor = -log_ratio.sum(dim=1) / counts.clamp_min(1)
    return per_anchor[counts > 0].mean() if bool((counts > 0).any()) else similarity.sum() * 0.0


def _sample(rows: Tensor, count: int) -> Tensor:
    """At most ``count`` of the rows (N, P), without replacement."""
    if rows.shape[0] <= count:
        return rows
    return rows[torch.randperm(rows.shape[0], device=rows.device)[:count]]


def _draw_cells(features: Tensor, kinds: Tensor, counts: dict[int, int]) -> tuple[Tensor, Tensor]:
    """At most so many cells of each kind of (B, C, h, w), kinds (B, h, w), in one row: (1, C, 1, N), (1, 1, N).

    Where there is none of them, one to be ignored: no convolution takes an empty map.
    """
    rows = features.movedim(1, -1)
    drawn = {kind: _sample(rows[kinds == kind], count) for kind, count in counts.items()}
    kept = torch.cat([kinds.new_full((len(cells),), kind) for kind, cells in drawn.items()])
    if not len(kept):
        return features[:1, :, :1, :1], kinds.new_full((1, 1, 1), IGNORE)
    return torch.cat(list(drawn.values())).T[None, :, None], kept[None, None]


def _contrast_set(
    projected: Tensor, kinds: Tensor, config: LossConfig, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """As many inliers as outliers of (B, h, w, P), by near_share and hard_share: rows (N, P), labels (N,)."""
    sets = {kind: projected[kinds == kind] for kind in (INLIER, NEAR_INLIER, OUTLIER)}
    sizes = {kind: sizes_over_processes(rows) for kind, rows in sets.items()}
    held = {kind: sum(size) for kind, size in sizes.items()}
    count = min(config.samples, held[INLIER] + held[NEAR_INLIER], held[OUTLIER])
    near = min(held[NEAR_INLIER], max(round(config.near_share * count), count - held[INLIER]))
    far = count - near
    counts = {INLIER: far * HARD_DRAW if config.hard_share else far, NEAR_INLIER: near, OUTLIER: count}
    rows = {kind: sample_over_processes(sets[kind], sizes[kind], counts[kind], generator) for kind in sets}
    if config.hard_share and far:
        hard = round(config.hard_share * far)
        rows[INLIER] = rows[INLIER][_hardest_and_others(rows[INLIER], rows[OUTLIER], hard, far, generator)]
    labels = kinds.new_zeros(count + len(rows[OUTLIER]))
    labels[count:] = OUTLIER
    return torch.cat(list(rows.values())), labels


@torch.no_grad()
def _hardest_and_others(
    inliers: Tensor, outliers: Tensor, hard: int, count: int, generator: torch.Generator | None
) -> Tensor:
    """Indices (count,) into inliers (N, P): the `hard` ones furthest along the line from their mean to that of the
    outliers (M, P), the others at random.
    """
    order = (inliers @ (outliers.mean(dim=0) - inliers.mean(dim=0))).argsort(descending=True)
    others = torch.randperm(len(order) - hard, generator=generator)[: count - hard]
    return torch.cat([order[:hard], order[hard:][others.to(order.device)]])


def flowclas_loss(
    model: FlowCLAS,
    features: Tensor,
    labels: Tensor,
    out_features: Tensor | None,
    out_labels: Tensor | None,
    config: LossConfig,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The objective alpha * NLL(inlier pixels of x_mix) + contrastive(g(z_mix), g(z_out)).

    Args:
        model: gives latents, likelihoods and projections.
        features: (B, C, h, w) of x_mix.
        labels: (B, h, w) of x_mix, on the same grid.
        out_features: (B', C, h', w') of x_out, or None.
        out_labels: (B', h', w') of x_out, or None.
        config: weights and settings.
        generator: on the CPU, draws the sampled pixels; of several processes, in the same state on each.

    Returns:
        Scalars ``loss``, ``nll`` (inliers, nats per dimension), ``nll_outlier`` (to look at) and, unless off,
        ``contrastive`` and ``outlier_hinge``.
    """
    kinds = labels.masked_fill(near_outliers(labels), NEAR_INLIER) if config.near_share else labels
    if config.cells is not None:
        near = config.cells // NEAR_CELLS if config.near_share else 0
        outliers = max(config.cells // 4, 1)
        counts = {INLIER: config.cells - near, NEAR_INLIER: near, OUTLIER: outliers}
        features, kinds = _draw_cells(features, kinds, counts)
        if out_features is not None and out_labels is not None:
            out_features, out_labels = _draw_cells(out_features, out_labels, {OUTLIER: outliers})
    labels = kinds.masked_fill(kinds == NEAR_INLIER, INLIER)
    z, log_det = model.latent(features)
    nll = model.nll_of_latent(z, log_det)
    inlier_nll = mean_inlier_nll(nll, labels)
    outlier_nll = nll[labels == OUTLIER]
    result = {
        "nll": inlier_nll,
        "nll_outlier": mean_over_processes(outlier_nll.detach(), empty=torch.nan),
        "loss": config.alpha * inlier_nll,
    }
    if config.outlier_weight:
        result["outlier_hinge"] = outlier_hinge(outlier_nll, mean_of_shares(inlier_nll.detach()), config.outlier_margin)
        result["loss"] = result["loss"] + config.outlier_weight * result["outlier_hinge"]
    if config.contrastive == "none":
        return result
    projected = model.project(z).movedim(1, -1)
    anchors, anchor_labels = _contrast_set(projected, kinds, config, generator)
    extra = projected.new_zeros(0, projected.shape[-1])
    if config.auxiliary and out_features is not None and out_labels is not None:
        z_out, _ = model.latent(out_features)
        rows = model.project(z_out).movedim(1, -1)[out_labels == OUTLIER]
        extra = sample_over_processes(rows, sizes_over_processes(rows), max(len(anchors) // 2, 1), generator)
    result["contrastive"] = contrastive_loss(anchors, anchor_labels, extra, config)
    result["loss"] = result["loss"] + result["contrastive"]
    return result
