"""The base density of the flow: a learnable diagonal Gaussian."""

import math

import torch
from torch import Tensor, nn


class DiagonalGaussian(nn.Module):
    """N(mu, diag(sigma^2)) over the channels of a latent map, the same at every pixel; starts at N(0, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_sigma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def whiten(self, z: Tensor) -> Tensor:
        """(z - mu) / sigma, shape (B, C, h, w)."""
        return (z - self.mu) * torch.exp(-self.log_sigma)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of each pixel in nats: (B, C, h, w) -> (B, h, w)."""
        constant = (self.log_sigma + 0.5 * math.log(2 * math.pi)).sum()
        return -0.5 * self.whiten(z).square().sum(dim=1) - constant
