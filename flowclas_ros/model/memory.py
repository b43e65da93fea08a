"""A memory of the normal world: how far a cell's surroundings lie from everything that was seen in fitting."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.backbone import Section
from flowclas_ros.model.flow import usual_where_still
from flowclas_ros.model.fusion import centre_and_spread
from flowclas_ros.model.guided import box_mean

CELLS = 8000  # remembered; a quarter of them cost a tenth more false alarms, and more of them time on every frame
SIDE = 5  # cells a side of the surroundings
FARTHEST = 64  # standard deviations from 0 that a channel's mean may lie: some ten times what is common
CHUNK = 2048  # cells compared at once: their distances to all remembered ones lie in memory


class NormalMemory(nn.Module):
    """Distance of each cell's surroundings to the nearest of some thousand normal ones (PatchCore, arXiv 2106.08265).

    The surroundings are the mean over ``SIDE`` x ``SIDE`` cells of the chosen channels, each in its standard deviations
    over what is remembered; the remembered ones are drawn at random. A likelihood tells a rare cell among normal ones
    from a common one, a memory what is like none: a lamp that was seen once is near, however rare it is.

    Calling it gives asinh((d - c) / s) of the distance d, with c the median and s twice the median absolute deviation
    on normal scenes, as ``MarginFusion`` has the likelihood.
    """

    scale: Tensor
    cells: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, sections: Sequence[Section], layers: Sequence[int]) -> None:
        super().__init__()
        if unknown := [n for n in layers if not 0 <= n < len(sections)]:
            raise FlowclasError(f"memory_layers names layer {unknown[0]}; the features have 0 to {len(sections) - 1}")
        if not layers:
            raise FlowclasError("memory_layers is empty; name at least one layer, or set memory_weight 0")
        ends = torch.tensor([section.channels for section in sections]).cumsum(0).tolist()
        self.channels = [slice(ends[n] - sections[n].channels, ends[n]) for n in layers]
        size = sum(sections[n].channels for n in layers)
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("cells", torch.zeros(CELLS, size, dtype=torch.float16))  # half the file, at no loss
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def surroundings(self, features: Tensor) -> Tensor:
        """Of features (B, C, h, w): (B, h, w, D), unscaled."""
        # By slices: a list of channels would go to the GPU with every frame, and the CPU wait for it.
        chosen = torch.cat([features[:, channels] for channels in self.channels], dim=1)
        return box_mean(chosen, SIDE).movedim(1, -1)

    def distance(self, features: Tensor) -> Tensor:
        """To the nearest remembered cell, in standard deviations: features (B, C, h, w) -> (B, h, w) float32."""
        with torch.autocast(features.device.type, enabled=False):
            rows, cells = self.surroundings(features.float()) / self.scale, self.cells.float()
            chunks = rows.flatten(0, 2).split(CHUNK)
            return torch.cat([torch.cdist(chunk, cells).amin(dim=1) for chunk in chunks]).view(rows.shape[:3])

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) -> how unlike anything remembered, without unit (B, h, w) float32."""
        return torch.asinh((self.distance(features) - self.centre) / self.spread)

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor | None]], count: int, generator: torch.Generator) -> None:
        """Remember cells of normal frames, as many of each batch, or more of the others where one has too few.

        Args:
            batches: re-iterable; features (B, C, h, w), each with a mask (B, h, w) of the cells that count, or None for
                all.
            count: of the batches.
            generator: on the CPU, of the draw.

        Raises:
            FlowclasError: fewer cells than are to be remembered.
        """
        cells, sizes = self._draw(batches, math.ceil(CELLS / count), generator)
        if sum(sizes) < CELLS:
            raise FlowclasError(
                f"the memory of normal cells takes {CELLS}, these images gave {sum(sizes)}; give more or larger "
                "images, or set model.memory_weight 0"
            )
        if len(cells) < CELLS:  # the last batch is short, or much of one is padding
            share = next(share for share in range(CELLS + 1) if sum(min(size, share) for size in sizes) >= CELLS)
            cells, _ = self._draw(batches, share, generator)
        cells = cells[torch.randperm(len(cells), generator=generator)[:CELLS].to(cells.device)]
        # A channel that hardly moves, but far from 0, would leave the range of half precision and drown the others.
        self.scale.copy_(usual_where_still(torch.maximum(cells.std(dim=0), cells.mean(dim=0).abs() / FARTHEST)))
        self.cells.copy_(cells / self.scale)

    def _draw(
        self, batches: Iterable[tuple[Tensor, Tensor | None]], share: int, generator: torch.Generator
    ) -> tuple[Tensor, list[int]]:
        """At most ``share`` cells of each batch, (N, D) unscaled, and how many cells each has."""
        drawn, sizes = [], []
        for features, mask in batches:
            rows = self.surroundings(features)
            rows = rows.flatten(0, 2) if mask is None else rows[mask.bool()]
            chosen = torch.randperm(len(rows), generator=generator)[:share]
            drawn.append(rows[chosen.to(rows.device)].float())
            sizes.append(len(rows))
        return torch.cat(drawn), sizes

    @torch.no_grad()
    def fit_scale(self, distances: Tensor) -> None:
        """Set c and s from the distances (N,) of normal cells."""
        centre, spread = centre_and_spread(distances)
        self.centre.copy_(centre)
        self.spread.copy_(spread)
