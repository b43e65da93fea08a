"""The sky over a street from noon to dusk, with clouds and a far skyline."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from flowclas_ros.training.scenes.textures import noise

ROWS, COLUMNS = 512, 2048  # of the panorama: the upper half of the sphere, and a little below the horizon
LOWEST = -0.08  # sine of the elevation at the panorama's bottom


@dataclass(frozen=True)
class Daylight:
    """The light of an hour. sun: (3,) unit vector towards it. Colours as (3,) arrays, 1 is white."""

    sun: np.ndarray
    direct: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    dusk: float  # 0 by day, 1 when lamps are lit
    overcast: float  # 0 clear, 1 no shadows

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Daylight:
        """Any hour from noon to dusk, in any weather without rain."""
        hour = float(rng.uniform(0, 1))
        low = float(np.clip((hour - 0.45) / 0.55, 0, 1))  # 0: high sun, 1: it has just set
        overcast = float(np.clip(rng.normal(0.25, 0.35), 0, 0.9))
        elevation = np.deg2rad(62 * (1 - hour) ** 1.2 + 5)
        azimuth = rng.uniform(-np.pi, np.pi)
        sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
        warm = np.array([1.0, 1 - 0.34 * low, 1 - 0.62 * low])
        dusk = float(np.clip((hour - 0.82) / 0.12, 0, 1))
        grey = np.array([0.72, 0.75, 0.79]) * (1 - 0.55 * dusk)
        zenith = _mix(_mix([0.22, 0.42, 0.78], [0.16, 0.20, 0.42], low), [0.07, 0.09, 0.2], dusk)
        horizon = _mix(_mix([0.74, 0.84, 0.94], [0.98, 0.68, 0.42], low), [0.62, 0.36, 0.3], dusk)
        direct = 0.78 * warm * (1 - 0.75 * overcast) * (1 - 0.85 * dusk)
        ambient = (_mix([0.36, 0.39, 0.44], [0.34, 0.29, 0.30], low) + 0.18 * overcast) * (1 - 0.52 * dusk)
        return cls(
            sun, direct, ambient, _mix(zenith, grey, overcast), _mix(horizon, grey, 0.8 * overcast), dusk, overcast
        )


class Sky:
    """A backdrop."""

    def __init__(self, light: Daylight, rng: np.random.Generator):
        self._panorama = _panorama(light, rng)

    def __call__(self, rays: np.ndarray, pose: np.ndarray, time: float) -> np.ndarray:
        """See `stage.Backdrop`."""
        column = (np.arctan2(rays[..., 1], rays[..., 0]) / (2 * np.pi) + 0.5) * COLUMNS
        row = (1 - rays[..., 2]) / (1 - LOWEST) * ROWS
        wide = np.minimum(row, ROWS - 1).astype(np.float32)
        return np.asarray(cv2.remap(self._panorama, column, wide, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))


def _panorama(light: Daylight, rng: np.random.Generator) -> np.ndarray:
    height = np.linspace(1, LOWEST, ROWS, dtype=np.float32)[:, None, None]  # sine of the elevation
    azimuth = (np.linspace(-np.pi, np.pi, COLUMNS, endpoint=False, dtype=np.float32))[None, :]
    share = np.exp(-np.clip(height, 0, 1) / 0.22)
    picture = light.zenith * (1 - share) + light.horizon * share + np.zeros((ROWS, COLUMNS, 1), np.float32)
    level = np.sqrt(np.clip(1 - height[..., 0] ** 2, 0, 1))
    near = level * (np.cos(azimuth) * light.sun[0] + np.sin(azimuth) * light.sun[1]) + height[..., 0] * light.sun[2]
    glow = np.clip(near, 0, 1)[..., None] ** 24 * 0.5 + np.clip(near, 0, 1)[..., None] ** 800 * 3
    picture = picture + glow * (light.direct + 0.1) * (1 - light.overcast)
    clouds = noise(rng, ROWS, COLUMNS, 12, 6, 0.58)
    # what is a round cloud overhead lies flat at the horizon
    v = (np.clip(1 / (np.clip(height[..., 0], 0.03, 1) + 0.15), 0, 8) * 60 + np.zeros((1, COLUMNS))).astype(np.float32)
    u = np.broadcast_to(np.arange(COLUMNS, dtype=np.float32), v.shape)
    clouds = cv2.remap(clouds, np.ascontiguousarray(u), v % ROWS, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    cover = np.clip((clouds - 1.1 + 2.2 * light.overcast) * 0.7, 0, 0.9)[..., None]
    white = light.direct * 0.8 + light.ambient * 0.9
    return np.asarray(_skyline(picture * (1 - cover) + cover * white, light, rng), np.float32)


def _skyline(picture: np.ndarray, light: Daylight, rng: np.random.Generator) -> np.ndarray:
    """Hills and far roofs, pale with distance."""
    base = ROWS / (1 - LOWEST)
    hills = base - 7 - 5 * noise(rng, 1, COLUMNS, 8, 5)[0]
    blocks = np.repeat(rng.uniform(0, 1, COLUMNS // 16) ** 3 * 22, 16)
    rows = np.arange(ROWS)[:, None]
    shade = light.horizon * 0.55 + light.ambient * 0.22
    for top, colour in ((hills, shade * 1.12), (base - 4 - blocks, shade)):
        picture = np.where((rows > top[None, :])[..., None], colour, picture)
    return np.asarray(picture)


def _mix(first: object, second: object, share: float) -> np.ndarray:
    return np.asarray(first) * (1 - share) + np.asarray(second) * share
