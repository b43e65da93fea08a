"""Edges for a coarse score: the guided filter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

COARSE_RADIUS = 2  # pixels of the coarse grid that the filter's coefficients are found on
FLATNESS = 1e-3  # epsilon of the paper, squared brightness of 0..1: what varies less than 0.03 counts as flat


def box_mean(maps: Tensor, side: int) -> Tensor:
    """Mean over ``side`` x ``side`` (odd) pixels around each, at borders of what there is: (B, K, h, w) -> the same."""
    rows = F.avg_pool2d(maps, (side, 1), stride=1, padding=(side // 2, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, side // 2), count_include_pad=False)


def guided_filter(score: Tensor, guide: Tensor, radius: float) -> Tensor:
    """A score smoothed within what looks alike in the image: near an edge of the guide it follows the edge.

    In every window the score is replaced by the line a I + b of the guide I that fits it best, and a pixel takes the
    mean of the lines of all windows that hold it (He, Sun, Tang 2013). The lines are found on a coarser grid and
    applied to the full one (He, Sun 2015, arXiv 1505.00996).

    Args:
        score: (B, 1, H, W) float32.
        guide: (B, 1, H, W), brightness in 0..1.
        radius: pixels from a window's middle to its side.

    Returns:
        (B, 1, H, W) float32, in the score's unit.
    """
    shrink = max(1, int(radius / COARSE_RADIUS))
    coarse = F.avg_pool2d(torch.cat([guide, score], dim=1), shrink, ceil_mode=True)
    side = 2 * round(radius / shrink) + 1
    image, value = coarse.split(1, dim=1)
    products = torch.cat([coarse, image * image, image * value], dim=1)
    mean_image, mean_value, mean_square, mean_product = box_mean(products, side).split(1, dim=1)
    slope = (mean_product - mean_image * mean_value) / (mean_square - mean_image * mean_image + FLATNESS)
    lines = box_mean(torch.cat([slope, mean_value - slope * mean_image], dim=1), side)
    # Blocks tile the image from its corner and reach beyond it where it is no multiple of one.
    whole = (lines.shape[-2] * shrink, lines.shape[-1] * shrink)
    lines = F.interpolate(lines, size=whole, mode="bilinear", align_corners=False)
    slope, offset = lines[..., : score.shape[-2], : score.shape[-1]].split(1, dim=1)
    return slope * guide + offset
