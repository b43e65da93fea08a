"""Weather and camera corruptions of an RGB image at five severities, each a function of (image, severity, seed).

Own lines of NumPy and OpenCV since no library serves (looked at in November 2026): imagecorruptions, the code behind
ImageNet-C, is of 2020 and brings opencv-python beside our headless one; albumentations ended with 2.0.8 and pins its
core; its successor albumentationsx is AGPL; kornia has neither fog, frost nor sandstorm and left Python 3.10.

Noise and JPEG take the strengths of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261); haze is Koschmieder's law,
J t + A (1 - t); exposure and night work in linear light. Lengths are shares of the image's shorter side.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.images import through_jpeg
from flowclas_ros.errors import FlowclasError, require

SEVERITIES = (1, 2, 3, 4, 5)
_GAMMA = 2.2  # of the camera's encoding, near enough to sRGB's

Image = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]


def corrupt(image: Image, name: str, severity: int, seed: int | Sequence[int] = 0) -> Image:
    """The image (H, W, 3) uint8 RGB as seen under `name` at `severity` 1..5; the same seed gives the same image.

    Nothing is moved, so the image's labels stay true. Raises FlowclasError for an unknown name or severity.
    """
    check_corruptions([name], [severity])
    seeds = [seed] if isinstance(seed, int) else list(seed)
    # without the severity, so that those of a seed differ in strength alone
    rng = np.random.default_rng([*seeds, zlib.crc32(name.encode())])
    changed = CORRUPTIONS[name]((image / 255).astype(np.float32), severity - 1, rng)
    return np.rint(np.clip(changed, 0, 1) * 255).astype(np.uint8)


def check_corruptions(names: Sequence[str], severities: Sequence[int]) -> None:
    """Raises FlowclasError for a name or a severity that there is not."""
    for name in names:
        if name not in CORRUPTIONS:
            raise FlowclasError(f"corruption '{name}' is unknown; known: {', '.join(CORRUPTIONS)}")
    for severity in severities:
        if severity not in SEVERITIES:
            raise FlowclasError(f"corruption severity {severity} is not one of 1 to 5")


@dataclass(frozen=True)
class CorruptionConfig:
    """Corruptions as augmentation: some training scenes, objects pasted, are seen in bad weather or by a bad camera.

    Attributes:
        probability: share of the training scenes that are corrupted, each by one corruption; 0: none.
        names: those to draw from; none named: all.
        severities: those to draw from, 1 to 5.
    """

    probability: float = 0.0
    names: tuple[str, ...] = ()
    severities: tuple[int, ...] = (1, 2, 3)

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, "data.corruptions.probability", self.probability, "from 0 to 1")
        if not self.severities:
            raise FlowclasError("data.corruptions.severities is empty; name at least one of 1 to 5")
        check_corruptions(self.names, self.severities)


def maybe_corrupt(image: Image, config: CorruptionConfig, rng: np.random.Generator) -> Image:
    """The image, or with the config's probability one drawn corruption of it; draws nothing at probability 0."""
    if config.probability == 0 or rng.random() >= config.probability:
        return image
    name = str(rng.choice(config.names or tuple(CORRUPTIONS)))
    return corrupt(image, name, int(rng.choice(config.severities)), int(rng.integers(2**31)))


# ------------------------------------------------------------------------------------------------ weather


def _rain(image: Float, level: int, rng: np.random.Generator) -> Float:
    """Streaks of one slant, far and near, and the haze of the drops between."""
    hazy = _haze(image, np.float32((0.95, 0.9, 0.84, 0.78, 0.7)[level]), (0.72, 0.74, 0.77))
    angle = rng.uniform(-20, 20) + 90
    layer = np.zeros(image.shape[:2], np.float32)
    for length, drops, width in ((0.04, 0.004, 1), (0.1, 0.0008, 2)):
        share = drops * (1, 2, 3, 4.5, 6.5)[level]
        seeds = _dots(image.shape[:2], share, width, rng)
        streaks = _along(seeds, length, angle)
        if streaks.any():  # on a small image there may be no drop
            layer = np.maximum(layer, streaks / max(float(np.quantile(streaks[streaks > 0], 0.98)), 1e-6))
    opacity = (0.22, 0.28, 0.34, 0.4, 0.46)[level] * np.clip(layer, 0, 1)[..., None]
    return hazy * (1 - opacity) + np.float32(0.88) * opacity


