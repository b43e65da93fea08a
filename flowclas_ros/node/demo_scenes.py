"""The demo's world, drawn: a country road seen from a moving car, and things that do not belong on it.

Each seed is a stretch of road of its own (asphalt, meadow, trees, hills, weather, light). The same drawing serves
the fit (no anomaly), the calibration (no anomaly, other seeds) and the live stream (other seeds, with anomalies).
Metres on the ground: x to the right, z ahead. Pixels: 640x360, focal length 500, camera 1.4 m above the road.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from flowclas_ros.node import demo_sprites

HEIGHT, WIDTH = 360, 640
FOCAL = 500.0  # pixels
HORIZON = 150.0  # row of the horizon in pixels, before the camera's sway
EYE = 1.4  # metres above the road
TEXEL = 0.03  # metres a pixel of the ground's texture
LOOP = 36.0  # metres after which the ground repeats; a multiple of the dashes' 12 m
HALF_ROAD = 3.5  # metres
VERGE, MEADOW = 12.5, 7.0  # metres: where the texture ends, and how much of it is meadow alone
NEAR, FAR = 3.0, 90.0  # metres between which things are drawn
SPEED = 10.0  # metres a second
SPACING = 45.0  # metres from one foreign thing to the next

Array = np.ndarray


@dataclass(frozen=True)
class Standing:
    """A sprite (h, w, 4) uint8 RGBA on the ground at x, z, `height` metres tall, out of sight beyond `sight` metres."""

    x: float
    z: float
    height: float
    sprite: Array
    sight: float = FAR


class Road:
    """One stretch of road; `view` draws it from any place along it."""

    def __init__(self, seed: int, anomalies: bool = False):
        rng = np.random.default_rng(seed)
        self._rng = rng
        self._light = rng.uniform(0.75, 1.1) * (1 + rng.uniform(-0.06, 0.06, 3))
        self._haze = np.array([196, 206, 216], np.float32) * rng.uniform(0.9, 1.1)
        self._haze_depth = rng.uniform(90, 220)  # metres at which 63 % of a thing's colour is gone
        self._sky = self._draw_sky(rng)
        ground = self._draw_ground(rng)
        # coarser copies for farther rows: sampled as it is, the texture would flicker there
        self._levels = [cv2.GaussianBlur(ground, (0, 0), sigma) if sigma else ground for sigma in (0, 2, 5, 12)]
        self._speckle = rng.normal(0, 2.5, (2 * HEIGHT, 2 * WIDTH, 3)).astype(np.float32)  # the sensor's noise
        self._length = 8 * LOOP
        self._things = self._plant(rng)
        if anomalies:
            self._things += self._litter(rng)

    def view(self, z: float, sway: float = 0.0) -> Array:
        """The road (360, 640, 3) uint8 RGB from `z` metres along it; `sway` in -1..1 moves the camera a little."""
        horizon, shift = HORIZON + 2.5 * sway, 0.25 * sway
        image = np.empty((HEIGHT, WIDTH, 3), np.float32)
        top = round(horizon)
        image[:top] = self._sky[-top - 20 : -20]
        self._lay_ground(image, horizon, z, shift)
        for thing in sorted(self._things, key=lambda thing: -((thing.z - z) % self._length)):
            distance = (thing.z - z) % self._length
            if NEAR < distance < thing.sight:
                self._stand(image, thing, distance, horizon, shift)
        image *= self._light
        y, x = np.random.default_rng(round(z * 1000)).integers(0, (HEIGHT, WIDTH))  # another part for every frame
        image += self._speckle[y : y + HEIGHT, x : x + WIDTH]
        return np.clip(image, 0, 255).astype(np.uint8)

    def _lay_ground(self, image: Array, horizon: float, z: float, shift: float) -> None:
        rows = np.arange(round(horizon), HEIGHT, dtype=np.float32)
        depth = FOCAL * EYE / np.maximum(rows - horizon + 0.5, 0.5)  # (rows,) metres
        x = (np.arange(WIDTH, dtype=np.float32) - WIDTH / 2)[None] * depth[:, None] / FOCAL + shift
        # the texture is as wide as the road and its meadows; beyond, the meadow goes on mirrored
        beyond = (np.abs(x) - VERGE) % (2 * MEADOW)
        aside = np.where(np.abs(x) < VERGE, np.abs(x), VERGE - np.minimum(beyond, 2 * MEADOW - beyond))
        map_x = np.sign(x) * aside / TEXEL + self._levels[0].shape[1] / 2
        map_z = np.broadcast_to(((depth + z) % LOOP)[:, None] / TEXEL, x.shape)
        for level, (near, far) in zip(self._levels, ((0, 7), (7, 14), (14, 30), (30, 1e9)), strict=True):
            chosen = np.flatnonzero((depth >= near) & (depth < far))
            if chosen.size:
                image[round(horizon) + chosen] = cv2.remap(
                    level,
                    np.ascontiguousarray(map_x[chosen], np.float32),
                    np.ascontiguousarray(map_z[chosen], np.float32),
                    cv2.INTER_LINEAR,
                    borderMode=cv2.BORDER_WRAP,
                )
        thick = np.exp(-depth / self._haze_depth)[:, None, None]
        image[round(horizon) :] = image[round(horizon) :] * thick + self._haze * (1 - thick)

    def _stand(self, image: Array, thing: Standing, depth: float, horizon: float, shift: float) -> None:
        scale = FOCAL / depth  # pixels a metre
        rows = max(2, round(thing.height * scale))
        columns = max(2, round(rows * thing.sprite.shape[1] / thing.sprite.shape[0]))
        foot = horizon + EYE * scale
        left, top = round(WIDTH / 2 + (thing.x - shift) * scale - columns / 2), round(foot - rows)
        shadow = max(1, round(columns * 0.09))
        _darken(image, (left + columns // 2, round(foot)), (round(columns * 0.55), shadow))
        small = rows < thing.sprite.shape[0]
        sprite = cv2.resize(thing.sprite, (columns, rows), interpolation=cv2.INTER_AREA if small else cv2.INTER_LINEAR)
        y0, y1, x0, x1 = max(top, 0), min(top + rows, HEIGHT), max(left, 0), min(left + columns, WIDTH)
        if y0 >= y1 or x0 >= x1:
            return
        sprite = sprite[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32)
        thick = np.exp(-depth / self._haze_depth)
        colour = sprite[..., :3] * thick + self._haze * (1 - thick)
        alpha = sprite[..., 3:] / 255 * min(1.0, (thing.sight - depth) / 5)  # things come up, they do not pop up
        image[y0:y1, x0:x1] += (colour - image[y0:y1, x0:x1]) * alpha

    def _draw_sky(self, rng: np.random.Generator) -> Array:
        rows = int(HORIZON) + 40
        fall = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None] ** 0.8
        blue = np.array([104, 152, 210], np.float32) * rng.uniform(0.85, 1.1)
        sky = blue * (1 - fall) + self._haze * fall
        flat = cv2.resize(noise(rng, 3 * rows, WIDTH, (200, 90, 40, 18)), (WIDTH, rows), interpolation=cv2.INTER_AREA)
        clouds = np.clip(flat * rng.uniform(0.7, 1.2) + rng.uniform(-0.6, 0.2), 0, 1)
        sky = sky + (245 - sky) * (0.8 * clouds * (1 - 0.6 * fall[..., 0]))[..., None]
        for step, far in enumerate((0.75, 0.45)):  # two ranges of hills, the farther one bluer
            ridge = noise(rng, 1, WIDTH, (220, 90, 30))[0] * (16 - 5 * step) + 24 - 10 * step
            hill = np.array([70, 96, 66], np.float32) * (1 - far) + self._haze * far
            covered = np.arange(rows)[:, None] > (rows - 20 - ridge)[None]
            sky[covered] = hill + noise(rng, rows, WIDTH, (24, 8))[covered][:, None] * 7
        return sky.astype(np.float32)

    def _draw_ground(self, rng: np.random.Generator) -> Array:
        length, width = round(LOOP / TEXEL), round(2 * (VERGE + 0.5) / TEXEL)
        x = (np.arange(width, dtype=np.float32) - width / 2) * TEXEL
        edge = x[None] + 0.12 * noise(rng, length, 1, (200, 60))  # the meadow's edge is no ruler's
        grain = rng.normal(0, 1, (length, width)).astype(np.float32)
        fine = cv2.GaussianBlur(grain, (0, 0), 1.2) * 3
        broad = noise(rng, length, width, (300, 120, 40))
        meadow = np.array([86, 112, 58], np.float32) * rng.uniform(0.85, 1.1) * (1 + 0.08 * rng.normal(size=3))
        green = meadow + broad[..., None] * np.array([22, 14, 10], np.float32) + fine[..., None] * 14
        gravel = np.array([140, 130, 112], np.float32) + (fine * 16 + broad * 6)[..., None]
        tone = rng.uniform(84, 116)
        tracks = 7 * (np.exp(-(((np.abs(np.abs(x) - 1.75) - 0.75) / 0.3) ** 2)))  # wheels polish the lanes
        asphalt = np.repeat((tone + fine * 7 + broad * 5 - tracks[None])[..., None], 3, axis=2)
        for _ in range(int(rng.integers(2, 6))):
            _crack(asphalt, rng)
        ground = np.where((np.abs(edge) < HALF_ROAD + 0.7)[..., None], gravel, green)
        ground = np.where((np.abs(x) < HALF_ROAD)[None, :, None], asphalt, ground)
        self._paint(ground, x, fine, length)
        return np.clip(ground, 0, 255).astype(np.uint8)

    @staticmethod
    def _paint(ground: Array, x: Array, fine: Array, length: int) -> None:
        """White edge lines and a dashed centre line, 6 m in 12."""
        z = np.arange(length) * TEXEL
        solid = np.abs(np.abs(x) - (HALF_ROAD - 0.25)) < 0.07
        dashed = (np.abs(x) < 0.07)[None] & ((z % 12) < 6)[:, None]
        painted = (solid[None] | dashed) & (fine > -1.1)  # worn here and there
        ground[painted] = 208 + fine[painted][:, None] * 8

    def _plant(self, rng: np.random.Generator) -> list[Standing]:
        """Trees and bushes in the meadows, reflector posts every 18 m."""
        trees = [demo_sprites.tree(rng) for _ in range(5)]
        bushes = [demo_sprites.bush(rng) for _ in range(3)]
        post = demo_sprites.post()
        things = [
            Standing(side * (HALF_ROAD + 0.9), z, 1.0, post)
            for z in np.arange(0, self._length, 18.0)
            for side in (-1, 1)
        ]
        for _ in range(int(self._length / 5)):
            x, z = rng.choice((-1, 1)) * rng.uniform(7, 26), rng.uniform(0, self._length)
            if rng.random() < 0.6:
                things.append(Standing(x, z, rng.uniform(4, 9), trees[rng.integers(len(trees))]))
            else:
                things.append(Standing(x, z, rng.uniform(0.8, 1.8), bushes[rng.integers(len(bushes))]))
        return things

    def _litter(self, rng: np.random.Generator) -> list[Standing]:
        """Something foreign on the road every SPACING metres or so; the view is free in between."""
        makers = list(demo_sprites.FOREIGN.values())
        start = int(rng.integers(len(makers)))
        return [
            Standing(
                x=float(rng.uniform(-2.4, 2.4)),
                z=36 + SPACING * k + float(rng.uniform(0, 6)),
                height=float(rng.uniform(0.7, 1.1)),
                sprite=makers[(start + k) % len(makers)](rng),
                sight=32.0,
            )
            for k in range(int((self._length - 50) / SPACING))
        ]


def drive(seed: int, rate: float, anomalies: bool = True) -> Iterator[Array]:
    """Endless frames (360, 640, 3) uint8 RGB of a drive along one road, `rate` frames a second."""
    road = Road(seed, anomalies)
    step = 0
    while True:
        yield road.view(step * SPEED / rate, float(np.sin(step * 5 / rate)))
        step += 1


def scenes(first_seed: int, roads: int, views: int) -> Iterator[list[Array]]:
    """For each road without anomalies its frames from random places: `roads` lists of `views` pictures."""
    for seed in range(first_seed, first_seed + roads):
        road, rng = Road(seed), np.random.default_rng(seed)
        yield [road.view(float(rng.uniform(0, 8 * LOOP)), float(rng.uniform(-1, 1))) for _ in range(views)]


def noise(rng: np.random.Generator, height: int, width: int, wavelengths: tuple[int, ...]) -> Array:
    """Smooth noise (height, width) float32 of about unit variance; wavelengths in pixels, the first the strongest.

    Periodic in neither direction except by chance; the seam every 36 m of road is a soft one.
    """
    total = np.zeros((height, width), np.float32)
    for octave, wavelength in enumerate(wavelengths):
        grid = rng.normal(0, 1, (height // wavelength + 3, width // wavelength + 3)).astype(np.float32)
        full = cv2.resize(
            grid,
            (max(width, grid.shape[1] * wavelength), max(height, grid.shape[0] * wavelength)),
            interpolation=cv2.INTER_CUBIC,
        )
        total += full[:height, :width] / 2**octave
    return total


def _crack(asphalt: Array, rng: np.random.Generator) -> None:
    """A dark, wandering line, sealed with tar."""
    height, width = asphalt.shape[:2]
    start = np.array([rng.uniform(0.38, 0.62) * width, rng.uniform(0, 0.7) * height])
    steps = np.stack([rng.normal(0, 9, 30), rng.uniform(4, 16, 30)], axis=1)
    points = np.round(start + np.cumsum(steps, axis=0)).astype(np.int32)
    cv2.polylines(asphalt, [points], False, (62.0, 62.0, 64.0), int(rng.integers(1, 4)), cv2.LINE_8)


def _darken(image: Array, centre: tuple[int, int], axes: tuple[int, int]) -> None:
    """A soft contact shadow: an ellipse at `centre` (x, y) with half axes in pixels."""
    x, y = centre
    half_x, half_y = max(axes[0], 1), max(axes[1], 1)
    y0, y1, x0, x1 = max(y - half_y, 0), min(y + half_y + 1, HEIGHT), max(x - half_x, 0), min(x + half_x + 1, WIDTH)
    if y0 >= y1 or x0 >= x1:
        return
    rows, columns = np.mgrid[y0:y1, x0:x1]
    away = ((rows - y) / half_y) ** 2 + ((columns - x) / half_x) ** 2
    image[y0:y1, x0:x1] *= (1 - 0.5 * np.clip(1 - away, 0, 1))[..., None].astype(np.float32)
