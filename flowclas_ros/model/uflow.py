"""U-Flow's architecture: stages from the coarsest layer of the backbone to the finest, half of each going up."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowclas_ros.model.backbone import Section
from flowclas_ros.model.flow import FlowSteps, NormalizingFlow


class UFlow(NormalizingFlow):
    """A U-shaped flow (Tailanian et al. 2022, arXiv 2211.12353, section 3.2).

    The coarsest layer's channels pass a stage of steps; half of the result is latent, the other half is up-sampled and
    joins the next finer layer's channels, which pass the next stage, and so on; of the finest stage all is latent. A
    coarse stage works on its own grid behind invertible down-sampling; joining and splitting only regroup. So the
    latents of all stages lie on the feature map's grid, and their likelihood maps add up pixel by pixel, each volume
    counted once. The paper means the scales' own likelihoods instead of taking the joint one.

    A backbone whose layers are all as fine as the feature map, such as a vision transformer, has no coarser layer: then
    the second half of the channels is taken as one, at half the resolution.
    """

    def build(self, sections: list[Section], generator: torch.Generator) -> None:
        if all(section.factor == 1 for section in sections):
            channels = sum(section.channels for section in sections)
            sections = [Section(channels - channels // 2), Section(channels // 2, 2)]
        self.order = sorted(range(len(sections)), key=lambda i: -sections[i].factor)  # coarse to fine
        self.sizes = [section.channels for section in sections]
        stages, self.stage_sizes, risen = [], [], 0
        for i in self.order:
            self.stage_sizes.append(self.sizes[i] + risen)
            stages.append(FlowSteps(self.stage_sizes[-1], self.config, generator, sections[i].factor))
            risen = self.stage_sizes[-1] // 2
        self.stages = nn.ModuleList(stages)

    def _joined(self, parts: tuple[Tensor, ...], risen: Tensor | None, stage: int) -> Tensor:
        own = parts[self.order[stage]]
        return own if risen is None else torch.cat([own, risen], dim=1)

    def _split(self, x: Tensor, stage: int) -> tuple[Tensor, Tensor | None]:
        """What stays as latent, and what goes up to the next stage."""
        if stage == len(self.order) - 1:
            return x, None
        rising = self.stage_sizes[stage] // 2
        return x[:, rising:], x[:, :rising]

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened features (B, C, h, w) -> z (B, C, h, w), coarse latents first, and log-determinant (B, h, w)."""
        parts = x.split(self.sizes, dim=1)
        log_det = x.new_zeros(x.shape[0], *x.shape[-2:])
        latents, risen = [], None
        for number, stage in enumerate(self.stages):
            z, stage_log_det = stage(self._joined(parts, risen, number))
            log_det = log_det + stage_log_det
            latent, risen = self._split(z, number)
            latents.append(latent)
        return torch.cat(latents, dim=1), log_det

    def untransform(self, z: Tensor) -> Tensor:
        """The x with ``transform(x)[0] = z``."""
        rising = [size // 2 for size in self.stage_sizes[:-1]] + [0]
        latents = z.split([size - up for size, up in zip(self.stage_sizes, rising, strict=True)], dim=1)
        parts: dict[int, Tensor] = {}
        risen = z[:, :0]
        for number in reversed(range(len(self.order))):
            y = torch.cat([risen, latents[number]], dim=1)
            joined = self.stages[number].inverse(y)  # type: ignore[operator]
            own = self.sizes[self.order[number]]
            parts[self.order[number]], risen = joined[:, :own], joined[:, own:]
        return torch.cat([parts[i] for i in range(len(self.sizes))], dim=1)

    def start(self, x: Tensor, mask: Tensor | None) -> None:
        """Set every ActNorm from whitened features x (B, C, h, w), over the pixels of mask (B, h, w)."""
        parts = x.split(self.sizes, dim=1)
        risen = None
        for number, stage in enumerate(self.stages):
            z = stage.initialise(self._joined(parts, risen, number), mask)  # type: ignore[operator]
            _, risen = self._split(z, number)
