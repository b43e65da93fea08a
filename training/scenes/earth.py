"""The Earth from 420 km, with clouds, sea glint and its limb of air, before the stars."""

from __future__ import annotations

import cv2
import numpy as np

from flowclas_ros.training.scenes.textures import noise

RADIUS, ALTITUDE = 6371.0, 420.0  # km
SPEED = 7.66  # km/s over the ground
TEXEL = 2.0  # km a pixel of the ground
SIZE = 1024  # px; the ground repeats beyond
LIMB = 22.0  # km in which the air's glow falls to 1/e; thicker than the real one, to be seen in small pictures


class Earth:
    """A backdrop. sun: (3,) unit vector towards the sun, in the world; up is z but for a small tilt."""

    def __init__(self, seed: int, rng: np.random.Generator, eye: np.ndarray):
        """eye: (4, 4) the camera's first pose; the sun is put somewhere on its side, so that what it sees is lit."""
        self.up = _unit(np.array([*rng.normal(0, 0.22, 2), 1.0]))
        self.sun = _unit(
            -eye[:3, 2] * rng.uniform(0.6, 1.3) + 0.8 * _unit(rng.normal(size=3)) + [0, 0, rng.uniform(0.1, 0.6)]
        )
        along = _unit(np.cross(self.up, rng.normal(size=3)))
        self._axes = np.stack([along, np.cross(self.up, along)], 1).astype(np.float32)
        self._ground = _ground(np.random.default_rng([seed, 2]))
        self._stars = _stars(np.random.default_rng([seed, 3]))

    def __call__(self, rays: np.ndarray, pose: np.ndarray, time: float) -> np.ndarray:
        """See `stage.Backdrop`; the camera's place does not matter at this distance."""
        height = RADIUS + ALTITUDE
        rise = rays @ self.up.astype(np.float32)
        inside = (height * rise) ** 2 - (height**2 - RADIUS**2)
        hit = (inside >= 0) & (rise < 0)
        picture = self._sky(rays, rise, height)
        if hit.any():
            picture[hit] = self._surface(rays[hit], rise[hit], inside[hit], height, time)
        return picture

    def _sky(self, rays: np.ndarray, rise: np.ndarray, height: float) -> np.ndarray:
        longitude = np.arctan2(rays[..., 1], rays[..., 0]) / (2 * np.pi) + 0.5
        latitude = np.arccos(np.clip(rays[..., 2], -1, 1)) / np.pi
        rows, columns = self._stars.shape[:2]
        picture = cv2.remap(
            self._stars, longitude * columns, latitude * rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
        above = height * np.sqrt(np.clip(1 - rise**2, 0, 1)) - RADIUS  # km by which a ray misses the ground
        above = np.where(rise < 0, np.maximum(above, 0), 1e4)
        day = float(np.clip(0.15 + 0.85 * (self.sun @ self.up + 0.35) / 0.7, 0.05, 1))
        glow = day * np.exp(-above / LIMB)[..., None]
        return picture + glow * np.array([0.42, 0.66, 1.0], np.float32) + glow**4 * 0.4

    def _surface(
        self, rays: np.ndarray, rise: np.ndarray, inside: np.ndarray, height: float, time: float
    ) -> np.ndarray:
        distance = -height * rise - np.sqrt(inside)
        normal = (height * self.up + distance[:, None] * rays) / RADIUS
        place = (normal @ self._axes * RADIUS + [SPEED * time, 0]) / TEXEL
        ground = _sample(self._ground, np.mod(place, SIZE).astype(np.float32))
        slant = np.clip(-(normal * rays).sum(1), 0.02, 1)
        light = np.clip((normal @ self.sun + 0.06) * 1.25, 0.01, 1)[:, None]
        mirror = _unit(self.sun - rays)
        glint = ground[:, 3:] * np.clip((mirror * normal).sum(1), 0, 1)[:, None] ** 90 * 0.9
        colour = (ground[:, :3] + glint) * light
        air = (1 - np.exp(-0.11 / slant))[:, None]
        return np.asarray(colour * (1 - air) + air * light * np.array([0.42, 0.62, 0.92]), np.float32)


def _ground(rng: np.random.Generator) -> np.ndarray:
    """(SIZE, SIZE, 4) float32: colour in 0..1 and how much sea there is for the sun to glint on."""
    relief = noise(rng, SIZE, SIZE, 4, 7, 0.55)
    land = np.clip((relief - rng.uniform(0.0, 1.1)) * 12, 0, 1)[..., None]
    dry = np.clip(noise(rng, SIZE, SIZE, 4, 5) * 0.5 + 0.5, 0, 1)[..., None]
    soil = np.array([0.16, 0.20, 0.09]) * (1 - dry) + np.array([0.46, 0.36, 0.22]) * dry
    soil = soil * (1 + 0.18 * noise(rng, SIZE, SIZE, 32, 5, 0.7)[..., None])
    sea = np.array([0.02, 0.075, 0.19]) * (1 + 0.12 * noise(rng, SIZE, SIZE, 8, 4)[..., None])
    colour = land * soil + (1 - land) * sea
    # clouds: noise pulled along by noise, which curls it
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    pull = [26 * noise(rng, SIZE, SIZE, 4, 3) for _ in range(2)]
    raw = noise(rng, SIZE, SIZE, 8, 7, 0.62)
    curled = cv2.remap(raw, (x + pull[0]) % SIZE, (y + pull[1]) % SIZE, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    regions = noise(rng, SIZE, SIZE, 2, 3)
    cover = np.clip((curled + 0.9 * regions - rng.uniform(-0.1, 0.7)) * 0.9, 0, 1)[..., None] ** 1.3
    shade = np.roll(cover, (3, 4), (0, 1))
    colour = colour * (1 - 0.5 * shade * (1 - cover))
    colour = colour * (1 - cover) + cover * (0.8 + 0.1 * np.clip(curled, -1, 1)[..., None])
    return np.concatenate([colour, (1 - land) * (1 - cover)], 2).astype(np.float32)


def _stars(rng: np.random.Generator) -> np.ndarray:
    """(1024, 2048, 3) float32, by longitude and latitude."""
    picture = np.zeros((1024, 2048, 3), np.float32)
    count = 2600
    latitude = np.arccos(rng.uniform(-1, 1, count)) / np.pi * 1023
    longitude = rng.uniform(0, 2047, count)
    brightness = np.minimum(0.12 / rng.uniform(0.05, 1, count) ** 0.8, 1.3)
    tint = 1 + rng.normal(0, 0.1, (count, 3)) * [1, 0.3, 1]
    picture[latitude.astype(int), longitude.astype(int)] = brightness[:, None] * tint
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.6) * 2.2, np.float32)


def _sample(texture: np.ndarray, places: np.ndarray, row: int = 4096) -> np.ndarray:
    """(n, channels) of a texture that repeats, at (n, 2) places in pixels."""
    padded = np.resize(places, (-(-len(places) // row) * row, 2)).reshape(-1, row, 2)  # OpenCV takes no longer rows
    values = cv2.remap(texture, padded[..., 0], padded[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(values.reshape(-1, texture.shape[2])[: len(places)])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
