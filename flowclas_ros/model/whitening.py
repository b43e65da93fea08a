"""Exact, invertible whitening of features, fitted from data: the flow then starts as a full-covariance Gaussian."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from flowclas_ros.errors import FlowclasError


class Whitening(nn.Module):
    """y = W (x - mean) at every pixel, with W = covariance^(-1/2) (the symmetric, ZCA root).

    No direction is dropped: the low-variance ones carry much of the anomaly signal. With no flow step behind it and a
    standard normal base, the negative log-likelihood is that of a full-covariance Gaussian on the features.
    """

    mean: Tensor
    weight: Tensor
    log_det: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("weight", torch.eye(channels))
        self.register_buffer("log_det", torch.zeros(()))

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor | None]], *, shrinkage: float = 1e-4) -> None:
        """Set mean and weight from inlier features.

        Args:
            batches: features (B, C, h, w), each with a mask (B, h, w) of the pixels that count, or None for all.
            shrinkage: share of the mean variance that is added to every eigenvalue, so that a channel that never
                moves cannot blow up (Ledoit-Wolf style, towards the scaled identity).

        Raises:
            FlowclasError: fewer pixels than channels, or features that are not finite.
        """
        channels = self.mean.numel()
        device = self.mean.device
        # Accumulate about the first batch's mean: the raw second moment would lose digits to cancellation.
        count, origin = 0, None
        total = torch.zeros(channels, dtype=torch.float64, device=device)
        outer = torch.zeros(channels, channels, dtype=torch.float64, device=device)
        for features, mask in batches:
            rows = features.movedim(1, -1)
            rows = rows[mask.bool()] if mask is not None else rows.reshape(-1, channels)
            rows = rows.to(device=device, dtype=torch.float64)
            if rows.shape[0] == 0:
                continue
            origin = rows.mean(dim=0) if origin is None else origin
            rows = rows - origin
            count += rows.shape[0]
            total += rows.sum(dim=0)
            outer += rows.T @ rows
        if origin is None or count <= channels:
            raise FlowclasError(
                f"whitening {channels} channels needs more than {channels} inlier pixels of the feature map, got "
                f"{count}; give more images"
            )
        shift = total / count
        covariance = outer / count - torch.outer(shift, shift)
        if not torch.isfinite(covariance).all():
            raise FlowclasError("the backbone's features hold values that are not finite; check images and weights")
        self._set(origin + shift, covariance, shrinkage)

    def _set(self, mean: Tensor, covariance: Tensor, shrinkage: float) -> None:
        variances, directions = torch.linalg.eigh(covariance)
        variances = variances.clamp_min(0) + shrinkage * variances.mean()
        self.mean.copy_(mean)
        self.weight.copy_((directions * variances.rsqrt()) @ directions.T)
        self.log_det.copy_(-0.5 * variances.log().sum())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> the whitened map and its constant log-determinant (B, h, w)."""
        batch, channels, height, width = x.shape
        # Never in half precision: the weight amplifies low-variance directions by orders of magnitude.
        with torch.autocast(x.device.type, enabled=False):
            centred = x.flatten(2) - self.mean.view(1, -1, 1)
            y = torch.matmul(self.weight, centred).view(batch, channels, height, width)
        return y, self.log_det.expand(batch, height, width)

    def inverse(self, y: Tensor) -> Tensor:
        """The x with ``forward(x) = y``."""
        x = torch.linalg.solve(self.weight, y.flatten(2)) + self.mean.view(1, -1, 1)
        return x.view_as(y)
