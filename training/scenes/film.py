"""From a stage to camera frames: sub-frames averaged over the shutter, backdrop, haze, lens, sensor, ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from flowclas_ros.training.scenes.engine import Renderer
from flowclas_ros.training.scenes.stage import Scene, Stage

SHUTTER = 0.02  # seconds open, at most; less at high frame rates
# when in the shutter's time (0 the middle), and shifted by what part of a pixel: a rotated grid smooths edges
SUBFRAMES = ((-0.375, 0.125, -0.375), (-0.125, 0.375, 0.125), (0.125, -0.375, -0.125), (0.375, -0.125, 0.375))
SMALLEST = 20 / (320 * 240)  # share of the picture under which an object's pixels are 255 in the mask: a speck
GAINS = (0.75, 1.7)  # least and most that the exposure is turned by, so that the brighter parts come near to white
SETTLING = 1.5  # seconds before the first frame


@dataclass(frozen=True, eq=False)
class SceneFrame:
    """A camera frame and all that is true of it, at the middle of the exposure.

    stamp: seconds from the start. image: (H, W, 3) uint8 RGB. mask: (H, W) uint8, 0 normal, 1 anomaly, 255 the pixel
    around an anomaly's edge, and anomalies too small to be told. depth: (H, W) float32 metres along the optical axis,
    inf for the sky. objects: (H, W) uint16, 0 none, else the number of the anomalous object, which no other has, in a
    later scene either, until after 65535 they begin anew. camera_matrix: (3, 3) float64 with pixel centres at whole
    numbers. camera_pose: (4, 4) float64 world_from_optical (x right, y down, z ahead).
    """

    stamp: float
    image: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    objects: np.ndarray
    camera_matrix: np.ndarray
    camera_pose: np.ndarray


def camera_matrix(width: int, height: int, fovy: float) -> np.ndarray:
    """(3, 3) of a pinhole camera with square pixels; fovy in degrees."""
    focal = height / 2 / np.tan(np.deg2rad(fovy) / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


def shoot(
    scene: Scene, seed: int, frames: int, width: int, height: int, fps: float, first: int = 0, known: int = 0
) -> Iterator[SceneFrame]:
    """The scene's first frames; first, known: how many frames and objects came before it, for stamps and numbers."""
    stage = Stage(scene, -SETTLING)
    renderer = Renderer(stage.model, width, height, scene.fovy, scene.near, scene.far)
    camera = _Camera(scene, seed, width, height)
    matrix = camera_matrix(width, height, scene.fovy)
    shutter = min(SHUTTER, 0.5 / fps)
    try:
        for index in range(frames):
            stamp = index / fps
            total, cover = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
            for number, (when, right, down) in enumerate(SUBFRAMES):
                if number == len(SUBFRAMES) // 2:
                    _look(stage, renderer, stamp, (0.0, 0.0))
                    geoms, depth = renderer.truth()
                _look(stage, renderer, stamp + when * shutter, (right, down))
                colour, there = renderer.colour()
                total += colour
                cover += there
            objects = stage.object_of_geom[geoms]
            share = 1 / len(SUBFRAMES)
            image = camera.expose(total * (share / 255), cover * share, depth, index, stamp)
            pose = np.array(scene.camera(stamp))
            mask, objects = mask_of(objects), numbered(objects, known)
            yield SceneFrame((first + index) / fps, image, mask, depth, objects, matrix.copy(), pose)
    finally:
        renderer.close()


def numbered(objects: np.ndarray, known: int) -> np.ndarray:
    """(H, W) uint16 object numbers that go on from `known` objects of scenes before."""
    return np.where(objects > 0, (objects.astype(np.int64) - 1 + known) % 65535 + 1, 0).astype(np.uint16)


def mask_of(objects: np.ndarray) -> np.ndarray:
    """(H, W) uint8 from the object numbers: 1 on objects, 255 one pixel around them and on specks."""
    mask = (objects > 0).astype(np.uint8)
    counts = np.bincount(objects.ravel())
    specks = [number for number, count in enumerate(counts) if number and 0 < count < SMALLEST * objects.size]
    around = cv2.dilate(mask, np.ones((3, 3), np.uint8)) - mask
    mask[np.isin(objects, specks) | (around > 0)] = 255
    return mask


