"""Where the hazards are in metres: depth under the mask, through a pinhole, to points and one place per region.

The frame is the camera's optical one: x right, y down, z forward, metres. Depth is along z, not along the ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.regions import Region
from flowclas_ros.errors import FlowclasError

JUMP = 0.1  # log of the ratio of two depths with none between: what lies behind is another surface
ASPECT_TOLERANCE = 0.02  # relative, beside the half pixel by which a resize rounds each side; a crop changes more


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera without distortion and the size (pixels) of the image that it describes.

    fx, fy: focal lengths, cx, cy: principal point, in pixels; (0, 0) is the centre of the top left pixel.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def scaled_to(self, width: int, height: int) -> Intrinsics:
        """The same view at another size (pixels). Raises FlowclasError when the aspect differs: another view."""
        if min(width, height, self.width, self.height) < 1:
            raise FlowclasError(
                f"camera info of {self.width}x{self.height} pixels cannot serve an image of {width}x{height}: "
                "check the camera driver"
            )
        sx, sy = width / self.width, height / self.height
        if not _same_aspect((height, width), (self.height, self.width)):
            raise FlowclasError(
                f"camera info of {self.width}x{self.height} pixels and an image of {width}x{height} differ in aspect, "
                "so they do not show the same view: use the camera_info that belongs to the image"
            )
        # the image's edge is at -0.5, so that is the point that scaling leaves in place
        cx, cy = (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5
        return Intrinsics(self.fx * sx, self.fy * sy, cx, cy, width, height)


@dataclass(frozen=True, eq=False)
class Location:
    """A region in space, metres. position: median of its points, per axis. size: their extent along x, y and z.

    nearest_range: distance from the camera to the nearest point. points: (N, 4) float32, x y z and the score (nats
    per dimension). A stray depth before the hazard makes it larger or nearer, never smaller or farther. What the mask
    holds of the surface behind it, past a jump in depth, is among the points, but in neither position nor size: the
    mask's edge would make a box of metres of every small thing before a far wall.
    """

    position: tuple[float, float, float]
    size: tuple[float, float, float]
    nearest_range: float
    points: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Located:
    """The regions' places in their order, None where no pixel of a region has depth. reason: why there is none at
    all, in one line; empty when the depth image could be used (though perhaps not under every region). remark: what
    is to be known of a depth image that was used.
    """

    locations: list[Location | None]
    reason: str = ""
    remark: str = ""

    @property
    def text(self) -> str:
        """For the diagnostics, in one line; empty when all is well."""
        return f"hazards without a position: {self.reason}" if self.reason else self.remark


def not_located(regions: Sequence[Region], reason: str) -> Located:
    """`regions` without depth, and why."""
    return Located([None] * len(regions), reason)


def locate(
    mask: npt.NDArray[np.bool_],
    score: npt.NDArray[np.float32],
    regions: Sequence[Region],
    depth: npt.NDArray[np.uint16] | npt.NDArray[np.float32],
    intrinsics: Intrinsics,
) -> Located:
    """Places of `regions`, which must be `find_regions(mask, ...)`'s; pixels of smaller regions are left out.

    mask, score: (H, W). depth: (h, w), uint16 in millimetres or float in metres, registered to the image (the same
    view from the same point) at any size of its aspect; NaN, infinite, zero or negative is no measurement.
    intrinsics: of that view at any size. Every mask pixel takes the depth pixel that it falls in, so that a thin
    region is not lost in a coarse depth image. Sizes that do not go together end in a reason, not in an exception.
    """
    height, width = mask.shape
    try:
        camera = intrinsics.scaled_to(width, height)
        _same_view(depth.shape, (height, width))
    except FlowclasError as error:
        return not_located(regions, str(error))
    rows, columns = _nearest(height, depth.shape[0]), _nearest(width, depth.shape[1])
    locations: list[Location | None] = []
    for region in regions:
        u, v = _pixels(mask, region)
        z = _metres(depth[rows[v], columns[u]])
        valid = np.isfinite(z) & (z > 0)
        u, v, z = u[valid], v[valid], z[valid]
        locations.append(_location(u, v, z, score[v, u], camera) if len(z) else None)
    if regions and not any(locations) and not _measures(depth):
        return not_located(
            regions, f"depth of {depth.shape[1]}x{depth.shape[0]} pixels holds no valid pixel: NaN or 0 everywhere"
        )
    return Located(locations)


def _same_view(depth: tuple[int, ...], image: tuple[int, int]) -> None:
    rows, columns = depth
    if min(rows, columns) < 1 or not _same_aspect((rows, columns), image):
        raise FlowclasError(
            f"depth of {columns}x{rows} pixels and an image of {image[1]}x{image[0]} differ in aspect, so they do not "
            "show the same view: use depth that is registered to the image"
        )


def _same_aspect(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether one size (height, width) can be the other resized."""
    rounding = sum(0.5 / min(sides) for sides in zip(first, second, strict=True))
    return abs(first[1] * second[0] / (first[0] * second[1]) - 1.0) <= ASPECT_TOLERANCE + rounding


