"""FastFlow's architecture: a flow of its own for each layer of the backbone, on that layer's grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowclas_ros.model.backbone import Section
from flowclas_ros.model.flow import FlowSteps, NormalizingFlow


class FastFlow(NormalizingFlow):
    """Two-dimensional flows side by side, one a layer (Yu et al. 2021, arXiv 2111.07677, section 3.2).

    The layers' latents are independent, so the log-likelihood is the sum of theirs. A layer that is coarser than the
    feature map has couplings on its own, coarser grid, behind invertible down-sampling; its latent lies on the feature
    map's grid like all others, whence likelihood maps of all scales add up pixel by pixel, each volume counted once.

    Unlike the paper's, the features are whitened (or ActNorm alone standardises them) where it has a LayerNorm, which
    is not invertible, and the score is the joint likelihood, not a mean of the layers' own. The paper's couplings are
    one-sided with kernels 3 and 1; on a backbone with a single layer what is left is type ``glow``.
    """

    def build(self, sections: list[Section], generator: torch.Generator) -> None:
        self.sizes = [section.channels for section in sections]
        self.layers = nn.ModuleList(FlowSteps(s.channels, self.config, generator, s.factor) for s in sections)

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened features (B, C, h, w) -> z (B, C, h, w), log-determinant (B, h, w)."""
        parts = [flow(part) for flow, part in zip(self.layers, x.split(self.sizes, dim=1), strict=True)]
        return torch.cat([z for z, _ in parts], dim=1), torch.stack([log_det for _, log_det in parts]).sum(dim=0)

    def untransform(self, z: Tensor) -> Tensor:
        """The x with ``transform(x)[0] = z``."""
        parts = zip(self.layers, z.split(self.sizes, dim=1), strict=True)
        return torch.cat([flow.inverse(part) for flow, part in parts], dim=1)  # type: ignore[operator]

    def start(self, x: Tensor, mask: Tensor | None) -> None:
        """Set every ActNorm from whitened features x (B, C, h, w), over the pixels of mask (B, h, w)."""
        for flow, part in zip(self.layers, x.split(self.sizes, dim=1), strict=True):
            flow.initialise(part, mask)  # type: ignore[operator]