def _snow(image: Float, level: int, rng: np.random.Generator) -> Float:
    """Flakes of three sizes drifting one way, in air that whitens the distance."""
    hazy = _haze(image, np.float32((0.92, 0.85, 0.77, 0.68, 0.58)[level]), (0.86, 0.88, 0.9))
    angle = rng.uniform(30, 150)
    layer = np.zeros(image.shape[:2], np.float32)
    for diameter, share in ((0.004, 0.006), (0.008, 0.003), (0.016, 0.0012)):
        pixels = max(1, round(diameter * min(image.shape[:2])))
        flakes = _dots(image.shape[:2], share * (0.6, 1, 1.6, 2.4, 3.4)[level] / pixels, pixels, rng)
        blurred = cv2.GaussianBlur(_along(flakes, 1.2 * diameter, angle), (0, 0), 0.35 * pixels + 0.3)
        layer = np.maximum(layer, (blurred / max(float(blurred.max()), 1e-6)).astype(np.float32))
    opacity = np.clip(1.6 * layer, 0, 0.92)[..., None]
    return hazy * (1 - opacity) + np.float32(0.97) * opacity


def _fog(image: Float, level: int, rng: np.random.Generator) -> Float:
    """White haze in drifting banks."""
    return _haze(image, _banks(image, (0.72, 0.58, 0.45, 0.34, 0.24)[level], rng), (0.84, 0.85, 0.87))


def _sandstorm(image: Float, level: int, rng: np.random.Generator) -> Float:
    """Ochre haze in banks, and grains."""
    hazy = _haze(image, _banks(image, (0.74, 0.6, 0.47, 0.36, 0.26)[level], rng), (0.76, 0.58, 0.34))
    grains = rng.standard_normal(image.shape[:2], np.float32)[..., None]
    return hazy + grains * np.float32((0.012, 0.02, 0.03, 0.04, 0.05)[level])


def _frost(image: Float, level: int, rng: np.random.Generator) -> Float:
    """Ice on the lens: ridged crystals, thickest at the border, blurred and whitened behind them."""
    height, width = image.shape[:2]
    ridges = 1 - np.abs(2 * _clouds((height, width), 0.12, rng) - 1)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    border = np.maximum(np.abs(x), np.abs(y)).astype(np.float32)
    ice = 0.6 * ridges + 0.7 * border - (0.98, 0.86, 0.74, 0.64, 0.54)[level]
    ice = np.clip(2.2 * ice, 0, 0.9)[..., None]
    behind = cv2.GaussianBlur(image, (0, 0), 0.012 * min(height, width))
    crystals = np.array((0.8, 0.87, 0.93), np.float32) * (0.75 + 0.4 * (ridges**4)[..., None])
    behind = behind * 0.55 + crystals * 0.45
    return np.asarray(image * (1 - ice) + behind * ice, np.float32)


def _night(image: Float, level: int, rng: np.random.Generator) -> Float:
    """Stops less light, its colours faded to blue, and the sensor's noise where little light is left."""
    stops = (1.5, 2.2, 2.9, 3.6, 4.3)[level]
    light = image**_GAMMA
    grey = light.mean(axis=2, keepdims=True)
    light = (0.6 * light + 0.4 * grey) * np.array((0.85, 0.95, 1.2), np.float32) * np.float32(2**-stops)
    photons = (4000, 2800, 2000, 1400, 1000)[level]
    noise = rng.standard_normal(image.shape, np.float32)
    light = light + noise * np.sqrt(light / photons + (0.6 / photons) ** 2 * 9)
    return np.clip(light, 0, 1) ** np.float32(1 / _GAMMA)


# ------------------------------------------------------------------------------------------------ camera


