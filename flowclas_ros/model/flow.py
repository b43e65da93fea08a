"""The normalizing flow over a feature map: whitening, then steps of ActNorm, permutation and affine coupling."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.coupling import AffineCoupling, Sides, SubnetKind
from flowclas_ros.model.whitening import Whitening


@dataclass(frozen=True)
class FlowConfig:
    """Shape of the flow.

    Attributes:
        steps: L, number of ActNorm - permutation - coupling steps. With 0 and whitening the model is the plain
            full-covariance Gaussian on the backbone's features.
        coupling: ``two_sided`` transforms both halves of the channels in a step, ``one_sided`` one of them.
        subnet: ``plain`` (conv - ReLU - conv) or ``residual`` (GroupNorm, skip).
        kernels: kernel sizes of the plain subnets, taken in turn from step to step; the paper's are 3 and 1. With 1
            alone a step looks at one pixel and costs a ninth.
        hidden_ratio: hidden channels of a subnet as a share of C.
        clamp: bound of a coupling's log-scale: ``clamp * tanh(raw)``.
        whitening: fit a full-covariance whitening as the first layer.
        noise: standard deviation of Gaussian noise on the (whitened) features, in training mode only; it keeps the
            couplings from learning the few pseudo-outliers by heart.
        seed: of the fixed permutations.
    """

    steps: int = 8
    coupling: Sides = "two_sided"
    subnet: SubnetKind = "plain"
    kernels: tuple[int, ...] = (3, 1)
    hidden_ratio: float = 0.5
    clamp: float = 3.0
    whitening: bool = True
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise FlowclasError(f"flow.steps is {self.steps}; it must be 0 or more")
        if self.steps == 0 and not self.whitening:
            raise FlowclasError("flow.steps 0 without whitening leaves no model; set flow.whitening true")
        if not 0 < self.hidden_ratio <= 4:
            raise FlowclasError(f"flow.hidden_ratio is {self.hidden_ratio}; it must be above 0 and at most 4")
        if self.noise < 0:
            raise FlowclasError(f"flow.noise is {self.noise}; it must be 0 or more")
        if not self.kernels or any(kernel < 1 or kernel % 2 == 0 for kernel in self.kernels):
            raise FlowclasError(f"flow.kernels is {self.kernels}; it must be odd numbers such as 3, 1")
        if self.clamp <= 0:
            raise FlowclasError(f"flow.clamp is {self.clamp}; it must be above 0")

    @property
    def pointwise(self) -> bool:
        """Whether a pixel's latent and likelihood depend on that pixel's features alone."""
        return self.steps == 0 or (self.subnet == "plain" and set(self.kernels) == {1})


class ActNorm(nn.Module):
    """Per-channel scale and bias, set from the first batch to give zero mean and unit variance (Glow, section 3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Set scale and bias from x (B, C, h, w), over the pixels of mask (B, h, w)."""
        rows = x.movedim(1, -1)
        rows = rows[mask.bool()] if mask is not None else rows.flatten(0, 2)
        std = rows.std(dim=0).clamp_min(1e-6)
        self.log_scale.copy_(-std.log().view_as(self.log_scale))
        self.bias.copy_((-rows.mean(dim=0) / std).view_as(self.bias))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> scaled map, log-determinant (B, h, w)."""
        y = x * torch.exp(self.log_scale) + self.bias
        return y, self.log_scale.sum().expand(x.shape[0], *x.shape[-2:])

    def inverse(self, y: Tensor) -> Tensor:
        """The x with ``forward(x) = y``."""
        return (y - self.bias) * torch.exp(-self.log_scale)


class Permutation(nn.Module):
    """A fixed random order of the channels; its log-determinant is zero."""

    order: Tensor

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(channels, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same channels in the fixed order."""
        return x.index_select(1, self.order)

    def inverse(self, y: Tensor) -> Tensor:
        """The x with ``forward(x) = y``."""
        return y.index_select(1, self.order.argsort())


class FlowStep(nn.Module):
    """ActNorm, permutation, affine coupling."""

    def __init__(self, channels: int, config: FlowConfig, index: int, generator: torch.Generator) -> None:
        super().__init__()
        self.actnorm = ActNorm(channels)
        self.permutation = Permutation(channels, generator)
        self.coupling = AffineCoupling(
            channels,
            max(1, round(config.hidden_ratio * channels)),
            sides=config.coupling,
            subnet=config.subnet,
            kernel=config.kernels[index % len(config.kernels)],
            clamp=config.clamp,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> z (B, C, h, w), log-determinant (B, h, w)."""
        x, log_det = self.actnorm(x)
        z, coupling_log_det = self.coupling(self.permutation(x))
        return z, log_det + coupling_log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The x with ``forward(x) = z``."""
        return self.actnorm.inverse(self.permutation.inverse(self.coupling.inverse(z)))


class NormalizingFlow(nn.Module):
    """An invertible map of features (B, C, h, w) to latents of the same shape.

    The (B, h, w) log-determinant is a decomposition over pixels of the joint one: its sum is exact, and masking it per
    pixel keeps outlier and padding pixels out of the inlier likelihood.
    """

    def __init__(self, channels: int, config: FlowConfig) -> None:
        super().__init__()
        if channels < 2:
            raise FlowclasError(f"a coupling flow needs at least 2 channels, got {channels}")
        generator = torch.Generator().manual_seed(config.seed)
        self.config = config
        self.whitening = Whitening(channels) if config.whitening else None
        self.steps = nn.ModuleList(FlowStep(channels, config, i, generator) for i in range(config.steps))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, h, w) -> latent z (B, C, h, w) and log-determinant per pixel (B, h, w), in nats."""
        log_det = x.new_zeros(x.shape[0], *x.shape[-2:])
        if self.whitening is not None:
            x, log_det = self.whitening(x)
        if self.training and self.config.noise:
            x = x + self.config.noise * torch.randn_like(x)
        for step in self.steps:
            x, step_log_det = step(x)
            log_det = log_det + step_log_det
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The features x (B, C, h, w) with ``forward(x)[0] = z``."""
        for step in reversed(self.steps):
            z = step.inverse(z)  # type: ignore[operator]
        return self.whitening.inverse(z) if self.whitening is not None else z

    @torch.no_grad()
    def initialise(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Data-dependent start: fit the whitening over all batches, then every ActNorm on the first one.

        Args:
            batches: re-iterable; inlier features (B, C, h, w), each with a mask (B, h, w) of pixels that count, or
                None for all.

        Raises:
            FlowclasError: too few pixels for the whitening, or features that are not finite.
        """
        if self.whitening is not None:
            self.whitening.fit(batches)
        if not self.steps:
            return
        x, mask = next(iter(batches))
        x = x.to(next(self.parameters()).device)
        if self.whitening is not None:
            x, _ = self.whitening(x)
        for step in self.steps:
            step.actnorm.initialise(x, mask)  # type: ignore[union-attr, operator]
            x, _ = step(x)
