"""Pasting objects into inlier scenes: the outlier exposure that costs no label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from flowclas_ros.detection.images import through_jpeg
from flowclas_ros.errors import FlowclasError, require
from flowclas_ros.training.harmonise import draw_depth, match_colours, size_range, soften_edge

Array = np.ndarray
INLIER, OUTLIER, IGNORE = 0, 1, 255
SOFT_SHARE = 0.4  # of the objects that are blurred
FILL = 3.0  # px
ENLARGED = 2.0  # at most: four objects in ten of COCO are under 32 x 32 px, and softness would tell them from any scene


@dataclass(frozen=True)
class PasteConfig:
    """How objects are pasted.

    Attributes:
        style: ``plain``, or ``harmonised``: objects stand on the ground below the horizon, max_size large at the lower
            border and smaller with their distance; lightness, contrast and colours are matched to the scene by
            ``exposure``, and the edge fades over a width that goes with the size.
        min_objects: fewest objects per scene; the number is drawn uniformly up to max_objects.
        max_objects: most objects per scene.
        min_size: smallest longer side of an object, as a share of the scene's shorter side; drawn log-uniformly.
        max_size: largest longer side; no object is enlarged to more than twice its own pixels, but for untextured ones.
        flip: probability of a horizontal flip.
        max_rotation: largest rotation in degrees, either way.
        feather: blur of the object's edge alone, sigma in pixels of the scene; from half to twice of this is drawn.
        softness: largest blur of the object itself, sigma in pixels of the scene; two objects in five get one. Were all
            pasted objects a little softer than their scene, or all a little sharper, that is what would be learned.
        recompress: lowest and highest JPEG quality, 1 to 100, at which the pasted scene is compressed again, objects
            and all; null: never.
        exposure: how far the object's brightness and colour move towards the scene around it: 0 stays, 1 meets it. In
            plain style this is the furthest: from 0 to it is drawn.
        jitter: largest random change of brightness and colour, as a share, either way.
        recolour: probability that an object's hue and saturation are changed, up to its opposite colour: few objects
            then stand for many.
        untextured: probability that an object is painted over in one colour, lighter towards one side: sheets, bags and
            boxes, which photographed cut-outs seldom are.
        fragment: probability that only a part of an object is pasted.
        greyscale: probability that scene and objects become grey together.
        placement: ``anywhere``, or ``below_horizon``: the object's lower edge lies below the horizon; of plain style.
        horizon: the horizon's height as a share of the scene's height, from the top.
    """

    style: Literal["plain", "harmonised"] = "plain"
    min_objects: int = 1
    max_objects: int = 4
    min_size: float = 0.05
    max_size: float = 0.4
    flip: float = 0.5
    max_rotation: float = 15.0
    feather: float = 0.7
    softness: float = 1.0
    recompress: tuple[int, int] | None = (80, 96)
    exposure: float = 1.0
    jitter: float = 0.2
    recolour: float = 0.0
    untextured: float = 0.0
    fragment: float = 0.0
    greyscale: float = 0.0
    placement: Literal["anywhere", "below_horizon"] = "anywhere"
    horizon: float = 0.45

    def __post_init__(self) -> None:
        if not 0 <= self.min_objects <= self.max_objects or self.max_objects < 1:
            raise FlowclasError(
                f"paste.min_objects {self.min_objects} and max_objects {self.max_objects} must be 0 <= min <= max >= 1"
            )
        if not 0 < self.min_size <= self.max_size <= 1:
            raise FlowclasError(
                f"paste.min_size {self.min_size} and max_size {self.max_size} must be 0 < min <= max <= 1"
            )
        for name in ("flip", "exposure", "jitter", "recolour", "untextured", "fragment", "greyscale", "horizon"):
            require(0 <= getattr(self, name) <= 1, f"paste.{name}", getattr(self, name), "from 0 to 1")
        if self.style == "harmonised" and self.horizon > 0.95:
            raise FlowclasError(f"paste.horizon is {self.horizon}; with style harmonised it must be at most 0.95")
        if min(self.feather, self.softness, self.max_rotation) < 0:
            raise FlowclasError("paste.feather, paste.softness and paste.max_rotation must be 0 or more")
        if self.recompress is not None:
            (low, high), rule = self.recompress, "two qualities from 1 to 100, the lower first"
            require(1 <= low <= high <= 100, "paste.recompress", list(self.recompress), rule)


def paste(scene: Array, cutouts: Sequence[Array], config: PasteConfig, rng: np.random.Generator) -> tuple[Array, Array]:
    """Paste each cut-out at a random place, size and exposure.

    Args:
        scene: (H, W, 3) uint8 RGB.
        cutouts: RGBA uint8 objects of any size; draw their number with ``draw_count``.
        config: ranges of the random choices.
        rng: source of all randomness.

    Returns:
        The scene with objects (H, W, 3) uint8 and its labels (H, W) uint8: 0 inlier, 1 pasted, 255 the soft edge
        between them.
    """
    image = scene.astype(np.float32)
    labels = np.zeros(scene.shape[:2], np.uint8)
    for cutout in cutouts:
        depth = draw_depth(rng) if config.style == "harmonised" else None
        sizes = (config.min_size, config.max_size)
        if depth is not None:
            sizes = size_range(depth, *sizes)
        low, high = (share * min(scene.shape[:2]) for share in sizes)
        obj = _transform(cutout, low, high, config, rng)
        if obj is not None:
            _blend(image, labels, obj, depth, config, rng)
    if rng.random() < config.greyscale:
        image[:] = (image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    return np.clip(image + 0.5, 0, 255).astype(np.uint8), labels


def draw_count(config: PasteConfig, rng: np.random.Generator) -> int:
    """How many objects the next scene gets."""
    return int(rng.integers(config.min_objects, config.max_objects + 1))


def _transform(cutout: Array, low: float, high: float, config: PasteConfig, rng: np.random.Generator) -> Array | None:
    """The object at its new size (px, from low to high), turned and flipped: (h, w, 4) float32, premultiplied."""
    if rng.random() < config.flip:
        cutout = cutout[:, ::-1]
    if rng.random() < config.fragment:
        cutout = _fragment(cutout, rng)
    if rng.random() < config.recolour:
        cutout = _recolour(cutout, rng)
    painted = rng.random() < config.untextured
    if painted:
        cutout = _paint_over(cutout, rng)
    side = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    height, width = cutout.shape[:2]
    factor = side / max(height, width)
    if not painted:
        factor = min(factor, ENLARGED)
    angle = float(rng.uniform(-config.max_rotation, config.max_rotation))
    margin = 2 + int(6 * config.feather)
    cos, sin = abs(np.cos(np.radians(angle))), abs(np.sin(np.radians(angle)))
    out_w = int(np.ceil(factor * (width * cos + height * sin))) + 2 * margin
    out_h = int(np.ceil(factor * (width * sin + height * cos))) + 2 * margin
    # Premultiplied, so that colour hidden under transparent pixels does not bleed into the edge.
    rgba: Array = cutout.astype(np.float32)
    rgba[..., 3] = cutout[..., 3] / 255
    rgba[..., :3] *= rgba[..., 3:]
    if factor < 0.5:  # an affine warp does not low-pass; shrink by areas first
        shrunk = max(1, round(width * factor)), max(1, round(height * factor))
        rgba = cv2.resize(rgba, shrunk, interpolation=cv2.INTER_AREA)
        height, width = rgba.shape[:2]
        factor = 1.0
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, factor)
    matrix[:, 2] += (out_w - width) / 2, (out_h - height) / 2
    rgba = cv2.warpAffine(rgba, matrix, (out_w, out_h), flags=cv2.INTER_LINEAR)
    if factor > ENLARGED:  # one colour stays as sharp as it was, the outline does not
        alpha = rgba[..., 3:]
        rgba = rgba / np.maximum(alpha, 1e-3) * np.clip((alpha - 0.5) * factor + 0.5, 0, 1)
    rgba = _soften(rgba, config, rng)
    if config.style == "harmonised":
        rgba = soften_edge(rgba)
    return rgba if rgba[..., 3].max() > 0.5 else None


def _soften(rgba: Array, config: PasteConfig, rng: np.random.Generator) -> Array:
    """A soft edge, and at times a soft object: (h, w, 4) float32, premultiplied before and after."""
    alpha = rgba[..., 3:]
    around = cv2.GaussianBlur(rgba, (0, 0), FILL)  # colours to go on with under the edge, where the object has none
    filled = around[..., :3] / np.maximum(around[..., 3:], 1e-3)
    colour = np.where(alpha > 0.9, rgba[..., :3] / np.maximum(alpha, 1e-3), filled)
    blur = config.softness * rng.uniform(0.3, 1)
    if rng.random() < SOFT_SHARE and blur > 0:
        colour = cv2.GaussianBlur(colour, (0, 0), blur)
    edge = config.feather * rng.uniform(0.5, 2)
    if edge > 0:
        alpha = cv2.GaussianBlur(alpha, (0, 0), edge)[..., None]
    return np.dstack([colour * alpha, alpha]).astype(np.float32)


def recompress(image: Array, config: PasteConfig, rng: np.random.Generator) -> Array:
    """The scene (H, W, 3) uint8 as a camera would send it: what was pasted is compressed like what was there."""
    if config.recompress is None:
        return image
    low, high = config.recompress
    return through_jpeg(image, int(rng.integers(low, high + 1)))


def _fragment(cutout: Array, rng: np.random.Generator) -> Array:
    """A random box of 40 to 90 % of each side, or the whole object where the box would be mostly empty."""
    height, width = cutout.shape[:2]
    h, w = (max(8, int(side * share)) for side, share in zip((height, width), rng.uniform(0.4, 0.9, 2), strict=True))
    top, left = (int(rng.integers(max(1, side - part + 1))) for side, part in ((height, h), (width, w)))
    part = cutout[top : top + h, left : left + w]
    return part if (part[..., 3] > 127).mean() > 0.3 else cutout


def _recolour(cutout: Array, rng: np.random.Generator) -> Array:
    """Hue turned by up to 180 degrees, saturation scaled by 0.3 to 1.5."""
    hsv = cv2.cvtColor(np.ascontiguousarray(cutout[..., :3]), cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-90, 90)) % 180  # OpenCV halves degrees to fit a byte
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.3, 1.5), 0, 255)
    rgb = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return np.dstack([rgb, cutout[..., 3]])


def _paint_over(cutout: Array, rng: np.random.Generator) -> Array:
    """The object's outline in a colour of its own, every other time a grey, and up to 60 % lighter towards one side."""
    height, width = cutout.shape[:2]
    tint = rng.uniform(-12, 12, 3)
    colour = rng.uniform(0, 255) + tint if rng.random() < 0.5 else rng.uniform(0, 255, 3)
    angle, contrast = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.6)
    rows, columns = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    light = 1 + contrast * (np.cos(angle) * columns + np.sin(angle) * rows)
    return np.dstack([np.clip(light[..., None] * colour, 0, 255).astype(np.uint8), cutout[..., 3]])


