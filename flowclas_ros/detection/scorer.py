"""Camera frames to anomaly scores on one device: the part that the detector and the evaluation share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.checkpoint import load_checkpoint
from flowclas_ros.model.device import memory_errors, resolve_device

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Image = npt.NDArray[np.uint8]


class Scorer:
    """A checkpoint on a device: RGB frames in, score maps out. Keep to one thread, any thread.

    precision: "fp32", or "bf16" / "fp16" for autocast of the network; the score map is float32 always.
    Raises FlowclasError for an unknown precision, fp16 on a CPU, or whatever the checkpoint or device lacks.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        device: str = "auto",
        precision: str = "fp32",
        backbone_weights: str | Path | None = None,
    ) -> None:
        self.device = check_device(device, precision)
        with _memory_errors(self.device, f"the model of '{checkpoint}'"):
            loaded = load_checkpoint(checkpoint, device=str(self.device), backbone_weights=backbone_weights)
        self.header: dict[str, Any] = loaded.header
        self.precision = precision
        self._model: torch.nn.Module | None = loaded.model.eval()
        self._staging: torch.Tensor | None = None

    def score_batch(self, images: Sequence[Image]) -> tuple[npt.NDArray[np.float32], dict[str, float]]:
        """Scores (B,H,W) float32, nats per dimension, of B frames (H,W,3) uint8 RGB, and seconds per stage.

        Raises FlowclasError for frames of another type or of unequal sizes, for a device out of memory, and for a
        score that is not finite (a NaN would pass every threshold as "clear").
        """
        if self._model is None:
            raise FlowclasError("the detector is closed: make a new one")
        _check_frames(images)
        height, width = images[0].shape[:2]
        what = f"{len(images)} frame(s) of {width}x{height}"
        with _memory_errors(self.device, what), torch.inference_mode():
            start = time.perf_counter()
            batch = self._upload(images)
            uploaded = time.perf_counter()
            half = self.precision != "fp32"
            with torch.autocast(self.device.type, dtype=_PRECISIONS[self.precision], enabled=half):
                score = self._model(batch).float()
            finite = bool(torch.isfinite(score).all())  # waits for the device, so the time below is honest
            inferred = time.perf_counter()
            scores: npt.NDArray[np.float32] = score.cpu().numpy()
            done = time.perf_counter()
        if not finite:
            raise FlowclasError(
                f"score of a {width}x{height} frame is not finite at precision {self.precision}: "
                + ("use bf16 or fp32" if half else "the checkpoint is broken, fit it again")
            )
        return scores, {"preprocess": uploaded - start, "infer": inferred - uploaded, "download": done - inferred}

    def move(self, device: str, precision: str) -> None:
        """Go on on another device, in another precision. Raises FlowclasError; all is as before then."""
        target = check_device(device, precision)
        if self._model is not None and target != self.device:
            try:
                self._model.to(target)
            except RuntimeError as error:  # out of memory, most likely, with half of the model moved
                self._model.to(self.device)
                raise FlowclasError(f"the model cannot move to {target}, {self.device} stays: {error}") from error
            finally:  # on the device that it left, or that had no room for it
                torch.cuda.empty_cache()
            self._staging = None
        self.device, self.precision = target, precision

    def close(self) -> None:
        """Let go of the model and its device memory."""
        self._model = self._staging = None
        torch.cuda.empty_cache()  # where there is CUDA

    def _upload(self, images: Sequence[Image]) -> torch.Tensor:
        """Frames as (B,3,H,W) float32 0..1 on the device; through one kept pinned buffer where that is CUDA."""
        shape = (len(images), *images[0].shape)
        if self._staging is None or self._staging.shape != shape:
            # Pinning costs milliseconds, so the buffer is kept for as long as the frame size stays.
            self._staging = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        for slot, image in zip(self._staging.numpy(), images, strict=True):
            np.copyto(slot, image)
        pixels = self._staging.to(self.device, non_blocking=True)
        batch = pixels.permute(0, 3, 1, 2).float().div_(255.0)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return batch


def check_device(device: str, precision: str) -> torch.device:
    """The device, once it is known to exist and to compute in `precision`. Raises FlowclasError."""
    if precision not in _PRECISIONS:
        raise FlowclasError(f"precision '{precision}' is not one of {', '.join(_PRECISIONS)}")
    target = resolve_device(device)
    if precision == "fp16" and target.type == "cpu":
        raise FlowclasError("precision 'fp16' needs a CUDA device, and this is the CPU: use fp32 or bf16")
    return target


def _check_frames(images: Sequence[Image]) -> None:
    if not images:
        raise FlowclasError("a batch of 0 frames has no score: give at least one")
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise FlowclasError(f"a frame of shape {image.shape} and type {image.dtype} is not (H, W, 3) uint8 RGB")
    sizes = sorted({f"{image.shape[1]}x{image.shape[0]}" for image in images})
    if len(sizes) > 1:
        raise FlowclasError(f"frames of sizes {', '.join(sizes)} cannot share a batch: send one batch per size")


def _memory_errors(device: torch.device, what: str) -> contextlib.AbstractContextManager[None]:
    ways = "use smaller frames or a smaller backbone"
    if device.type == "cuda":
        ways = "use smaller frames, precision bf16 or fp16, a smaller backbone, or device cpu"
    return memory_errors(device, what, ways)
