"""Connected regions of an anomaly mask: where the hazards are, how large and how sure."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Region:
    """One connected part of the mask (8-connectivity).

    bbox: (x, y, width, height) in pixels. area: pixels. centroid: (x, y) in pixels.
    peak, mean: highest and mean score inside, nats per dimension.
    """

    bbox: tuple[int, int, int, int]
    area: int
    centroid: tuple[float, float]
    peak: float
    mean: float


def find_regions(mask: npt.NDArray[np.bool_], score: npt.NDArray[np.float32], min_area: int) -> list[Region]:
    """Regions of `mask` (H,W) of at least `min_area` pixels, the highest peak of `score` (H,W) first."""
    count, labels, stats, centroids = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    regions = []
    for label in range(1, count):  # 0 is the background
        x, y, width, height, area = (int(value) for value in stats[label])
        if area < min_area:
            continue
        inside = score[y : y + height, x : x + width][labels[y : y + height, x : x + width] == label]
        regions.append(
            Region(
                bbox=(x, y, width, height),
                area=area,
                centroid=(float(centroids[label][0]), float(centroids[label][1])),
                peak=float(inside.max()),
                mean=float(inside.mean(dtype=np.float64)),
            )
        )
    return sorted(regions, key=lambda region: -region.peak)
