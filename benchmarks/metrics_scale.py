"""210 million pixels, the size of Fishyscapes Lost & Found's validation set, through the streaming metrics.

    python benchmarks/metrics_scale.py

Time and memory of all figures (pixels, AUPRO, whole images, components), and how far the streamed pixel figures lie
from exact ones. Scores are made up: inliers, objects that stand out more or less, and ignored borders, as maps that
are smooth over some pixels. Writes benchmarks/results/metrics_scale.json.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from record import write_result

from flowclas_ros.progress import progress_bar
from flowclas_ros.training.metrics import ComponentMetrics, ImageMetrics, PixelMetrics

FRAMES, HEIGHT, WIDTH = 100, 1024, 2048
SEED = 0
FIGURES = ("auprc", "auroc", "fpr95", "f1_max")


def frames() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Score map (H,W) float32 and mask (H,W) uint8 of every frame."""
    rng = np.random.default_rng(SEED)
    for _ in range(FRAMES):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for _ in range(rng.integers(1, 5)):
            centre = int(rng.integers(100, WIDTH - 100)), int(rng.integers(500, HEIGHT - 150))
            cv2.ellipse(mask, (centre, tuple(rng.uniform(10, 160, 2)), rng.uniform(0, 180)), 1, -1)
        mask[-80:] = 255
        coarse = rng.standard_normal((HEIGHT // 8, WIDTH // 8), dtype=np.float32)
        score = 1.2 + 0.4 * cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        score += 0.05 * rng.standard_normal(score.shape, dtype=np.float32)
        score[mask == 1] += rng.gamma(2, 0.5)
        yield score.astype(np.float32), mask


class Clock:
    """Wall and processor seconds of what is done within it, summed; making the frames stays outside."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._start[0]
        self.cpu += time.process_time() - self._start[1]

    def seconds(self) -> dict[str, float]:
        """Rounded, for the result."""
        return {"wall_seconds": round(self.wall, 1), "cpu_seconds": round(self.cpu, 1)}


def run(metrics: list[Any], name: str, clock: Clock) -> None:
    """Feed every frame to all of them."""
    with progress_bar(name, FRAMES, "frames") as advance:
        for score, mask in frames():
            with clock:
                for one in metrics:
                    one.update(score, mask)
            advance()


def peak_gib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Stream first, for the memory's sake; then the exact figures to compare with."""
    load = os.getloadavg()[0]
    pixels, images = PixelMetrics(streaming=True, regions=True), ImageMetrics()
    clock, component_clock = Clock(), Clock()
    run([pixels, images], "streaming", clock)
    with clock:
        streamed, whole = pixels.compute(), images.compute()
    components = ComponentMetrics(streamed.f1_threshold, min_predicted=500, min_truth=100)
    run([components], "components", component_clock)
    peak = peak_gib()
    reference = PixelMetrics()
    run([reference], "exact", Clock())
    exact = reference.compute()
    path = write_result(
        "metrics_scale",
        {
            "pixels": streamed.pixels + streamed.ignored_pixels,
            "streaming": clock.seconds(),
            "components": component_clock.seconds(),
            "peak_gib": round(peak, 3),
            "load_average": {"before": round(load, 1), "after": round(os.getloadavg()[0], 1)},
            "note": "alone on the machine wall and cpu seconds agree; a load before that is no 0 tells of other work",
            "figures": {**streamed.to_dict(), **whole, "components": components.compute()},
            "difference_from_exact": {name: abs(getattr(streamed, name) - getattr(exact, name)) for name in FIGURES},
        },
        seed=SEED,
    )
    print(path)


if __name__ == "__main__":
    main()
