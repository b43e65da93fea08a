"""Edges for a coarse score: the guided filter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

COARSE_RADIUS = 2  # cells of the coarse grid, on which the filter's coefficients are found, to the narrower radius
FLATNESS = 1e-4  # epsilon of the paper, squared colour of 0..1: what varies less than 0.01 counts as flat
WIDER = 3  # times the radius: of a second filter, for what is large
CALM = 4  # the radius by this is how far around each pixel the second filter's colours are averaged


def box_mean(maps: Tensor, side: int) -> Tensor:
    """Mean over ``side`` x ``side`` (odd) pixels around each, at borders of what there is: (B, K, h, w) -> the same."""
    rows = F.avg_pool2d(maps, (side, 1), stride=1, padding=(side // 2, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, side // 2), count_include_pad=False)


def along_edges(score: Tensor, guide: Tensor, radius: float) -> Tensor:
    """Mean of the guided filters of ``radius`` and ``WIDER`` times it: small things keep their score beside the first,
    large ones become one whole by the second, which goes by colours without the finest grain: from so far around, the
    camera's noise would come out in the score. Arguments and result as of ``guided_filter``.
    """
    cell = max(1, int(radius / COARSE_RADIUS))
    calm = box_mean(guide, 2 * int(radius / CALM) + 1)
    return (guided_filter(score, guide, radius, cell) + guided_filter(score, calm, WIDER * radius, cell)) / 2


def guided_filter(score: Tensor, guide: Tensor, radius: float, cell: int) -> Tensor:
    """A score smoothed within what looks alike in the image: near an edge of the guide it follows the edge.

    In every window the score is replaced by the plane a . I + b over the guide's colours I that fits it best, and a
    pixel takes the mean of the planes of all windows that hold it (He, Sun, Tang 2013, section 3.5). The planes are
    found on a coarser grid and applied to the full one (He, Sun 2015, arXiv 1505.00996). A plane that leaves the scores
    of its window, in a colour that few of its pixels have, is held at the highest or lowest of them.

    Args:
        score: (B, 1, H, W) float32.
        guide: (B, 3, H, W) float32, colours in 0..1.
        radius: pixels from a window's middle to its side.
        cell: pixels of the image to a side of one of the coarser grid; at most the radius.

    Returns:
        (B, 1, H, W) float32, in the score's unit.
    """
    coarse = F.avg_pool2d(torch.cat([guide, score], dim=1), cell, ceil_mode=True)
    middle = coarse.mean(dim=(2, 3), keepdim=True)  # taken off, so that small differences survive float32
    colour, value = (coarse - middle).split((3, 1), dim=1)
    side = 2 * round(radius / cell) + 1
    first, second = torch.triu_indices(3, 3, device=score.device)
    products = torch.cat([colour, value, colour * value, colour[:, first] * colour[:, second]], dim=1)
    mean_colour, mean_value, mean_product, mean_square = box_mean(products, side).split((3, 1, 3, 6), dim=1)
    covariance = mean_square - mean_colour[:, first] * mean_colour[:, second]
    slope = _solve(covariance, mean_product - mean_colour * mean_value)
    planes = box_mean(torch.cat([slope, mean_value - _dot(slope, mean_colour)], dim=1), side)
    # Blocks tile the image from its corner and reach beyond it where it is no multiple of one.
    whole, (height, width) = [size * cell for size in planes.shape[-2:]], score.shape[-2:]
    planes = F.interpolate(planes, size=whole, mode="bilinear", align_corners=False)[..., :height, :width]
    slope, offset = planes.split((3, 1), dim=1)
    filtered = _dot(slope, guide - middle[:, :3]) + offset + middle[:, 3:]
    ends = F.max_pool2d(torch.cat([score, -score], dim=1), cell, ceil_mode=True)
    ends = F.max_pool2d(ends, (side, 1), stride=1, padding=(side // 2, 0))
    ends = F.max_pool2d(ends, (1, side), stride=1, padding=(0, side // 2))
    high, low = F.interpolate(ends, size=whole, mode="nearest")[..., :height, :width].split(1, dim=1)
    return torch.minimum(torch.maximum(filtered, -low), high)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(dim=1, keepdim=True)


def _solve(covariance: Tensor, right: Tensor) -> Tensor:
    """(C + FLATNESS) x = right at every pixel: C's upper triangle (B, 6, h, w), right (B, 3, h, w) -> (B, 3, h, w).

    By the factors L D L^T, written out: torch.linalg calls LAPACK for each pixel, many times slower.
    """
    rr, rg, rb, gg, gb, bb = covariance.unbind(dim=1)
    x, y, z = right.unbind(dim=1)
    first = rr + FLATNESS
    g_r, b_r = rg / first, rb / first
    second = gg + FLATNESS - g_r * rg
    b_g = (gb - g_r * rb) / second
    third = bb + FLATNESS - b_r * rb - b_g * b_g * second
    y = y - g_r * x
    z = (z - b_r * x - b_g * y) / third
    y = y / second - b_g * z
    x = x / first - g_r * y - b_r * z
    return torch.stack([x, y, z], dim=1)
