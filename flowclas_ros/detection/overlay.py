"""Pictures of a detection: heat map, overlay with outlined hazards, contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.regions import Region

if TYPE_CHECKING:
    from flowclas_ros.detection.detector import Detection
    from flowclas_ros.detection.interpreter import Finding

RGB = npt.NDArray[np.uint8]

# Cyan stands apart from all of inferno (black - purple - orange - yellow), for colour-blind eyes too.
OUTLINE = (0, 229, 255)
_HALO = (0, 0, 0)
_PAPER = (24, 24, 27)
_INK = (235, 235, 235)
_FONT = cv2.FONT_HERSHEY_SIMPLEX

# For each of 256 levels of heat: its colour in inferno, as (256,1,3) RGB, and what the overlay makes of a pixel: the
# share of the camera's picture that is kept, in 255ths, and the colour that is added. Two steps in 8 bits, which are
# within two grey levels of blending in floats and take half the time.
_INFERNO = np.ascontiguousarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[..., ::-1]
)
_OPACITY = np.clip((np.arange(256)[:, None, None] / 255 - 0.25) * 1.2, 0.0, 0.75)
_KEPT = np.rint(255 * (1 - np.repeat(_OPACITY, 3, axis=2))).astype(np.uint8)
_ADDED = np.rint(_INFERNO * _OPACITY).astype(np.uint8)


def heat_image(heat: npt.NDArray[np.float32]) -> RGB:
    """Heat (H,W) in 0..1 as (H,W,3) uint8 RGB in inferno: perceptually uniform and safe for colour-blind eyes."""
    return np.asarray(cv2.applyColorMap(_levels(heat), _INFERNO), dtype=np.uint8)


def overlay(image: RGB, detection: Detection | Finding) -> RGB:
    """The frame (H,W,3) RGB with its heat laid over and every listed hazard outlined, boxed and labelled by its peak.

    Cool pixels stay as the camera saw them; opacity follows heat, so that the eye is led, not blinded.
    """
    levels = _levels(detection.heat)
    kept = cv2.multiply(np.ascontiguousarray(image), cv2.applyColorMap(levels, _KEPT), scale=1 / 255)
    picture = np.asarray(cv2.add(kept, cv2.applyColorMap(levels, _ADDED)), dtype=np.uint8)
    thickness = max(1, round(min(image.shape[:2]) / 300))
    _outline(picture, detection.mask, detection.regions, thickness)
    for region in reversed(detection.regions):  # the highest peak is drawn last, on top
        _box(picture, region, thickness)
    return picture


def contact_sheet(rows: Sequence[Sequence[tuple[str, RGB]]], *, tile_width: int = 320, title: str = "") -> RGB:
    """Rows of (label, RGB image of any size) as one picture; tiles are `tile_width` pixels wide, their aspect kept."""
    gap, line = 10, 26
    scaled = [[(label, _to_width(image, tile_width)) for label, image in row] for row in rows]
    heights = [line + max((tile.shape[0] for _, tile in row), default=0) + gap for row in scaled]
    columns = max((len(row) for row in rows), default=1)
    top = gap + (line + gap if title else 0)
    sheet: RGB = np.full((top + sum(heights), gap + columns * (tile_width + gap), 3), _PAPER, dtype=np.uint8)
    if title:
        _write(sheet, title, (gap, gap + line - 6), 0.6, _INK)
    for row, height in zip(scaled, heights, strict=True):
        left = gap
        for label, tile in row:
            _write(sheet, _shorten(label, tile_width), (left, top + line - 9), 0.45, _INK)
            sheet[top + line : top + line + tile.shape[0], left : left + tile_width] = tile
            left += tile_width + gap
        top += height
    return sheet


def _levels(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Heat in 0..1, clipped, as 0..255, rounded."""
    return np.clip(heat * 255.0 + 0.5, 0, 255).astype(np.uint8)


def _outline(picture: RGB, mask: npt.NDArray[np.bool_], regions: Sequence[Region], thickness: int) -> None:
    boxes = {region.bbox for region in regions}
    contours, hierarchy = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer = [contour for index, contour in enumerate(contours) if hierarchy[0, index, 3] < 0]  # no hole of another
    # A region's outer contour has the region's own box, which tells the listed regions from the small ones.
    listed = [contour for contour in outer if tuple(cv2.boundingRect(contour)) in boxes]
    # A contour steps from pixel to pixel: smooth lines hardly show and take five times as long.
    cv2.drawContours(picture, listed, -1, _HALO, thickness + 2)
    cv2.drawContours(picture, listed, -1, OUTLINE, thickness)


def _box(picture: RGB, region: Region, thickness: int) -> None:
    """Corner brackets, which hide less than a full box, and the peak score on a tag inside the picture."""
    x, y, width, height = region.bbox
    pad = 2 + thickness
    rows, cols = picture.shape[:2]
    left, top = max(x - pad, 0), max(y - pad, 0)
    right, bottom = min(x + width - 1 + pad, cols - 1), min(y + height - 1 + pad, rows - 1)
    arm = max(4, min(right - left, bottom - top) // 4)
    for colour, weight in ((_HALO, thickness + 2), (_INK, thickness)):
        for corner_x, inward_x in ((left, arm), (right, -arm)):
            for corner_y, inward_y in ((top, arm), (bottom, -arm)):
                corner = (corner_x, corner_y)
                cv2.line(picture, corner, (corner_x + inward_x, corner_y), colour, weight)
                cv2.line(picture, corner, (corner_x, corner_y + inward_y), colour, weight)
    _tag(picture, f"{region.peak:.2f}", left, top, bottom)


def _tag(picture: RGB, text: str, left: int, top: int, bottom: int) -> None:
    """A dark label above the box, or below it where there is no room above."""
    scale = max(0.35, min(picture.shape[:2]) / 1200)
    (width, height), below = cv2.getTextSize(text, _FONT, scale, 1)
    tall = height + below + 3
    x = min(left, max(picture.shape[1] - width - 6, 0))
    y = top - tall - 1 if top > tall else min(bottom + 1, picture.shape[0] - tall)
    cv2.rectangle(picture, (x, y), (x + width + 5, y + tall - 1), _PAPER, cv2.FILLED)
    _write(picture, text, (x + 3, y + height + 2), scale, OUTLINE)


def _write(picture: RGB, text: str, origin: tuple[int, int], scale: float, colour: tuple[int, int, int]) -> None:
    # OpenCV's fonts hold ASCII alone.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(picture, plain, origin, _FONT, scale, colour, 1, cv2.LINE_AA)


def _to_width(image: RGB, width: int) -> RGB:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    shrinks = image.shape[1] > width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR).astype(
        np.uint8
    )


def _shorten(text: str, width: int) -> str:
    most = int(width / 8.2)  # pixels a character takes at the labels' size
    return text if len(text) <= most else "..." + text[-(most - 3) :]