def _blend(
    image: Array, labels: Array, obj: Array, depth: float | None, config: PasteConfig, rng: np.random.Generator
) -> None:
    """Lay the object over the image in place, at a random position or on the ground at a depth; parts may stick out."""
    height, width = labels.shape
    h, w = obj.shape[:2]
    x = int(rng.integers(-(w // 4), max(width - w + w // 4, 1 - w // 4)))
    if depth is None:
        y = _draw_row(height, h, config, rng)
    else:
        foot = int(np.flatnonzero((obj[..., 3] > 0.5).any(axis=1))[-1]) + 1
        y = round(height * (config.horizon + depth * (1 - config.horizon))) - foot
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + h, height), min(x + w, width)
    if bottom - top < 2 or right - left < 2:
        return
    obj = obj[top - y : bottom - y, left - x : right - x]
    alpha = obj[..., 3]
    if not (alpha > 0.5).any():
        return
    under = image[top:bottom, left:right]
    if depth is None:
        colour = obj[..., :3] * _gain(obj, under, config, rng)
    else:
        around = image[max(top - h // 2, 0) : bottom + h // 2, max(left - w // 2, 0) : right + w // 2]
        colour = match_colours(obj, around, image, config.exposure) * _jitter_gain(config, rng)
    under[:] = colour + under * (1 - alpha[..., None])
    region = labels[top:bottom, left:right]
    region[alpha > 0.5] = OUTLIER
    region[(alpha > 0.1) & (alpha <= 0.5) & (region == INLIER)] = IGNORE


def _draw_row(height: int, h: int, config: PasteConfig, rng: np.random.Generator) -> int:
    """The image row of the upper border of an object h px high."""
    lowest = height - h + h // 4
    if config.placement == "below_horizon":
        y = int(rng.integers(min(int(config.horizon * height) - h, lowest - 1), lowest))
        return max(y, int(config.horizon * height) - h)
    return int(rng.integers(min(-(h // 4), lowest - 1), lowest))


def _gain(obj: Array, scene: Array, config: PasteConfig, rng: np.random.Generator) -> Array:
    """Factor per colour channel (3,) that moves the object's exposure some of the way to the scene's."""
    weight = obj[..., 3].sum() + 1e-6
    own = obj[..., :3].sum(axis=(0, 1)) / weight + 1.0
    around = scene.mean(axis=(0, 1)) + 1.0
    gain = np.clip(around / own, 0.25, 4.0) ** rng.uniform(0, config.exposure)
    return (gain * _jitter_gain(config, rng)).astype(np.float32)


def _jitter_gain(config: PasteConfig, rng: np.random.Generator) -> Array:
    """A random factor per colour channel (3,)."""
    brightness = 1 + rng.uniform(-config.jitter, config.jitter)
    colour = 1 + rng.uniform(-config.jitter, config.jitter, 3) / 2
    return (brightness * colour).astype(np.float32)