def _look(stage: Stage, renderer: Renderer, time: float, shift: tuple[float, float]) -> None:
    stage.advance(time)
    pose = stage.scene.camera(time)
    renderer.update(stage.data, pose, shift)
    if stage.scene.lights_follow:
        renderer.move_lights(np.array([*pose[:2, 3], 0.0]))


class _Camera:
    """Lens and sensor; its moods vary with the seed."""

    def __init__(self, scene: Scene, seed: int, width: int, height: int):
        self._scene, self._seed = scene, seed
        rng = np.random.default_rng([seed, 7])
        v, u = np.mgrid[0:height, 0:width].astype(np.float32)
        matrix = camera_matrix(width, height, scene.fovy)
        x, y = (u - matrix[0, 2]) / matrix[0, 0], (v - matrix[1, 2]) / matrix[1, 1]
        rays = np.stack([x, y, np.ones_like(x)], -1)
        self._stretch = np.linalg.norm(rays, axis=-1)  # distance as a multiple of depth
        self._rays = (rays / self._stretch[..., None]).astype(np.float32)
        self._vignette = (1 - rng.uniform(0.12, 0.3) * (x**2 + y**2))[..., None].astype(np.float32)
        self._cast = 1 + rng.normal(0, 0.02, 3).astype(np.float32)
        self._drift = rng.uniform(0.15, 0.5, 2), rng.uniform(0, 6.3, 2)
        self._gain = scene.exposure * rng.uniform(0.9, 1.1)
        self._adapted = 0.0  # the gain found on the first frame
        self._radius = max(height / 40, 1.0)

    def expose(self, colour: np.ndarray, cover: np.ndarray, depth: np.ndarray, index: int, time: float) -> np.ndarray:
        """(H, W, 3) uint8 from the geometry's mean colour (0..1, black where there is none) and its cover (0..1)."""
        scene, pose = self._scene, self._scene.camera(time)
        picture = colour * self._occlusion(depth)[..., None]
        if scene.haze is not None:
            tint, reach = scene.haze
            distance = np.where(np.isfinite(depth), depth, 0) * self._stretch
            share = ((1 - np.exp(-distance / reach)) * cover)[..., None]
            picture = picture * (1 - share) + tint * share
        if cover.min() < 1:
            rays = (self._rays @ pose[:3, :3].T.astype(np.float32)).astype(np.float32)
            picture = picture + (1 - cover[..., None]) * scene.backdrop(rays, pose, time)
        if not self._adapted:
            level = float(np.percentile(picture.max(2), 96))
            self._adapted = float(np.clip(0.9 / max(level, 1e-3), *GAINS))
        waves = np.sin(self._drift[0] * time * 2 * np.pi + self._drift[1]).sum()
        picture = picture * self._vignette * self._cast * (self._gain * self._adapted * (1 + 0.06 * waves))
        picture = self._bloom(picture)
        picture = np.where(picture > 0.8, 1 - 0.2 * np.exp(-(picture - 0.8) / 0.2), picture)  # a soft shoulder
        return self._sense(picture, index)

    def _occlusion(self, depth: np.ndarray) -> np.ndarray:
        """Darker where the surroundings stand nearer: the depth buffer unsharp-masked (Luft et al. 2006)."""
        inverse = 1 / depth
        near = cv2.GaussianBlur(inverse, (0, 0), self._radius) + cv2.GaussianBlur(inverse, (0, 0), self._radius / 3)
        relative = np.clip(near / 2 / np.maximum(inverse, 1e-9) - 1, 0, 0.6) * np.isfinite(depth)
        return 1 - self._scene.occlusion * relative

    def _bloom(self, picture: np.ndarray) -> np.ndarray:
        glare = np.clip(picture - 0.92, 0, 4).astype(np.float32)
        if not glare.any():
            return picture
        small = cv2.resize(glare, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        halo = cv2.GaussianBlur(small, (0, 0), self._radius / 3) + 0.5 * cv2.GaussianBlur(small, (0, 0), self._radius)
        return picture + 0.35 * cv2.resize(halo, picture.shape[1::-1])

    def _sense(self, picture: np.ndarray, index: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, index, 11])
        deviation = self._scene.noise * (0.006 + 0.012 * np.sqrt(np.clip(picture, 0, 1)))
        noisy = picture + deviation * rng.standard_normal(picture.shape, np.float32)
        return np.clip(noisy * 255 + 0.5, 0, 255).astype(np.uint8)
