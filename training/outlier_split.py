"""Parts of a source of pseudo-outliers: held out by photo, and none at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.outliers import OutlierSource


class SomeOutliers:
    """Part of a source."""

    def __init__(self, source: OutlierSource, indices: Sequence[int]) -> None:
        self.source, self.indices = source, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def cutout(self, index: int) -> np.ndarray:
        """As in the source."""
        return self.source.cutout(self.indices[index])

    def image(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """As in the source."""
        return self.source.image(self.indices[index])

    def origin(self, index: int) -> str:
        """As in the source."""
        return self.source.origin(self.indices[index])


class NoOutliers(SomeOutliers):
    """None at all."""

    def __init__(self) -> None:
        super().__init__(self, [])


def draw_share(names: Sequence[str], share: float, seed: int) -> set[str]:
    """About ``share`` of two or more names: at least one, and never all."""
    count = min(max(1, round(share * len(names))), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[i] for i in order[:count]}


def hold_out(source: OutlierSource, share: float, seed: int) -> tuple[OutlierSource, OutlierSource]:
    """Split by photo: (the rest, about ``share`` of the photos).

    Raises:
        FlowclasError: all objects are from one photo.
    """
    origins = sorted({source.origin(i) for i in range(len(source))})
    if len(origins) < 2:
        raise FlowclasError(
            f"all pseudo-outliers are from one photo ('{origins[0]}'), so none can be held out for validation; "
            "give more photos, or data.outliers_val"
        )
    held = draw_share(origins, share, seed)
    is_held = [source.origin(i) in held for i in range(len(source))]
    rest = SomeOutliers(source, [i for i, h in enumerate(is_held) if not h])
    return rest, SomeOutliers(source, [i for i, h in enumerate(is_held) if h])
