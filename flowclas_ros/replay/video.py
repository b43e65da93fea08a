"""The overlays as an mp4 (H.264), which players and browsers show."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.errors import FlowclasError

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream


class OverlayVideo:
    """A context manager. Frames have the size of the first; others are scaled to it. rate: frames a second.

    Raises FlowclasError where PyAV, which encodes, is not installed.
    """

    def __init__(self, path: Path, rate: float):
        try:
            import av
        except ImportError as error:
            raise FlowclasError("--video needs PyAV: pip install av, or leave --video out") from error
        self._rate = Fraction(min(max(rate, 1.0), 120.0)).limit_denominator(1000)
        self._container: OutputContainer = av.open(str(path.absolute()), "w")  # or a colon in it would name a protocol
        self._stream: VideoStream | None = None

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._container:
            if self._stream is not None:
                self._container.mux(self._stream.encode())  # what the encoder still holds

    def add(self, picture: npt.NDArray[np.uint8]) -> None:
        """A frame (H,W,3) BGR."""
        from av import VideoFrame

        if self._stream is None:
            self._stream = self._begin(picture.shape[1], picture.shape[0])
        size = (self._stream.width, self._stream.height)
        if (picture.shape[1], picture.shape[0]) != size:
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        self._container.mux(self._stream.encode(VideoFrame.from_ndarray(picture, format="bgr24")))

    def _begin(self, width: int, height: int) -> VideoStream:
        stream = self._container.add_stream("h264", rate=self._rate, options={"preset": "veryfast", "crf": "20"})
        # Colour at half the resolution is what every browser shows; it takes even sizes.
        stream.pix_fmt, stream.width, stream.height = "yuv420p", max(2, width // 2 * 2), max(2, height // 2 * 2)
        return stream
