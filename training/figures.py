"""The figures that a benchmark reports, collected image by image."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
import numpy.typing as npt

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.benchmarks import Pair
from flowclas_ros.training.data_sets import COMPONENTS, IMAGES, PER_IMAGE, REGIONS, Benchmark
from flowclas_ros.training.metrics import ComponentMetrics, ImageMetrics, PixelMetrics


class Figures:
    """Pooled pixel figures, those of each condition, and what else `benchmark.report` names.

    Components need the threshold of the best F1, which is known only in the end: until then score maps and masks wait
    in `file`, an empty one, 5 bytes a pixel. threshold: a checkpoint's own, nats per dimension, if it has one.
    """

    def __init__(self, benchmark: Benchmark, *, streaming: bool, file: IO[bytes], threshold: float | None) -> None:
        self.benchmark, self.streaming = benchmark, streaming
        self.pixels = PixelMetrics(streaming=streaming, regions=REGIONS in benchmark.report, threshold=threshold)
        self.images = ImageMetrics()
        self.conditions: dict[str, PixelMetrics] = {}
        self._file, self._kept = file, 0  # frames in it

    def update(
        self, pair: Pair, score: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]
    ) -> dict[str, float] | None:
        """Add an image; its own pixel figures, or None where it holds one class only."""
        self.pixels.update(score, mask)
        if pair.condition is not None:
            fresh = PixelMetrics(streaming=self.streaming, threshold=self.pixels.threshold)
            own = self.conditions.setdefault(pair.condition, fresh)
            own.update(score, mask)
        if COMPONENTS in self.benchmark.report:
            self._keep(score, mask)
        return self.images.update(score, mask)

    def compute(self) -> dict[str, Any]:
        """Plain values for a JSON file. Raises FlowclasError when no pixel has one of the two classes."""
        result = self.pixels.compute().to_dict()
        if self.benchmark.published is not None:
            result["published_images"] = self.benchmark.published
        whole = self.images.compute()
        result |= {name: whole[name] for name in (IMAGES, PER_IMAGE) if name in self.benchmark.report}
        if COMPONENTS in self.benchmark.report:
            result[COMPONENTS] = self._components(result["f1_threshold"])
        if self.conditions:
            result["conditions"] = {name: _of_condition(own) for name, own in sorted(self.conditions.items())}
        return result

    def _keep(self, score: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]) -> None:
        try:
            for values in (score, mask):
                np.save(self._file, values)
        except OSError as error:
            raise FlowclasError(
                f"cannot keep a score map: {error.strerror or error}; free the disk, or put --json on another one"
            ) from error
        self._kept += 1

    def _components(self, threshold: float) -> dict[str, Any]:
        predicted, true = self.benchmark.component_sizes
        components = ComponentMetrics(threshold, min_predicted=predicted, min_truth=true)
        self._file.seek(0)
        for _ in range(self._kept):
            components.update(np.load(self._file), np.load(self._file))
        return {**components.compute(), "min_predicted": predicted, "min_truth": true}


def _of_condition(pixels: PixelMetrics) -> dict[str, Any]:
    """Its figures; of pixels of one class, as fair weather without a hazard has, those that there are and why."""
    try:
        return pixels.compute().to_dict()
    except FlowclasError as error:
        return {"note": str(error), **pixels.at_threshold()}
