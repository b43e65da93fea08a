"""What the worker's thread does: frames of all cameras through the model together, each to its own camera's outputs.

Everything that touches the model is here: loading, warming up, settings that change, searching, swapping, closing.
"""

from __future__ import annotations

import gc
import logging
import math
from typing import TYPE_CHECKING

import numpy as np

from flowclas_ros.errors import DeviceMemoryError, FlowclasError
from flowclas_ros.node.parameters import Settings

if TYPE_CHECKING:
    from flowclas_ros.detection.detector import Detector
    from flowclas_ros.detection.interpreter import Rules
    from flowclas_ros.node.stream import Frame

logger = logging.getLogger(__name__)

WARM_UP_SIZE = (480, 640)  # height, width in pixels: most cameras' default


def load(settings: Settings, checkpoint: str = "") -> Detector:
    """A detector by the settings, of another checkpoint where one is given. Raises FlowclasError. May run anywhere."""
    from flowclas_ros.detection.detector import Detector  # brings torch

    path = checkpoint or settings.checkpoint
    if not path:
        raise FlowclasError("parameter checkpoint is empty: set it to the path of a .safetensors checkpoint")
    return Detector(
        path,
        device=settings.device,
        precision=settings.precision,
        false_alarm_rate=settings.false_alarm_rate,
        threshold=_threshold(settings),
        min_area=settings.min_area,
        backbone_weights=settings.backbone_weights or None,
    )


def refusal(settings: Settings, detector: Detector) -> str:
    """Why a running `detector` cannot take `settings`, as one line; empty when it can. Looks only, on any thread."""
    from flowclas_ros.detection.scorer import check_device

    try:
        check_device(settings.device, settings.precision)
    except FlowclasError as error:
        return str(error)
    if detector.calibration is None and math.isnan(settings.threshold):
        return "the checkpoint carries no calibration: set a threshold, false_alarm_rate cannot be kept"
    return ""


class Search:
    """Frames in, results out. Made and used on the worker's thread; `detector` may be looked at from others."""

    def __init__(self, settings: Settings):
        self.detector: Detector = load(settings)
        self.problem = ""  # what of the settings could not be had, for people
        self._closed = False
        self._applied = settings
        self._sizes = {WARM_UP_SIZE: 1}  # (height, width): frames in a batch, as met so far
        self._at_once: dict[tuple[int, ...], int] = {}  # by size: as many frames as the device has memory for
        self._warm_up(self.detector)

    def frames(self, frames: list[Frame], settings: Settings) -> None:
        """Search the newest frame of each camera that has one. A frame that cannot be searched is its camera's fault
        alone, and told to it.
        """
        self._apply(settings)
        by_size: dict[tuple[int, ...], list[tuple[Frame, np.ndarray]]] = {}
        for frame in frames:
            try:
                picture = frame.stream.picture(frame)
            except Exception as error:
                frame.stream.failed(error)
                continue
            if picture is not None:
                by_size.setdefault(picture.shape[:2], []).append((frame, picture))
        for size, batch in by_size.items():
            step = self._at_once.get(size, len(batch))
            for first in range(0, len(batch), step):
                self._batch(batch[first : first + step])

    def _batch(self, batch: list[tuple[Frame, np.ndarray]]) -> bool:
        """Whether the model took all of its frames, at once or one by one."""
        scored, fault = None, ""  # of memory
        try:
            scored = self.detector.score_batch([picture for _, picture in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][0].stream.failed(error)
                return False
            if isinstance(error, DeviceMemoryError):
                fault = str(error)
        if scored is None:
            # The camera with the bad picture must not blind the others. Out here, since as long as the error is handled
            # it holds what the batch had on the device: one out of memory would leave none to its frames.
            if fault:
                gc.collect()  # in Python 3.13 the error's traceback is part of a cycle
            alone = [self._batch([one]) for one in batch]
            if fault and all(alone):  # then it was the batch, which would fail every time again
                fewer = self._at_once[batch[0][1].shape[:2]] = len(batch) // 2
                logger.warning("%s; from now on at most %d of %d frames at once", fault, fewer, len(batch))
            return all(alone)
        scores, stages = scored
        height, width = batch[0][1].shape[:2]
        self._sizes = {(height, width): len(batch)}
        for (frame, picture), score in zip(batch, scores, strict=True):
            try:
                frame.stream.conclude(frame, picture, self.detector, score, stages)
            except Exception as error:
                frame.stream.failed(error)
        return True

    def swap(self, detector: Detector) -> None:
        """Go on with another detector, by the settings at hand; the old one is closed. Raises FlowclasError, and the
        old one stays, when the new one cannot search a frame of the size at hand.
        """
        if self._closed:
            raise FlowclasError("the node was cleaned up meanwhile")
        detector.move(self._applied.device, self._applied.precision)  # the settings may have changed during the load
        self._set_threshold(detector, self._applied)
        self._warm_up(detector)
        old, self.detector = self.detector, detector
        self.problem, self._at_once = "", {}  # they were the old one's
        old.close()

    def close(self) -> None:
        """Give the device back."""
        self._closed = True
        self.detector.close()

    def _warm_up(self, detector: Detector) -> None:
        for (height, width), batch in self._sizes.items():
            detector.warm_up(height, width, batch)

    def _apply(self, settings: Settings) -> None:
        """Take changed settings over, between two frames."""
        if settings is self._applied:
            return
        before, self._applied = self._applied, settings
        if (settings.device, settings.precision) != (before.device, before.precision):
            try:
                self.detector.move(settings.device, settings.precision)
                self.problem, self._at_once = "", {}
            except FlowclasError as error:
                self.problem = str(error)
        self._set_threshold(self.detector, settings)

    @staticmethod
    def _set_threshold(detector: Detector, settings: Settings) -> None:
        detector.min_area = settings.min_area
        threshold = _threshold(settings)
        if threshold is not None or detector.false_alarm_rate != settings.false_alarm_rate:
            detector.set_threshold(threshold, settings.false_alarm_rate)


def _threshold(settings: Settings) -> float | None:
    return None if math.isnan(settings.threshold) else settings.threshold


def reason_of(error: BaseException) -> str:
    """One line for people."""
    return str(error) if isinstance(error, FlowclasError) else f"{type(error).__name__}: {error}"


def rules(settings: Settings) -> Rules:
    """The settings that say what a hazard is."""
    from flowclas_ros.detection.interpreter import Rules

    return Rules(
        min_area=settings.min_area,
        hysteresis=settings.hysteresis,
        region_of_interest=settings.region_of_interest,
        smoothing=settings.smoothing,
        confirm_frames=settings.confirm_frames,
        forget_frames=settings.forget_frames,
        drift_window=settings.drift_window,
    )
