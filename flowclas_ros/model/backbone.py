"""A frozen timm model as a feature map: image in, (B, C, h, w) out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.folding import folded
from flowclas_ros.model.timm_model import create, first_line, is_plain_transformer, lacking


@dataclass(frozen=True)
class BackboneConfig:
    """Which timm model, with which weights, read at which layers.

    Attributes:
        name: timm model name, such as ``vit_large_patch14_dinov2`` or ``mobilenetv2_100``.
        weights: ``hub`` (timm's own pretrained weights), ``random``, or the path of a local ``.safetensors`` file.
        layers: vision transformer: block numbers, negative from the end; convolutional net: stage numbers (timm's
            ``out_indices``). Empty: the last one. Several are concatenated channel-wise in the backbone's own order;
            none may appear twice.
        stride: convolutional nets only: the stride in pixels that every stage is resampled to; null: the coarsest one.
        scales: sizes at which the image is seen, relative to its own. The maps of the others are resampled to the grid
            of the first and concatenated channel-wise. Sharper; the cost grows with the square of each.
        mean: of RGB in 0..1, for normalisation; null: what timm states for these weights.
        std: of RGB in 0..1, for normalisation; null: what timm states for these weights.
        kwargs: further arguments of ``timm.create_model``, such as ``{"pad_type": "same"}``.
    """

    name: str = "vit_large_patch14_dinov2"
    weights: str = "hub"
    layers: tuple[int, ...] = ()
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.scales or self.scales[0] != 1.0 or not all(0.25 <= scale <= 4 for scale in self.scales):
            raise FlowclasError(
                f"backbone.scales is {list(self.scales)}; the first must be 1, the others from 0.25 to 4"
            )


@dataclass(frozen=True)
class Section:
    """The channels of the feature map that one layer of the backbone gave at one scale.

    Attributes:
        channels: how many.
        factor: how much coarser the layer's own grid is than the feature map's; 1 where it is as fine, or finer.
    """

    channels: int
    factor: int = 1


class FrozenBackbone(nn.Module):
    """A timm model that is never trained: always in eval mode, without gradients, preprocessing included.

    Attributes:
        adapted: low-rank updates are being trained in it, so that its features have gradients after all.
        channels: C, channels of the feature map (sum over the layers).
        stride: pixels per cell of the feature map.
        sections: the layers that the channels came from, in the channels' order; those of further scales behind.

    Raises:
        FlowclasError: timm has no such model, its weights are not to be had, or a layer does not exist or stands twice.
    """

    mean: Tensor
    std: Tensor
    model: Any  # timm's models share attributes, not a type
    channels: int
    stride: int
    sections: list[Section]

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.adapted = False
        # The model as it runs once it is frozen: in a list, so that it is no module of this one and not saved twice.
        self._fast: list[Any] = []
        self.is_transformer = is_plain_transformer(config.name)
        self.model, missing = create(config, self.is_transformer)
        if self.is_transformer:
            self._set_up_transformer()
        else:
            self._set_up_convolutional()
        self.channels = sum(section.channels for section in self.sections)
        cfg = self.model.pretrained_cfg
        mean, std = config.mean or cfg["mean"], config.std or cfg["std"]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()
        if missing := lacking(self.model, missing):
            raise FlowclasError(
                f"backbone weights '{config.weights}' lack {len(missing)} tensors of '{config.name}', such as "
                f"{', '.join(missing[:3])}: they are another model's, or of another library; give timm's own"
            )
        self._try_out()

    def _set_up_transformer(self) -> None:
        depth = len(self.model.blocks)
        layers = self.config.layers or (depth - 1,)
        for layer in layers:
            if not -depth <= layer < depth:
                raise FlowclasError(f"backbone '{self.config.name}' has {depth} blocks; there is no layer {layer}")
        self.layers = _ascending(layers, depth)
        self.stride = self.pad_multiple = int(self.model.patch_embed.patch_size[0])
        factors = [max(1, round(1 / scale)) for scale in self.config.scales]
        self.sections = [Section(self.model.embed_dim, factor) for factor in factors for _ in self.layers]

    def _set_up_convolutional(self) -> None:
        _drop_unused_blocks(self.model)
        info = self.model.feature_info
        layers = _ascending(info.out_indices, len(info))
        reductions = info.reduction(layers)
        self.model.to(memory_format=torch.channels_last)  # a third faster on CPUs, and what tensor cores want
        self.stride = self.config.stride or max(reductions)
        self.pad_multiple = math.lcm(self.stride, *reductions)
        self.sections = [
            Section(channels, max(1, round(reduction / self.stride / scale)))
            for scale in self.config.scales
            for channels, reduction in zip(info.channels(layers), reductions, strict=True)
        ]

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stay in eval mode: a trainer's ``model.train()`` must not change the frozen features."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features of RGB images.

        Args:
            images: (B, 3, H, W), RGB in 0..1, any size; padded at the right and bottom by repeating the border up to
                a whole number of patches, and cropped back.

        Returns:
            (B, C, ceil(H / stride), ceil(W / stride)).
        """
        if self.adapted:
            self._fast.clear()  # its weights will be others once the updates are merged
            return self.feature_map(images)
        with torch.no_grad():
            return self._feature_map(images, self._frozen_model())

    def feature_map(self, images: Tensor) -> Tensor:
        """What ``forward`` gives, with gradients where they are asked for: for a backbone in the making."""
        return self._feature_map(images, self.model)

    def _frozen_model(self) -> Any:
        """The model, its batch norms folded: a third less time on a CPU with MobileNetV2."""
        if not self._fast:
            side = math.lcm(64, self.pad_multiple)
            example = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
            example = example.to(next(self.model.parameters()))
            self._fast.append(self.model if self.is_transformer else folded(self.model, example))
        return self._fast[0]

    def _apply(self, fn: Any, recurse: bool = True) -> FrozenBackbone:
        """A module that has moved folds anew."""
        self._fast.clear()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Other weights fold anew. By no hook, whose closure over the module would keep it after its end."""
        self._fast.clear()
        super()._load_from_state_dict(*args, **kwargs)

    @torch.no_grad()
    def _try_out(self) -> None:
        """Raise FlowclasError for a model that takes one size of images only, or lays its maps out in another way."""
        side = self.pad_multiple * math.ceil(64 / self.pad_multiple)
        expected = (1, self.channels, side // self.stride, side // self.stride)
        try:
            found = tuple(self.feature_map(torch.zeros(1, 3, side, side)).shape)
        except Exception as error:  # of as many types as there are models
            raise FlowclasError(
                f"backbone '{self.config.name}' takes no image of {side}x{side} pixels ({first_line(error)}): choose a "
                "model that takes images of any size"
            ) from error
        if found != expected:
            raise FlowclasError(
                f"backbone '{self.config.name}' gives a map {found} where (B, C, h, w) is {expected}: it cannot be used"
            )

    def _feature_map(self, images: Tensor, model: Any) -> Tensor:
        x = (images - self.mean) / self.std
        grid = (math.ceil(x.shape[-2] / self.stride), math.ceil(x.shape[-1] / self.stride))
        # Whole cells are scaled to whole cells: the grids then cover one another exactly.
        whole = self.padded(x, self.stride)
        maps = []
        for scale in self.config.scales:
            cells = grid if scale == 1 else tuple(max(1, round(side * scale)) for side in grid)
            seen = whole
            if cells != grid:
                size = [side * self.stride for side in cells]
                seen = F.interpolate(whole, size=size, mode="bilinear", align_corners=False, antialias=True)
            maps += [_resize_map(m[..., : cells[0], : cells[1]], grid) for m in self._maps(seen, model)]
        return torch.cat(maps, dim=1)

    @staticmethod
    def padded(x: Tensor, multiple: int) -> Tensor:
        """Images (B, 3, H, W), at the right and bottom their border repeated up to a multiple of so many pixels."""
        pad_h, pad_w = -x.shape[-2] % multiple, -x.shape[-1] % multiple
        return F.pad(x, (0, pad_w, 0, pad_h), mode="replicate") if pad_h or pad_w else x

    def _maps(self, x: Tensor, model: Any) -> list[Tensor]:
        x = self.padded(x, self.pad_multiple)
        return self._transformer_maps(x, model) if self.is_transformer else self._convolutional_maps(x, model)

    def _transformer_maps(self, x: Tensor, model: Any) -> list[Tensor]:
        # forward_intermediates drops prefix tokens (class, registers), applies the final norm to each layer's and lays
        # tokens out; it stops behind the last layer that is read.
        maps = model.forward_intermediates(
            x, indices=self.layers, norm=True, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        return list(maps)

    def _convolutional_maps(self, x: Tensor, model: Any) -> list[Tensor]:
        size = (x.shape[-2] // self.stride, x.shape[-1] // self.stride)
        x = x.contiguous(memory_format=torch.channels_last)
        return [_resize_map(m, size) for m in model(x)]

    def content_sha256(self) -> str:
        """Hash of the weights' names and values, which tells one backbone from another of the same name."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _resize_map(features: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(features.shape[-2:]) == size:
        return features
    if features.shape[-2] > size[0]:
        return F.adaptive_avg_pool2d(features, size)
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def _ascending(layers: Sequence[int], depth: int) -> list[int]:
    """The layers counted from the first, in the order in which timm gives their maps, whatever the order asked for."""
    numbers = sorted(layer % depth for layer in layers)
    if twice := [one for one, following in pairwise(numbers) if one == following]:
        raise FlowclasError(f"backbone.layers {list(layers)} names layer {twice[0]} of {depth} twice; name each once")
    return numbers


def _drop_unused_blocks(model: Any) -> None:
    """Without those behind the last stage that is read, which timm's EfficientNet-like extractors keep and compute."""
    stages = model.feature_info.get_dicts(keys=["stage"]) if hasattr(model, "blocks") else []
    if stages and isinstance(model.blocks, nn.Sequential) and all("stage" in stage for stage in stages):
        del model.blocks[max(stage["stage"] for stage in stages) :]
