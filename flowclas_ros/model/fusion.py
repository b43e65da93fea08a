"""The score of likelihood and projection margin together: what is rare and what is foreign."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowclas_ros.errors import FlowclasError


class MarginFusion(nn.Module):
    """Joins the NLL with the projection margin: how much nearer to the outliers' mean direction than to the inliers'.

    With c the median and s twice the median absolute deviation of the inliers' NLL, and m the margin in standard
    deviations of the inliers,

        score = c + s (asinh((nll - c) / s) + weight * m).

    Near c this moves with the NLL one to one. Far from it the NLL counts by its logarithm: its tail is heavy on normal
    scenes too (a rare sign, a lamp), and as it stands would drown the margin.
    """

    direction: Tensor
    offset: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, dimensions: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("direction", torch.zeros(dimensions))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, nll: Tensor, projection: Tensor) -> Tensor:
        """NLL (B, h, w) in nats per dimension, projections (B, P, h, w) -> score (B, h, w)."""
        # Not as an einsum under autocast: a product with a fixed direction is cheap, its rounding would show.
        margin = (projection * self.direction.view(1, -1, 1, 1)).sum(dim=1) - self.offset
        return self.centre + self.spread * (torch.asinh((nll - self.centre) / self.spread) + self.weight * margin)

    @torch.no_grad()
    def fit(self, inliers: Tensor, outliers: Tensor, inlier_nll: Tensor) -> None:
        """Set direction and scales; the flow and the projection head stay as they are.

        Args:
            inliers: (N, P) projections of inlier pixels.
            outliers: (M, P) projections of outlier pixels.
            inlier_nll: (N,) their NLL, nats per dimension.

        Raises:
            FlowclasError: fewer than two inliers, or no outlier.
        """
        if inliers.shape[0] < 2 or outliers.shape[0] < 1:
            raise FlowclasError(
                f"the projection margin needs inlier and outlier pixels, got {inliers.shape[0]} and {outliers.shape[0]}"
            )
        direction = outliers.double().mean(dim=0) - inliers.double().mean(dim=0)
        margins = inliers.double() @ direction
        deviation = margins.std().clamp_min(1e-12)
        self.direction.copy_(direction / deviation)
        self.offset.copy_(margins.mean() / deviation)
        self.centre.copy_(inlier_nll.median())
        self.spread.copy_((2 * (inlier_nll - self.centre).abs().median()).clamp_min(1e-6))
