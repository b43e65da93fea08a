"""The normalizing flow over a feature map: whitening, then steps of ActNorm, permutation and affine coupling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from flowclas_ros.errors import FlowclasError, require
from flowclas_ros.model.backbone import Section
from flowclas_ros.model.coupling import AffineCoupling, Sides, SubnetKind
from flowclas_ros.model.whitening import Whitening

FlowType = Literal["glow", "fastflow", "uflow"]


@dataclass(frozen=True)
class FlowConfig:
    """Shape of the flow.

    Attributes:
        steps: L, number of ActNorm - permutation - coupling steps. With 0 and whitening the model is the plain
            full-covariance Gaussian on the backbone's features.
        coupling: ``two_sided`` transforms both halves of the channels in each step, ``one_sided`` only one.
        subnet: ``plain`` (conv - ReLU - conv) or ``residual`` (GroupNorm, skip).
        kernels: kernel sizes of the plain subnets, taken in turn from step to step; the paper's are 3 and 1. With only
            1, a step looks at one cell at a time and costs a ninth.
        hidden_ratio: hidden channels of a subnet as a share of the feature channels C.
        clamp: bound of a coupling's log-scale: ``clamp * tanh(raw)``.
        whitening: fit a full-covariance whitening as the first layer.
        noise: standard deviation of Gaussian noise on the (whitened) features, in training only, so that the few
            pseudo-outliers are not learned by heart.
        seed: seed of the fixed permutations.
        type: ``glow``, the paper's: all channels on one grid; ``fastflow``: a flow of its own for each layer of the
            backbone (fastflow.py); ``uflow``: stages from the coarsest layer to the finest (uflow.py). L counts the
            steps of each flow or stage.
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
    type: FlowType = "glow"

    def __post_init__(self) -> None:
        require(self.steps >= 0, "flow.steps", self.steps, "0 or more")
        if self.steps == 0 and not self.whitening:
            raise FlowclasError("flow.steps 0 without whitening leaves no model; set flow.whitening true")
        require(0 < self.hidden_ratio <= 4, "flow.hidden_ratio", self.hidden_ratio, "above 0 and at most 4")
        require(self.noise >= 0, "flow.noise", self.noise, "0 or more")
        odd = bool(self.kernels) and all(kernel >= 1 and kernel % 2 == 1 for kernel in self.kernels)
        require(odd, "flow.kernels", self.kernels, "odd numbers such as 3, 1")
        require(self.clamp > 0, "flow.clamp", self.clamp, "above 0")

    @property
    def pointwise(self) -> bool:
        """Whether a pixel's latent and likelihood depend on that pixel's features alone."""
        # The other types see the coarser layers in blocks of cells.
        alone = self.type == "glow" and self.subnet == "plain" and set(self.kernels) == {1}
        return self.steps == 0 or alone


STILL = 0.01  # of the channels' median standard deviation: below, a channel does not move


def usual_where_still(std: Tensor) -> Tensor:
    """Standard deviations of channels (C,), their median in place of those of channels that do not move."""
    moving = std[std > 0]
    usual = moving.median() if moving.numel() else std.new_ones(())
    return torch.where(std < STILL * usual, usual, std).clamp_min(1e-6)


class ActNorm(nn.Module):
    """Per-channel scale and bias, set from the first batch to give zero mean and unit variance (Glow, section 3.1).

    A channel that does not move in it, as of a ReLU that none of its images excites, takes the others' usual scale.
    With unit variance, the first image that does move it would lie millions of deviations away.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Set scale and bias from x (B, C, h, w), over the pixels of mask (B, h, w)."""
        rows = x.movedim(1, -1)
        rows = rows[mask.bool()] if mask is not None else rows.flatten(0, 2)
        std = usual_where_still(rows.std(dim=0))
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
    """ActNorm, permutation, affine coupling; the coupling's subnets on a grid coarser by ``factor``."""

    def __init__(self, channels: int, config: FlowConfig, index: int, generator: torch.Generator, factor: int) -> None:
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
            factor=factor,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> z (B, C, h, w), log-determinant (B, h, w)."""
        x, log_det = self.actnorm(x)
        z, coupling_log_det = self.coupling(self.permutation(x))
        return z, log_det + coupling_log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The x with ``forward(x) = z``."""
        return self.actnorm.inverse(self.permutation.inverse(self.coupling.inverse(z)))


