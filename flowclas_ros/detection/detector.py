"""Frame in, detection out: the one detector behind the node, the replay and the command line."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.regions import Region, find_regions
from flowclas_ros.detection.scorer import Image, Scorer
from flowclas_ros.errors import FlowclasError

logger = logging.getLogger(__name__)

DEFAULT_FALSE_ALARM_RATE = 1e-3
DEFAULT_MIN_AREA = 50


@dataclass(frozen=True, eq=False)
class Detection:
    """What one frame of H x W pixels holds.

    score: (H,W) float32, nats per dimension. heat: (H,W) float32, 0..1. mask: (H,W) bool, score > threshold, every
    such pixel however small its region. regions: the mask's regions of at least min_area, highest peak first.
    threshold: nats per dimension. timings: seconds per stage and "total"; in a batch, a frame's equal share.
    """

    score: npt.NDArray[np.float32]
    heat: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    regions: list[Region]
    threshold: float
    timings: dict[str, float]


class Detector:
    """A calibrated checkpoint ready to look at frames. Keep all calls on one thread, any thread.

    checkpoint: path of a flowclas .safetensors file. device: "auto", "cpu", "cuda" or "cuda:N".
    precision: "fp32", "bf16" or "fp16" (CUDA); the score is float32 always.
    false_alarm_rate: share of normal pixels that may be called an anomaly; the checkpoint's calibration turns it into
    a threshold, and `guaranteed` says whether with a conformal bound. threshold: nats per dimension, overrules it.
    min_area: pixels, smaller regions are not listed. backbone_weights: local file, where the checkpoint embeds none.

    Raises FlowclasError for a value out of range and for an uncalibrated checkpoint without a threshold.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        device: str = "auto",
        precision: str = "fp32",
        false_alarm_rate: float = DEFAULT_FALSE_ALARM_RATE,
        threshold: float | None = None,
        min_area: int = DEFAULT_MIN_AREA,
        backbone_weights: str | Path | None = None,
    ) -> None:
        if min_area < 1:
            raise FlowclasError(f"min_area {min_area} is below one pixel: 1 keeps every region")
        self._scorer = Scorer(checkpoint, device=device, precision=precision, backbone_weights=backbone_weights)
        self.min_area = min_area
        self._warm: set[tuple[int, int, int]] = set()  # height, width, batch
        table = self._scorer.header.get("calibration")
        self.calibration = Calibration.from_dict(table) if table else None
        if self.calibration is None and threshold is None:
            raise FlowclasError(
                f"checkpoint {checkpoint} carries no calibration, so no false-alarm rate can be kept: "
                "give a threshold (nats per dimension), or calibrate it with `flowclas calibrate`"
            )
        self.guaranteed = False
        self.false_alarm_rate: float | None = None
        self.set_threshold(threshold, false_alarm_rate)

    @property
    def header(self) -> dict:
        """The checkpoint's header: name, sha256, calibration, provenance, format_version."""
        return self._scorer.header

    @property
    def device(self) -> str:
        """The device in use, "cpu" or "cuda:N"."""
        return str(self._scorer.device)

    def set_threshold(self, threshold: float | None, false_alarm_rate: float = DEFAULT_FALSE_ALARM_RATE) -> None:
        """Take `threshold` (nats per dimension), or where it is None that of the rate. Raises FlowclasError."""
        if threshold is None:
            self.set_false_alarm_rate(false_alarm_rate)
            return
        if not math.isfinite(threshold):
            raise FlowclasError(f"threshold {threshold} is not a finite score in nats per dimension")
        self.threshold, self.false_alarm_rate, self.guaranteed = float(threshold), None, False

    def set_false_alarm_rate(self, rate: float) -> None:
        """Change the threshold to that of another rate. Raises FlowclasError where the checkpoint cannot tell it."""
        if self.calibration is None:
            raise FlowclasError(
                f"false_alarm_rate {rate:g} needs a calibrated checkpoint: calibrate it, or set a threshold"
            )
        self.threshold = self.calibration.threshold(rate)
        self.false_alarm_rate = rate
        self.guaranteed = self.calibration.guaranteed(rate)
        if not self.guaranteed:
            logger.warning(
                "false-alarm rate %g is empirical, not guaranteed: %d calibration scenes support a bound down to %.2g",
                rate,
                self.calibration.scenes,
                self.calibration.lowest_guaranteed,
            )

    def move(self, device: str, precision: str) -> None:
        """Go on on another device, in another precision. Raises FlowclasError; all is as before then."""
        self._scorer.move(device, precision)
        self._warm.clear()

    def warm_up(self, height: int, width: int, batch: int = 1) -> None:
        """Run once on a blank frame of this size (pixels), so that the first real one pays no lazy start; a size that
        is warm already costs nothing. Raises FlowclasError as `detect_batch` does.
        """
        if (height, width, batch) not in self._warm:
            self.detect_batch([np.zeros((height, width, 3), dtype=np.uint8)] * batch)
            self._warm.add((height, width, batch))

    def detect(self, image: Image) -> Detection:
        """Look at one frame (H,W,3) uint8 RGB. Raises FlowclasError as `detect_batch` does."""
        return self.detect_batch([image])[0]

    def detect_batch(self, images: Sequence[Image]) -> list[Detection]:
        """Look at frames (H,W,3) uint8 RGB of one size together, several cameras for instance.

        Raises FlowclasError for a frame of another type, unequal sizes, a device out of memory or a non-finite score.
        """
        scores, shared = self.score_batch(images)
        return [self._interpret(score, shared) for score in scores]

    def score_batch(self, images: Sequence[Image]) -> tuple[npt.NDArray[np.float32], dict[str, float]]:
        """Scores (B,H,W), nats per dimension, and a frame's equal share of the seconds per stage. For who interprets
        them itself (`detection.interpreter`). Raises FlowclasError as `detect_batch` does.
        """
        scores, stages = self._scorer.score_batch(images)
        return scores, {stage: seconds / len(images) for stage, seconds in stages.items()}

    def heat(self, score: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Heat (H,W) float32 in 0..1 of a score map."""
        if self.calibration is not None:
            return self.calibration.heat(score)
        # no distribution to place the score in: half-way at the threshold, for the eye only
        heat: npt.NDArray[np.float32] = 1.0 / (1.0 + np.exp(np.clip(np.float32(self.threshold) - score, -30.0, 30.0)))
        return heat

    def _interpret(self, score: npt.NDArray[np.float32], stages: dict[str, float]) -> Detection:
        start = time.perf_counter()
        heat = self.heat(score)
        mask = score > np.float32(self.threshold)
        heated = time.perf_counter()
        regions = find_regions(mask, score, self.min_area)
        done = time.perf_counter()
        timings = {**stages, "postprocess": heated - start, "regions": done - heated}
        timings["total"] = sum(timings.values())
        return Detection(score, heat, mask, regions, self.threshold, timings)

    def close(self) -> None:
        """Let go of the model and its device memory. The detector cannot be used afterwards."""
        self._scorer.close()
        self._warm.clear()