def _pixels(mask: npt.NDArray[np.bool_], region: Region) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows (N,) of the region's pixels. Its box may hold parts of others, so it is labelled again: a box
    is small where the whole image would cost 10 ms at 1080p.
    """
    x, y, width, height = region.bbox
    box = mask[y : y + height, x : x + width]
    if np.count_nonzero(box) != region.area:
        _, labels, stats, centroids = cv2.connectedComponentsWithStats(box.astype(np.uint8), connectivity=8)
        # others of the same area, if any, have another centre
        off = np.abs(centroids + (x, y) - region.centroid).sum(axis=1)
        off[stats[:, cv2.CC_STAT_AREA] != region.area] = np.inf
        off[0] = np.inf  # the background
        if not off.min() < 1.0:
            raise ValueError(f"region at {region.bbox} of {region.area} pixels is not one of this mask")
        box = labels == int(off.argmin())
    v, u = np.nonzero(box)
    return u + x, v + y


def _nearest(size: int, other: int) -> npt.NDArray[np.intp]:
    """For each of `size` pixels along an axis, the one of `other` pixels that its centre falls in."""
    return ((np.arange(size) + 0.5) * (other / size)).astype(np.intp)


def _metres(depth: np.ndarray) -> npt.NDArray[np.float32]:
    if depth.dtype.kind == "u":
        return depth.astype(np.float32) * np.float32(1e-3)
    return depth.astype(np.float32)


def _location(
    u: np.ndarray, v: np.ndarray, z: npt.NDArray[np.float32], score: npt.NDArray[np.float32], camera: Intrinsics
) -> Location:
    # rows are what the reductions run along
    xyz = np.stack([_along(u, camera.cx, camera.fx) * z, _along(v, camera.cy, camera.fy) * z, z])
    own = xyz[:, _not_behind(z, float(np.median(z)))]
    x, y, depth = (float(value) for value in np.median(own, axis=1))
    width, height, length = (float(value) for value in own.max(axis=1) - own.min(axis=1))
    nearest = float(np.sqrt(np.einsum("ij,ij->j", xyz, xyz).min()))
    return Location((x, y, depth), (width, height, length), nearest, np.column_stack([*xyz, score]))


def _not_behind(z: npt.NDArray[np.float32], middle: float) -> npt.NDArray[np.bool_]:
    """(N,) which depths are not behind the first jump beyond `middle`. By steps of JUMP: sorting would take longer."""
    steps = np.floor(np.log(np.append(z, np.float32(middle))) / JUMP).astype(np.intp)
    steps -= steps.min()
    own, middle_step = steps[:-1], steps[-1]
    filled = np.append(np.bincount(own)[middle_step:] > 0, False)  # nothing lies beyond the farthest
    return own < middle_step + filled.argmin()


def _along(pixels: np.ndarray, centre: float, focal: float) -> npt.NDArray[np.float32]:
    return ((pixels - centre) / focal).astype(np.float32)


def _measures(depth: np.ndarray) -> bool:
    """Whether any pixel is a measurement. NaN compares as false."""
    return bool(np.any((depth > 0) & (depth < np.inf)))
