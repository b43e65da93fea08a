"""What stands beside the demo's road, what does not belong on it, and what the fit pastes in its place.

Every function returns an RGBA picture (h, w, 4) uint8. FOREIGN things are seen in the live stream alone; the fit
knows only `patch`es, shapes and textures that resemble none of them.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Array = np.ndarray
_SIDE = 192  # pixels of a sprite's side


def _canvas(height: int = _SIDE, width: int = _SIDE) -> tuple[Array, Array]:
    return np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.uint8)


def _finish(colour: Array, alpha: Array) -> Array:
    """Colour and alpha together, the edge softened by a pixel."""
    alpha = cv2.GaussianBlur(alpha, (0, 0), 0.8)
    return np.dstack([np.clip(colour, 0, 255), alpha]).astype(np.uint8)


def _grain(rng: np.random.Generator, shape: tuple[int, ...], sigma: float, strength: float) -> Array:
    """Soft noise of that shape and standard deviation."""
    field = cv2.GaussianBlur(rng.normal(0, 1, shape[:2]).astype(np.float32), (0, 0), sigma)
    return (field / (field.std() + 1e-6) * strength)[..., None]


def _foliage(
    rng: np.random.Generator,
    colour: Array,
    alpha: Array,
    blobs: int,
    centre: tuple[float, float],
    spread: tuple[float, float],
    radius: tuple[int, int],
) -> None:
    """Overlapping leaf clusters, lit from above."""
    base = np.array([58, 84, 40]) * rng.uniform(0.8, 1.2) * (1 + 0.1 * rng.normal(size=3))
    at = np.array(centre) + np.clip(rng.normal(0, 1, (blobs, 2)), -1.8, 1.8) * np.array(spread)
    for x, y in at[np.argsort(-at[:, 1])]:  # upper clusters last, brighter
        lift = 1.25 - 0.55 * (y - centre[1] + 2 * spread[1]) / (4 * spread[1])
        size = int(rng.integers(*radius))
        tone = tuple(float(value) for value in base * lift * rng.uniform(0.85, 1.15))
        cv2.circle(colour, (int(x), int(y)), size, tone, cv2.FILLED)
        cv2.circle(alpha, (int(x), int(y)), size, 255, cv2.FILLED)
    rough = rng.random(alpha.shape).astype(np.float32)
    ragged = cv2.GaussianBlur(alpha.astype(np.float32) / 255, (0, 0), 5)
    alpha[(ragged < 0.75) & (cv2.GaussianBlur(rough, (0, 0), 1.5) > 0.52)] = 0
    colour += _grain(rng, alpha.shape, 1.5, 14) + _grain(rng, alpha.shape, 5, 9)


def tree(rng: np.random.Generator) -> Array:
    """A broad-leaved tree."""
    colour, alpha = _canvas(256, 200)
    _foliage(rng, colour, alpha, 46, (100, 98), (36, 36), (14, 28))
    trunk = np.array([[93, 150], [107, 150], [112, 255], [88, 255]], np.int32)
    bark = (74.0, 60.0, 48.0)
    cv2.fillPoly(alpha, [trunk], 255)
    behind = np.zeros(alpha.shape, np.uint8)
    cv2.fillPoly(behind, [trunk], 255)
    colour[(behind > 0) & (np.arange(256)[:, None] > 165)] = bark
    return _finish(colour, alpha)


def bush(rng: np.random.Generator) -> Array:
    """A low bush."""
    colour, alpha = _canvas(110, 180)
    _foliage(rng, colour, alpha, 26, (90, 62), (34, 16), (10, 22))
    alpha[-3:] = 0
    return _finish(colour, alpha)


def post() -> Array:
    """A white reflector post with its black band."""
    colour, alpha = _canvas(160, 24)
    colour[:] = 222
    colour[:, 14:] = 196
    colour[22:58] = 34
    colour[32:50, 8:16] = 206
    alpha[2:, 3:21] = 255
    return _finish(colour, alpha)


def _crate(rng: np.random.Generator) -> Array:
    colour, alpha = _canvas()
    colour[:] = np.array([168, 122, 70]) * rng.uniform(0.9, 1.15)
    colour += _grain(rng, alpha.shape, 1, 9)
    for y in range(6, 190, 30):
        colour[y : y + 3] = (74, 50, 28)
    cv2.line(colour, (14, 180), (178, 12), (128.0, 88.0, 46.0), 22)
    for strip in (np.s_[4:20], np.s_[172:188]):
        colour[strip] = np.array([140, 98, 52])
        colour[:, strip] = np.array([140, 98, 52])
    alpha[4:, 4:188] = 255
    colour[:, 150:] *= 0.85
    return _finish(colour, alpha)


def _tyre(rng: np.random.Generator) -> Array:
    colour, alpha = _canvas()
    centre = (96, 96)
    cv2.circle(alpha, centre, 92, 255, cv2.FILLED)
    colour[:] = 30
    for radius, tone in ((84, 46), (72, 28), (60, 52), (50, 26)):
        cv2.circle(colour, centre, radius, (float(tone),) * 3, 4, cv2.LINE_AA)
    for angle in np.arange(0, 2 * np.pi, np.pi / 20):
        start = (int(96 + 82 * np.cos(angle)), int(96 + 82 * np.sin(angle)))
        end = (int(96 + 93 * np.cos(angle + 0.05)), int(96 + 93 * np.sin(angle + 0.05)))
        cv2.line(colour, start, end, (74.0, 74.0, 76.0), 3)
    cv2.circle(alpha, centre, 40, 0, cv2.FILLED)
    return _finish(colour + _grain(rng, alpha.shape, 2, 4), alpha)


def _ball(rng: np.random.Generator) -> Array:
    colour, alpha = _canvas()
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE].astype(np.float32)
    y, x = (rows - 96) / 92, (columns - 96) / 92
    depth = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    turn = rng.uniform(0, 6)
    sector = np.floor((np.arctan2(x, y * 0.5 + depth) + turn) / (np.pi / 4)).astype(int) % 4
    palette = np.array([[214, 44, 52], [238, 234, 224], [36, 92, 196], [244, 196, 40]], np.float32)
    light = 0.45 + 0.6 * np.clip(0.5 * depth - 0.6 * y - 0.3 * x, 0, 1)
    colour[:] = palette[sector] * light[..., None]
    alpha[x**2 + y**2 < 1] = 255
    return _finish(colour, alpha)


def _suitcase(rng: np.random.Generator) -> Array:
    colour, alpha = _canvas()
    cv2.rectangle(alpha, (60, 4), (132, 40), 255, 9)
    cv2.rectangle(alpha, (22, 36), (170, 182), 255, cv2.FILLED)
    for x in (44, 148):
        cv2.circle(alpha, (x, 184), 8, 255, cv2.FILLED)
    hue = np.array([[24, 96, 120], [120, 30, 66], [70, 44, 110]])[rng.integers(3)]
    colour[:] = hue
    for x in range(34, 170, 17):
        colour[44:176, x : x + 5] = hue * 1.45
    colour[:36] = 58
    colour[176:] = 30
    return _finish(colour + _grain(rng, alpha.shape, 3, 5), alpha)


def _chair(rng: np.random.Generator) -> Array:
    colour, alpha = _canvas()
    tone = np.array([[206, 70, 34], [222, 222, 214], [40, 120, 84]])[rng.integers(3)]
    colour[:] = tone
    cv2.rectangle(alpha, (44, 4), (148, 92), 255, cv2.FILLED)
    for y in (24, 46, 68):
        cv2.rectangle(alpha, (58, y), (134, y + 10), 0, cv2.FILLED)
    cv2.fillPoly(alpha, [np.array([[40, 92], [152, 92], [166, 118], [26, 118]], np.int32)], 255)
    for top, foot in ((34, 26), (158, 166), (60, 56), (132, 136)):
        cv2.line(alpha, (top, 112), (foot, 190), 255, 9)
    colour[92:118] = tone * 1.1
    colour[118:] = tone * 0.7
    return _finish(colour + _grain(rng, alpha.shape, 4, 4), alpha)


FOREIGN: dict[str, Callable[[np.random.Generator], Array]] = {
    "crate": _crate,
    "tyre": _tyre,
    "ball": _ball,
    "suitcase": _suitcase,
    "chair": _chair,
}


def patch(rng: np.random.Generator) -> Array:
    """A pseudo-outlier: a random outline filled with a random texture."""
    colour, alpha = _canvas(128, 128)
    corners = int(rng.integers(3, 11))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = rng.uniform(30, 62, corners)
    outline = np.stack([64 + reach * np.cos(angles), 64 + reach * np.sin(angles)], axis=1).astype(np.int32)
    if rng.random() < 0.4:
        cv2.ellipse(alpha, (64, 64), (int(rng.integers(20, 62)), int(rng.integers(20, 62))), 0, 0, 360, 255, cv2.FILLED)
    else:
        cv2.fillPoly(alpha, [outline], 255)
    one, two = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    rows, columns = np.mgrid[0:128, 0:128].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = columns * np.sin(angle) - rows * np.cos(angle)
    period = rng.uniform(8, 60)
    share = [
        (along / 128) % 1.0,
        (np.sin(along * 2 * np.pi / period) > 0).astype(np.float32),
        ((np.sin(along * 2 * np.pi / period) > 0) ^ (np.sin(across * 2 * np.pi / period) > 0)).astype(np.float32),
        np.clip(0.5 + _grain(rng, (128, 128), float(rng.uniform(1, 12)), 0.4)[..., 0], 0, 1),
        np.zeros((128, 128), np.float32),
    ][int(rng.integers(5))][..., None]
    colour[:] = one * (1 - share) + two * share
    shade = 1 + rng.uniform(-0.3, 0.3) * (rows - 64) / 64
    return _finish(colour * shade[..., None] + _grain(rng, alpha.shape, 2, 5), alpha)
