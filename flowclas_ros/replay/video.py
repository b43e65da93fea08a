"""The overlays as an mp4 (MPEG-4 part 2), which players show and browsers do not."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.errors import FlowclasError


class OverlayVideo:
    """A context manager. Frames have the size of the first; others are scaled to it. rate: frames a second."""

    def __init__(self, path: Path, rate: float):
        self._path = path
        self._rate = min(max(rate, 1.0), 120.0)
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()

    def add(self, picture: npt.NDArray[np.uint8]) -> None:
        """A frame (H,W,3) BGR. Raises FlowclasError when this OpenCV cannot write mp4."""
        if self._writer is None:
            self._size = (picture.shape[1], picture.shape[0])
            self._writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*"mp4v"), self._rate, self._size)
            if not self._writer.isOpened():
                raise FlowclasError(
                    "this OpenCV cannot write mp4: leave --video out, or install opencv-python-headless"
                )
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = np.asarray(cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        self._writer.write(picture)
