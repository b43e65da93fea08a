"""Masks of the ground truth beside a recording, each found for its frame: in a folder, or on a topic of the bag."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.images import list_images, read_mask
from flowclas_ros.detection.tracking import BACKWARD_TOLERANCE
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.conversion import header_ns
from flowclas_ros.replay.frames import messages
from flowclas_ros.replay.recording import Recorded

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

Mask = npt.NDArray[np.uint8]  # (H, W): 0 normal, 1 anomaly, 255 ignored
Place = tuple[int, int]  # lap, stamp in ns
_STAMP_DIGITS = (
    10  # from so many digits on (a second and later), a number in a file name is a stamp in ns, else an index
)
_AHEAD = 8  # masks read ahead; more would be memory


class MaskFolder:
    """Files whose name holds the frame's stamp in nanoseconds, or else its index in the topic (first number 0).

    `000012.png`, `frame_12.png`: index 12. `1700000000000000000.png`, `000012_1700000000000000000.png`: the stamp, of
    at least 10 digits (padded by zeros).
    Raises FlowclasError for names without a number, and for two masks of one frame.
    """

    def __init__(self, folder: Path):
        self._files: dict[tuple[str, int], Path] = {}
        self._used: set[tuple[str, int]] = set()
        for path in list_images(folder):
            numbers = re.findall(r"\d+", path.stem)
            if not numbers:
                raise FlowclasError(f"mask {path} has no number in its name: name it by the frame's index or stamp")
            stamps = [int(number) for number in numbers if len(number) >= _STAMP_DIGITS]
            key = ("stamp", stamps[-1]) if stamps else ("index", int(numbers[-1]))
            if key in self._files:
                raise FlowclasError(
                    f"masks {self._files[key]} and {path} both belong to the frame of {key[0]} {key[1]}"
                )
            self._files[key] = path

    def of(self, recorded: Recorded) -> Mask | None:
        """By stamp, else by index."""
        for key in (("stamp", recorded.stamp_ns), ("index", int(recorded.index or 0))):
            if key in self._files:
                self._used.add(key)
                return read_mask(self._files[key], size_of=recorded.image, image_name=f"frame {recorded.index}")
        return None

    def unused(self) -> int:
        """Files that no frame asked for."""
        return len(self._files) - len(self._used)


class Laps:
    """One topic's messages in the order of recording, told apart where their time begins anew."""

    def __init__(self) -> None:
        self._lap = self._before = 0

    def place(self, stamp_ns: int) -> Place:
        """Of the next one: how often time has stepped back (a small step is a message out of order), and its stamp."""
        self._lap += self._before - stamp_ns > BACKWARD_TOLERANCE
        self._before = stamp_ns
        return self._lap, stamp_ns


class MaskTopic:
    """mono8 images in the bag with the stamps of their frames, read along with them: 0 normal, 1 anomaly, 255 ignored.

    Any of either may be missing. Where time begins anew (a simulation in a loop) a stamp is that of a frame in each
    lap: laps are counted, and where they are too short for it, a few masks are read ahead.
    reader: one of its own on the same bag.
    """

    def __init__(self, reader: AnyReader, path: Path, topic: str):
        self._connections = [c for c in reader.connections if c.topic == topic]
        if not self._connections or any(c.msgtype != "sensor_msgs/msg/Image" for c in self._connections):
            images = sorted({c.topic for c in reader.connections if c.msgtype == "sensor_msgs/msg/Image"})
            raise FlowclasError(f"bag {path} has no mask topic {topic}; its raw images: {', '.join(images) or 'none'}")
        self._topic = topic
        self._reader = reader
        self._frames = Laps()
        self._unused = 0
        self._masks: Iterator[tuple[Place, Any]] = self._read(path)
        self._behind: deque[tuple[Place, Any]] = deque()  # passed over, but a frame may still come
        self._ahead: deque[tuple[Place, Any]] = deque()

    def of(self, recorded: Recorded) -> Mask | None:
        """The mask of the same stamp in the same lap; either may come a little out of order."""
        wanted = self._frames.place(recorded.stamp_ns)
        self._read_ahead(wanted)
        for number, (place, message) in enumerate(self._ahead):
            if place == wanted:
                self._behind += [self._ahead.popleft() for _ in range(number)]
                self._ahead.popleft()
                return self._pixels(message, recorded)
        for number, (place, message) in enumerate(self._behind):
            if place == wanted:
                del self._behind[number]
                return self._pixels(message, recorded)
        return None

    def _read_ahead(self, wanted: Place) -> None:
        """Have so many masks at hand that are not older, and those that are only a little."""
        oldest = (wanted[0], wanted[1] - BACKWARD_TOLERANCE)
        for held_back in (self._behind, self._ahead):
            while held_back and held_back[0][0] < oldest:
                held_back.popleft()
                self._unused += 1
        held = sum(place >= wanted for place, _ in self._ahead)
        while held < _AHEAD and (entry := next(self._masks, None)) is not None:
            if entry[0] < oldest:
                self._unused += 1
                continue
            self._ahead.append(entry)
            held += entry[0] >= wanted

    def unused(self) -> int:
        """Masks that no frame asked for; the rest of the topic is read for it."""
        rest = len(self._behind) + len(self._ahead) + sum(1 for _ in self._masks)  # which counts the broken ones itself
        self._behind.clear()
        self._ahead.clear()
        self._unused += rest
        return self._unused

    def _read(self, path: Path) -> Iterator[tuple[Place, Any]]:
        laps = Laps()
        for connection, bag_ns, raw in messages(self._reader, path, self._connections):
            try:
                message: Any = self._reader.deserialize(raw, connection.msgtype)
            except Exception:  # rosbags raises what its parser stumbles over
                self._unused += 1
                continue
            yield laps.place(header_ns(message) or bag_ns), message

    def _pixels(self, message: Any, recorded: Recorded) -> Mask:
        image = recorded.image
        if message.encoding not in ("mono8", "8UC1") or len(message.data) < message.step * message.height:
            raise FlowclasError(f"mask on {self._topic} at {recorded.stamp_ns} is no whole mono8 image")
        pixels: Mask = np.ndarray(
            (message.height, message.width), np.uint8, message.data, strides=(message.step, 1)
        ).copy()
        if image is not None and pixels.shape != image.shape[:2]:
            raise FlowclasError(f"mask on {self._topic} at {recorded.stamp_ns} has another size than its frame")
        if not np.isin(pixels, (0, 1, 255)).all():
            raise FlowclasError(f"mask on {self._topic} at {recorded.stamp_ns} holds values besides 0, 1, 255")
        return pixels


Masks = MaskFolder | MaskTopic
