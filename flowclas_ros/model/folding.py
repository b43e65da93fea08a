"""Batch norms that no longer change, made part of the convolutions before them: fewer passes over large maps."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 0.01  # of the largest feature: above what TF32 rounds, far below what a wrong fold does


@torch.inference_mode(False)
@torch.no_grad()
def folded(model: Any, example: Tensor) -> Any:
    """A copy of a feature extractor, in eval mode, with its batch norms folded; the model itself where that fails.

    Which convolution a norm follows is read off the order of a module's children, and then put to the test.

    Args:
        model: image (B, 3, H, W) -> list of feature maps.
        example: an image (1, 3, H, W) to compare the two on.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return model  # hooks, by which timm reads some features, know the modules that they were put on
    copied = copy.deepcopy(model)
    if not _fold(copied):
        return model
    copied.to(memory_format=torch.channels_last)
    with torch.autocast(example.device.type, enabled=False):
        pairs = list(zip(model(example), copied(example), strict=True))
    same = all((mine - its).abs().max() <= TOLERANCE * its.abs().max() for its, mine in pairs)
    return copied if same else model


def _fold(module: nn.Module) -> int:
    """Fold every batch norm below the module that follows a convolution; how many."""
    count, before = 0, ("", nn.Module())
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, getattr(child, "act", nn.Identity()))  # which timm's BatchNormAct2d does as well
            count += 1
        else:
            count += _fold(child)
        before = (name, child)
    return count