class FlowSteps(nn.ModuleList):
    """L steps one after the other on the same channels and grid.

    Raises:
        FlowclasError: fewer than 2 channels, which no coupling can split.
    """

    def __init__(self, channels: int, config: FlowConfig, generator: torch.Generator, factor: int = 1) -> None:
        if channels < 2:
            raise FlowclasError(f"a coupling flow needs at least 2 channels, got {channels}")
        super().__init__(FlowStep(channels, config, i, generator, factor) for i in range(config.steps))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> z (B, C, h, w), log-determinant (B, h, w)."""
        log_det = x.new_zeros(x.shape[0], *x.shape[-2:])
        for step in self:
            x, step_log_det = step(x)
            log_det = log_det + step_log_det
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The x with ``forward(x) = z``."""
        for step in reversed(self):
            z = step.inverse(z)  # type: ignore[operator]
        return z

    def initialise(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Start every ActNorm from x (B, C, h, w) over the pixels of mask (B, h, w); the z of x."""
        for step in self:
            step.actnorm.initialise(x, mask)  # type: ignore[union-attr, operator]
            x, _ = step(x)
        return x


class NormalizingFlow(nn.Module):
    """An invertible map of features (B, C, h, w) to latents of the same shape.

    The (B, h, w) log-determinant is a decomposition over pixels of the joint one: its sum is exact, and masking it per
    pixel keeps outlier and padding pixels out of the inlier likelihood.

    This is type ``glow``. Another type is a subclass that says what comes after the whitening: ``build``,
    ``transform``, ``untransform`` and ``start``.

    Args:
        channels: C.
        config: shape of the flow.
        sections: the backbone's layers whose channels, in this order, are the C; none given: all are of one layer.
    """

    def __init__(self, channels: int, config: FlowConfig, sections: Sequence[Section] = ()) -> None:
        super().__init__()
        self.config = config
        self.whitening = Whitening(channels) if config.whitening else None
        self.build(list(sections) or [Section(channels)], torch.Generator().manual_seed(config.seed))

    def build(self, sections: list[Section], generator: torch.Generator) -> None:
        """Make the layers; the generator draws the fixed permutations."""
        self.steps = FlowSteps(sum(section.channels for section in sections), self.config, generator)

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened features (B, C, h, w) -> z (B, C, h, w), log-determinant (B, h, w)."""
        return self.steps(x)  # type: ignore[no-any-return]

    def untransform(self, z: Tensor) -> Tensor:
        """The x with ``transform(x)[0] = z``."""
        return self.steps.inverse(z)

    def start(self, x: Tensor, mask: Tensor | None) -> None:
        """Set every ActNorm from whitened features x (B, C, h, w), over the pixels of mask (B, h, w)."""
        self.steps.initialise(x, mask)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, h, w) -> latent z (B, C, h, w) and log-determinant per pixel (B, h, w), in nats."""
        log_det = x.new_zeros(x.shape[0], *x.shape[-2:])
        if self.whitening is not None:
            x, log_det = self.whitening(x)
        if self.training and self.config.noise:
            x = x + self.config.noise * torch.randn_like(x)
        z, flow_log_det = self.transform(x)
        return z, log_det + flow_log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The features x (B, C, h, w) with ``forward(x)[0] = z``."""
        x = self.untransform(z)
        return self.whitening.inverse(x) if self.whitening is not None else x

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
        if not self.config.steps:
            return
        x, mask = next(iter(batches))
        x = x.to(next(self.parameters()).device)
        if self.whitening is not None:
            x, _ = self.whitening(x)
        self.start(x, mask)
