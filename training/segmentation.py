"""The label track's losses: cross-entropy and Lovasz-softmax on the inliers' classes, energy-entropy on outliers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flowclas_ros.model import FlowCLAS
from flowclas_ros.model.segmentation import energy_entropy
from flowclas_ros.training.batches import by_size
from flowclas_ros.training.distributed import mean_over_processes
from flowclas_ros.training.losses import IGNORE, INLIER, OUTLIER, LossConfig

# The losses are taken at a quarter of the working resolution: finer than the feature grid, so that thin classes count,
# and a sixteenth of the cost of the Lovasz sort at full size.
LOSS_STRIDE = 4


def label_losses(
    model: FlowCLAS, features: Tensor, classes: Tensor, labels: Tensor, sizes: Tensor, config: LossConfig
) -> dict[str, Tensor]:
    """segmentation * (cross-entropy + Lovasz-softmax) + energy_entropy * energy-entropy loss.

    Args:
        model: with a segmentation head.
        features: (B, C, h, w) of x_mix.
        classes: (B, H, W) uint8 class of each pixel at image size, 255 ignore (pasted objects too).
        labels: (B, H, W) uint8, 0 inlier, 1 outlier, 255 ignore.
        sizes: (B, 2) height and width of each image in pixels; what lies beyond them is padding.
        config: the two weights; a part with weight 0 is left out.

    Returns:
        Scalars ``loss``, and unless off ``cross_entropy``, ``lovasz``, ``energy_entropy``; of several processes, this
        one's share of the mean over all of them, Lovasz-softmax apart, which is of its own images.
    """
    logits = model.logits(features)
    height, width = (cells * model.backbone.stride // LOSS_STRIDE for cells in logits.shape[-2:])
    logits = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    classes, labels = (_to_logits(model, values, sizes, (height, width), features) for values in (classes, labels))
    result: dict[str, Tensor] = {}
    loss = logits.new_zeros(())
    if config.segmentation:
        known = classes != IGNORE
        rows = logits.movedim(1, -1)[known]
        targets = classes[known].long()
        # Both are 0, and differentiable, where a batch has no labelled pixel.
        result["cross_entropy"] = mean_over_processes(F.cross_entropy(rows, targets, reduction="none"), empty=0.0)
        result["lovasz"] = lovasz_softmax(rows.softmax(dim=1), targets)
        loss = loss + config.segmentation * (result["cross_entropy"] + result["lovasz"])
    if config.energy_entropy:
        score = energy_entropy(logits, model.config.entropy_weight)
        result["energy_entropy"] = energy_entropy_loss(score, labels)
        loss = loss + config.energy_entropy * result["energy_entropy"]
    return {"loss": loss, **result}


def _to_logits(model: FlowCLAS, values: Tensor, sizes: Tensor, logits: tuple[int, int], features: Tensor) -> Tensor:
    """Labels at image size (B, H, W) brought to the logits' (B, *logits): nearest, padding ignored."""
    rows, cols = (cells * model.backbone.stride for cells in features.shape[-2:])
    seen = values.new_full((len(values), 1, rows, cols), IGNORE)
    for (height, width), places in by_size(sizes):
        own = values[places, None, :height, :width]
        size = model.working_size(height, width)
        if size != (height, width):
            own = F.interpolate(own, size=size, mode="nearest-exact")
        seen[places, :, : size[0], : size[1]] = own
    return F.interpolate(seen, size=logits, mode="nearest-exact").squeeze(1)


def lovasz_softmax(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Lovasz-softmax, mean over the classes present (Berman et al. 2018, eqs. 8 and 11, algorithm 1).

    Args:
        probabilities: (N, K), softmax of the logits.
        targets: (N,) classes, none to be ignored.

    Returns:
        Scalar in 0..1, the convex surrogate of 1 - mIoU; 0 where N is 0.
    """
    losses = []
    for label in targets.unique():
        inside = (targets == label).float()
        errors = (inside - probabilities[:, label]).abs()
        errors, order = errors.sort(descending=True)
        inside = inside[order]
        intersection = inside.sum() - inside.cumsum(0)
        union = inside.sum() + (1 - inside).cumsum(0)
        jaccard = 1 - intersection / union
        # Not as a dot product, which autocast would round to 16 bits.
        losses.append((errors * torch.diff(jaccard, prepend=jaccard.new_zeros(1))).sum())
    return torch.stack(losses).mean() if losses else probabilities.sum()


def energy_entropy_loss(score: Tensor, labels: Tensor) -> Tensor:
    """The energy-entropy score pushed below zero on inliers and above it on outliers, each side with equal weight.

    A logistic loss: the score is read as the log-odds of an outlier, which needs no margins to be chosen, since the
    level of the logits is free under cross-entropy. Score and labels are of one shape; 0 where a side has no pixel.
    """
    inliers, outliers = F.softplus(score[labels == INLIER]), F.softplus(-score[labels == OUTLIER])
    return mean_over_processes(inliers, empty=0.0) + mean_over_processes(outliers, empty=0.0)