def _blur(image: Float, level: int, rng: np.random.Generator) -> Float:
    """Motion along a drawn direction, or, as often, a lens out of focus."""
    share = (0.015, 0.024, 0.036, 0.05, 0.068)[level]
    if rng.random() < 0.5:
        return _along(image, share, float(rng.uniform(0, 180)))
    radius = 0.35 * share * min(image.shape[:2])
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return np.asarray(cv2.filter2D(image, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT), np.float32)


def _noise(image: Float, level: int, rng: np.random.Generator) -> Float:
    """Gaussian, of the strengths of ImageNet-C."""
    return image + rng.standard_normal(image.shape, np.float32) * np.float32((0.08, 0.12, 0.18, 0.26, 0.38)[level])


def _exposure(image: Float, level: int, rng: np.random.Generator) -> Float:
    """Stops too much or, as often, too little light; what is clipped stays clipped."""
    stops = (0.8, 1.2, 1.6, 2.0, 2.5)[level] * (1 if rng.random() < 0.5 else -1)
    return np.clip(image**_GAMMA * np.float32(2**stops), 0, 1) ** np.float32(1 / _GAMMA)


def _jpeg(image: Float, level: int, rng: np.random.Generator) -> Float:
    """Coded at the qualities of ImageNet-C."""
    quality = (25, 18, 15, 10, 7)[level]
    return through_jpeg(np.rint(image * 255).astype(np.uint8), quality).astype(np.float32) / np.float32(255)


# ------------------------------------------------------------------------------------------------ what they share


def _haze(image: Float, transmission: Float | np.float32, airlight: tuple[float, float, float]) -> Float:
    return image * transmission + np.array(airlight, np.float32) * (1 - transmission)


def _banks(image: Float, transmission: float, rng: np.random.Generator) -> Float:
    """Transmission (H, W, 1) that varies about its mean, in banks."""
    clouds = _clouds(image.shape[:2], 0.6, rng)
    return np.clip(np.float32(transmission) ** (0.5 + clouds), 0, 1)[..., None]


def _clouds(shape: tuple[int, ...], cell: float, rng: np.random.Generator) -> Float:
    """Fractal noise (H, W) of mean about 0.5 in 0..1: octaves of smooth noise from `cell` (share of the side) down."""
    height, width = shape[:2]
    total, weight, strength = np.zeros((height, width), np.float32), 0.0, 1.0
    size = cell * min(height, width)
    while size >= 2 and strength > 0.05:
        coarse = rng.random((int(height / size) + 2, int(width / size) + 2), np.float32)
        total += strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        weight, strength, size = weight + strength, strength * 0.6, size / 2
    return np.clip(total / max(weight, 1e-6), 0, 1)


def _dots(shape: tuple[int, ...], share: float, diameter: int, rng: np.random.Generator) -> Float:
    """(H, W) of 0 and, at about `share` of the places, discs of varied brightness up to 1."""
    dots = np.where(rng.random(shape[:2]) < share, rng.uniform(0.5, 1, shape[:2]), 0).astype(np.float32)
    if diameter == 1:
        return dots
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
    return np.asarray(cv2.dilate(dots, disc), np.float32)


def _along(image: Float, share: float, angle: float) -> Float:
    """Mean along a line of `share` of the shorter side, `angle` degrees from the horizontal."""
    reach = max(1, round(share * min(image.shape[:2]) / 2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    step = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))]) * reach
    centre = np.array([reach, reach])
    first, last = (np.rint(centre + sign * step).astype(int).tolist() for sign in (-1, 1))
    cv2.line(kernel, first, last, (1.0,), 1, cv2.LINE_AA)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT), np.float32)


CORRUPTIONS: dict[str, Callable[[Float, int, np.random.Generator], Float]] = {
    "rain": _rain,
    "fog": _fog,
    "night": _night,
    "snow": _snow,
    "frost": _frost,
    "sandstorm": _sandstorm,
    "blur": _blur,
    "noise": _noise,
    "exposure": _exposure,
    "jpeg": _jpeg,
}
