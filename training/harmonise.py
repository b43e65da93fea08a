"""Harmonised pasting: an object stands on the ground, as large as its distance lets it, in the scene's own light.

The parts of ComsAmy's synthesiser (arXiv 2504.19706) that need no network; the objects may come from anywhere, a
generator's included. Colours are matched by their statistics in CIELAB (Reinhard et al. 2001).
"""

from __future__ import annotations

import cv2
import numpy as np

Array = np.ndarray

LEAST_DEPTH = 0.05  # of the way from the horizon to the lower border: nothing stands nearer to the horizon
SIZE_SPREAD = 4.0  # at one distance, the largest object is so many times as large as the smallest
THUMBNAIL = 96  # px; the scene's colours are measured on a copy of this width
CONTRAST = (0.5, 2.0)  # bounds of the change of an object's contrast and saturation


def draw_depth(rng: np.random.Generator) -> float:
    """Where on the ground an object stands: a depth from 0 (horizon) to 1 (lower border of the image)."""
    return float(rng.uniform(LEAST_DEPTH, 1.0))


def size_range(depth: float, min_size: float, max_size: float) -> tuple[float, float]:
    """Shares of the scene's side that an object at this depth may have: on flat ground, in proportion to it."""
    largest = max(min_size, max_size * depth)
    return max(min_size, largest / SIZE_SPREAD), largest


def soften_edge(rgba: Array) -> Array:
    """Let the object fade inwards at its edge, over a width that goes with its size.

    Premultiplied (h, w, 4) float32. Inwards, because what lies outside a cut-out is another photo's background; a part
    as thin as the edge's width fades, but stays.
    """
    sigma = float(np.clip(0.01 * max(rgba.shape[:2]), 0.7, 3.0))
    inner = cv2.GaussianBlur(np.ascontiguousarray(rgba[..., 3]), (0, 0), sigma)
    faded: Array = rgba * np.clip(2 * inner - 0.5, 0, 1)[..., None]
    return faded


def match_colours(obj: Array, surroundings: Array, scene: Array, strength: float) -> Array:
    """Move an object's colours to the scene's: lightness to its surroundings', colours to the whole scene's.

    Args:
        obj: (h, w, 4) float32, colour (0..255) premultiplied by alpha (0..1).
        surroundings: (h', w', 3) float32 RGB, the part of the scene around it.
        scene: (H, W, 3) float32 RGB.
        strength: 0 leaves the object as it is, 1 gives it the scene's mean and spread.

    Returns:
        The colours (h, w, 3), premultiplied.
    """
    alpha = obj[..., 3:]
    inside = alpha[..., 0] > 0.5
    if not inside.any():
        return obj[..., :3]
    lab = _lab(obj[..., :3] / np.maximum(alpha, 1e-3))
    height = max(1, round(scene.shape[0] * THUMBNAIL / scene.shape[1]))
    thumbnail = _lab(cv2.resize(scene, (THUMBNAIL, height), interpolation=cv2.INTER_AREA))
    targets = [_lab(surroundings)[..., 0], thumbnail[..., 1], thumbnail[..., 2]]
    for channel, target in enumerate(targets):
        own = lab[..., channel][inside]
        contrast = np.clip((target.std() + 1) / (own.std() + 1), *CONTRAST) ** strength
        mean = own.mean() + strength * (target.mean() - own.mean())
        lab[..., channel] = (lab[..., channel] - own.mean()) * contrast + mean
    rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    colours: Array = np.clip(rgb, 0, 1) * 255 * alpha
    return colours


def _lab(rgb: Array) -> Array:
    """RGB 0..255 to CIELAB, lightness 0..100; of the same shape, float32."""
    scaled = np.ascontiguousarray(np.clip(rgb / 255, 0, 1), dtype=np.float32)
    return cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB)
