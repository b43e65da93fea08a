"""Procedural textures of the street: see `textures`."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from flowclas_ros.training.scenes.textures import Colour, Texture, finish, noise, tinted


def asphalt(rng: np.random.Generator) -> Texture:
    """8 m of a two-lane road across u and 16 m along v: wheel tracks, patches, cracks, lane markings and edge lines."""
    h, w = 1024, 512
    grey = rng.uniform(62, 96)
    picture = tinted(0.05 * noise(rng, h, w, 6, 7, 0.8), (grey, grey, grey * rng.uniform(1.0, 1.06)), 1.0)
    x = np.abs(np.abs(np.linspace(-4, 4, w)) - 2)
    picture *= (1 - 0.10 * np.exp(-(((x - 0.75) / 0.3) ** 2)))[None, :, None]
    for _ in range(int(rng.integers(1, 5))):
        y, left = int(rng.integers(0, h - 180)), int(rng.integers(0, w - 160))
        picture[y : y + rng.integers(60, 180), left : left + rng.integers(50, 160)] *= rng.uniform(0.75, 0.9)
    for _ in range(int(rng.integers(2, 7))):
        steps = np.cumsum(rng.normal((0, 9), 5, (40, 2)), 0) + [rng.integers(w), rng.integers(h) - 200]
        cv2.polylines(picture, [steps.astype(np.int32)], False, (grey * 0.45,) * 3, 2)
    worn = np.clip(0.9 + 0.18 * noise(rng, h, w, 32, 4), 0, 1)[..., None]
    paint = np.zeros((h, w, 1), np.float32)
    dash = h * 6 // 16
    paint[:dash, w // 2 - 5 : w // 2 + 5] = 1
    paint[:, 14:23] = paint[:, w - 23 : w - 14] = 1
    return finish(picture * (1 - paint * worn) + np.array([212, 212, 204]) * paint * worn)


def paving(rng: np.random.Generator) -> Texture:
    """Slabs, 2 m by 2 m."""
    size, slab = 256, 64
    tone = np.repeat(np.repeat(rng.normal(0, 0.06, (4, 4)), slab, 0), slab, 1)
    base = rng.uniform(120, 165)
    picture = tinted(tone + 0.05 * noise(rng, size, size, 16, 5), (base, base * 0.97, base * 0.92), 1.0)
    picture[::slab] = picture[1::slab] = (base * 0.6,) * 3
    picture[:, ::slab] = picture[:, 1::slab] = (base * 0.6,) * 3
    return finish(picture)


def grass(rng: np.random.Generator) -> Texture:
    """A mown verge."""
    blades = noise(rng, 256, 256, 8, 6, 0.8)
    return finish(tinted(blades, (74, 98, 46), 0.2) + 10 * noise(rng, 256, 256, 4)[..., None])


def foliage(colour: Colour) -> Callable[..., Texture]:
    """A palette that `mesh.leaves` picks single leaves from."""

    def make(rng: np.random.Generator) -> Texture:
        picture = tinted(noise(rng, 64, 64, 16, 3), colour, 0.28)
        picture[..., 0] *= 1 + 0.15 * noise(rng, 64, 64, 8, 2)
        return finish(picture)

    return make


def facade(lit: float) -> Callable[..., Texture]:
    """A storey of 12 m by 3.2 m with windows, of which the share `lit` shows lamplight."""

    def make(rng: np.random.Generator) -> Texture:
        h, w = 2 * 160, 600
        palette = [
            (168, 140, 118),
            (186, 172, 150),
            (150, 92, 74),
            (140, 146, 150),
            (196, 186, 168),
            (120, 112, 108),
            (178, 154, 110),
        ]
        colour = np.asarray(palette[rng.integers(len(palette))], np.float32) * rng.uniform(0.8, 1.05)
        picture = tinted(0.05 * noise(rng, h, w, 10, 5), tuple(colour), 1.0)
        if rng.random() < 0.45:
            _bricks(picture, rng)
        count = int(rng.integers(3, 6))
        pitch, wide = w / count, w / count * rng.uniform(0.4, 0.66)
        top, high = int(rng.integers(28, 46)), int(rng.integers(72, 100))
        trim = colour * rng.choice([0.6, 1.25])
        for storey in range(2):
            for i in range(count):
                _window(
                    picture, rng, int(i * pitch + (pitch - wide) / 2), storey * 160 + top, int(wide), high, trim, lit
                )
            picture[storey * 160 : storey * 160 + 6] = trim
        return finish(picture)

    return make


def _bricks(picture: np.ndarray, rng: np.random.Generator) -> None:
    picture *= 1 + 0.07 * rng.normal(size=(picture.shape[0] // 5, picture.shape[1] // 10, 1)).repeat(5, 0).repeat(10, 1)
    picture[::5] *= 0.85


def _window(
    picture: np.ndarray, rng: np.random.Generator, x: int, y: int, w: int, h: int, trim: np.ndarray, lit: float
) -> None:
    cv2.rectangle(picture, (x - 5, y - 5), (x + w + 5, y + h + 7), trim.tolist(), -1)
    ramp = np.linspace(1.25, 0.6, h)[:, None, None]
    glass = np.array([66, 80, 96]) * rng.uniform(0.5, 1.3) * ramp
    if rng.random() < lit:
        glass = np.array([250, 214, 140]) * rng.uniform(0.75, 1.0) * (0.75 + 0.25 * ramp)
    elif rng.random() < 0.4:  # a curtain
        glass = np.where(np.arange(w)[None, :, None] % (w - 1) < w * 0.28, np.array([196, 190, 178]) * 0.8, glass)
    picture[y : y + h, x : x + w] = glass
    frame = (trim * 1.1).tolist()
    cv2.line(picture, (x + w // 2, y), (x + w // 2, y + h), frame, 3)
    cv2.line(picture, (x, y + h // 3), (x + w, y + h // 3), frame, 3)


def shopfront(lit: bool) -> Callable[..., Texture]:
    """A ground floor of 12 m by 3.2 m: door, shop windows, awning and a sign."""

    def make(rng: np.random.Generator) -> Texture:
        h, w = 160, 600
        wall = rng.uniform(60, 150)
        picture = tinted(0.05 * noise(rng, h, w, 8), (wall, wall * 0.95, wall * 0.9), 1.0)
        glass = np.array([235, 208, 150]) if lit else np.array([58, 68, 78])
        for x, wide in ((30, 230), (360, 210)):
            picture[50:140, x : x + wide] = glass * np.linspace(1.1, 0.7, 90)[:, None, None]
            for _ in range(6):
                left, top = int(x + rng.integers(5, wide - 40)), int(rng.integers(85, 120))
                picture[top:140, left : left + int(rng.integers(12, 36))] *= rng.uniform(0.4, 1.0, 3)
            cv2.rectangle(picture, (x, 50), (x + wide, 140), (40, 36, 34), 4)
        cv2.rectangle(picture, (280, 46), (338, 160), tuple(rng.uniform(30, 120, 3).tolist()), -1)
        sign = rng.uniform(30, 210, 3)
        picture[10:42] = sign
        cv2.line(picture, (60, 26), (int(rng.integers(200, 420)), 26), (255 - sign * 0.7).tolist(), 10)
        return finish(picture)

    return make


# strokes in a box of 2 by 4
_GLYPHS = {
    "0": [(0, 0), (2, 0), (2, 4), (0, 4), (0, 0)],
    "3": [(0, 0), (2, 0), (1, 2), (2, 2), (2, 4), (0, 4)],
    "5": [(2, 0), (0, 0), (0, 2), (2, 2), (2, 4), (0, 4)],
    "P": [(0, 4), (0, 0), (2, 0), (2, 2), (0, 2)],
}


def _write(picture: np.ndarray, text: str, x: int, y: int, scale: int, ink: Colour) -> None:
    for number, glyph in enumerate(text):
        points = np.array(_GLYPHS[glyph]) * scale + [x + number * 3 * scale, y]
        cv2.polylines(picture, [points.astype(np.int32)], False, ink, max(2, scale // 2))


def sign_face(kind: str) -> Callable[..., Texture]:
    """A road sign's front, once a side: round limit, blue square, direction board."""

    def make(rng: np.random.Generator) -> Texture:
        picture = np.full((128, 128, 3), 235, np.float32)
        if kind == "limit":
            cv2.circle(picture, (64, 64), 56, (190, 26, 30), 15)
            _write(picture, "30" if rng.random() < 0.5 else "50", 32, 42, 12, (20, 20, 20))
        elif kind == "blue":
            picture[:] = (24, 70, 160)
            _write(picture, "P", 42, 20, 22, (240, 240, 240))
        else:
            picture[:] = (24, 96, 60)
            for y in (36, 70, 100):
                cv2.line(picture, (14, y), (int(rng.integers(70, 116)), y), (240, 240, 240), 8)
        return finish(picture)

    return make
