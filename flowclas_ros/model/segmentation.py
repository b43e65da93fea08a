"""The label track's part of the model: class logits on the backbone's features, and what they say of an anomaly."""

from __future__ import annotations

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

WIDTH = 128  # hidden channels


class SegmentationHead(nn.Module):
    """A light head: the features normalised at each pixel, a 3x3 convolution, a 1x1 convolution to the classes.

    Attributes:
        energy_offset, energy_scale: what brings the energy-entropy score to the spread of the score it joins.
    """

    energy_offset: Tensor
    energy_scale: Tensor

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            LayerNorm2d(channels),
            nn.Conv2d(channels, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, classes, 1),
        )
        self.register_buffer("energy_offset", torch.zeros(()))
        self.register_buffer("energy_scale", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) -> class logits (B, K, h, w), float32."""
        logits: Tensor = self.layers(features)
        return logits.float()

    @torch.no_grad()
    def fit_scale(self, energy: Tensor, score: Tensor) -> None:
        """From inlier pixels' energy-entropy score (N,) and the score (N,) that it is to join.

        The spread is the median absolute deviation: both tails are heavy on normal scenes too.
        """
        spreads = [(values - values.median()).abs().median() for values in (energy, score)]
        self.energy_offset.copy_(energy.median())
        self.energy_scale.copy_(spreads[1] / spreads[0].clamp_min(1e-6))


def energy_entropy(logits: Tensor, entropy_weight: float) -> Tensor:
    """alpha * H - E of class logits (B, K, ...): (B, ...) in nats, the higher the more anomalous.

    H is the entropy of the softmax, E = log sum exp of the logits, the negative of Liu et al.'s free energy (2020):
    an anomaly fits no class (low E) or several as well (high H). Energy-entropy score of arXiv 2504.19706.
    """
    log_p = logits.log_softmax(dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=1)
    return entropy_weight * entropy - logits.logsumexp(dim=1)
