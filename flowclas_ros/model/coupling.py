"""Affine coupling layers (Dinh et al. 2017, arXiv 1605.08803, eq. 4-8) and the subnets that drive them."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sides = Literal["one_sided", "two_sided"]
SubnetKind = Literal["plain", "residual"]


class PlainSubnet(nn.Sequential):
    """conv - ReLU - conv, one kernel size, last layer zero so that the coupling starts as the identity."""

    def __init__(self, in_channels: int, out_channels: int, hidden: int, kernel: int) -> None:
        last = nn.Conv2d(hidden, out_channels, kernel, padding=kernel // 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        super().__init__(nn.Conv2d(in_channels, hidden, kernel, padding=kernel // 2), nn.ReLU(), last)


class ResidualSubnet(nn.Module):
    """GroupNorm-ReLU before a 3x3, a 1x1 and a 3x3 convolution with a skip around them; last 1x1 zero."""

    def __init__(self, in_channels: int, out_channels: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(in_channels, hidden, 1) if hidden != in_channels else nn.Identity()
        layers: list[nn.Module] = []
        for kernel in (3, 1, 3):
            layers += [
                nn.GroupNorm(math.gcd(hidden, 32), hidden),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2),
            ]
        self.body = nn.Sequential(*layers)
        self.last = nn.Conv2d(hidden, out_channels, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w)."""
        x = self.enter(x)
        return self.last(x + self.body(x))


class CoarseSubnet(nn.Module):
    """A subnet that sees its input on a coarser grid, brought there and back by invertible down- and up-sampling.

    Down-sampling puts each block of factor x factor pixels into the channels (space to depth, Dinh et al. 2017,
    section 3.6), up-sampling undoes it (U-Flow's i-RevNet up-sampling). A coupling whose subnets work so is the same
    map as: down-sample, couple the two halves of the channels there, up-sample. Written this way, every scale and
    shift stays at the pixel that it acts on, so the log-determinant stays exact per pixel; and a grid that is no
    multiple of the factor needs no other flow, as what a subnet repeats at the border only informs, and is not
    transformed.
    """

    def __init__(self, subnet: nn.Module, factor: int) -> None:
        super().__init__()
        self.subnet, self.factor = subnet, factor

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w); the subnet maps factor^2 times as many channels."""
        height, width = x.shape[-2:]
        pad_h, pad_w = -height % self.factor, -width % self.factor
        if pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h), mode="replicate")
        y = F.pixel_shuffle(self.subnet(F.pixel_unshuffle(x, self.factor)), self.factor)
        return y[..., :height, :width]


class AffineCoupling(nn.Module):
    """Scales and shifts one part of the channels by functions of the other part; two-sided: then the reverse.

    The log-scale is softly clamped, ``s = clamp * tanh(raw)``, so one layer changes a channel by at most
    ``exp(+-clamp)``. The log-determinant is exactly the sum of s over pixels and channels, whatever the subnet's
    receptive field, because the Jacobian is triangular. With a ``factor`` above 1 the subnets work on a grid that much
    coarser (``CoarseSubnet``).
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        sides: Sides,
        subnet: SubnetKind,
        kernel: int,
        clamp: float,
        factor: int = 1,
    ) -> None:
        super().__init__()
        self.split = (channels // 2, channels - channels // 2)
        self.clamp = clamp

        def make(source: int, target: int) -> nn.Module:
            source, target = source * factor**2, target * factor**2
            made = (
                PlainSubnet(source, 2 * target, hidden, kernel)
                if subnet == "plain"
                else ResidualSubnet(source, 2 * target, hidden)
            )
            return CoarseSubnet(made, factor) if factor > 1 else made

        first, second = self.split
        self.drive_second = make(first, second)
        self.drive_first = make(second, first) if sides == "two_sided" else None

    def _log_scale_and_shift(self, subnet: nn.Module, source: Tensor) -> tuple[Tensor, Tensor]:
        # Under autocast the convolutions run in half precision; the latent itself keeps the precision it came in.
        raw, shift = subnet(source).to(source.dtype).chunk(2, dim=1)
        return self.clamp * torch.tanh(raw), shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> the transformed map and its log-determinant per pixel (B, h, w)."""
        a, b = x.split(self.split, dim=1)
        log_s, shift = self._log_scale_and_shift(self.drive_second, a)
        b = b * torch.exp(log_s) + shift
        log_det = log_s.sum(dim=1)
        if self.drive_first is not None:
            log_s, shift = self._log_scale_and_shift(self.drive_first, b)
            a = a * torch.exp(log_s) + shift
            log_det = log_det + log_s.sum(dim=1)
        return torch.cat([a, b], dim=1), log_det

    def inverse(self, y: Tensor) -> Tensor:
        """The x with ``forward(x) = y``: the same clamp, undone in reverse order."""
        a, b = y.split(self.split, dim=1)
        if self.drive_first is not None:
            log_s, shift = self._log_scale_and_shift(self.drive_first, b)
            a = (a - shift) * torch.exp(-log_s)
        log_s, shift = self._log_scale_and_shift(self.drive_second, a)
        b = (b - shift) * torch.exp(-log_s)
        return torch.cat([a, b], dim=1)
