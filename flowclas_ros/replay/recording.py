"""A rosbag as the replay reads it: frames in order with their raw messages, and the topics kept beside them."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.conversion import decode, to_rgb
from flowclas_ros.replay.frames import BAG_SUFFIXES, image_connections, messages, open_bag

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection

TRANSFORMS = ("/tf", "/tf_static")  # kept whenever they are there: RViz needs them
_ENDS = 1 << 20  # bytes of a file's start and end that identify it


@dataclass(frozen=True, eq=False)
class Recorded:
    """One message. index: of the frame among the image topic's messages, broken ones included; None for what is only
    kept. image: (H,W,3) uint8 RGB, None for a broken frame and for what is only kept. error: why a frame is broken.
    seconds: that reading the picture took.
    """

    connection: Connection
    bag_ns: int
    raw: bytes
    index: int | None = None
    message: Any = None
    image: npt.NDArray[np.uint8] | None = None
    error: str = ""
    seconds: float = 0.0

    @property
    def stamp_ns(self) -> int:
        """Of the header, nanoseconds; the time of recording where there is none."""
        return (0 if self.message is None else header_ns(self.message)) or self.bag_ns


class Recording:
    """An open bag with one image topic chosen. Raises FlowclasError as `iter_frames` does.

    keep: further topics to read along; camera_info beside the image topic and transforms always are.
    """

    def __init__(self, reader: AnyReader, path: Path, topic: str | None, keep: tuple[str, ...] = ()):
        self.reader, self.path = reader, path
        self._images = image_connections(reader, path, topic)
        self.topic = self._images[0].topic
        there = {connection.topic for connection in reader.connections}
        missing = [name for name in keep if name not in there]
        if missing:
            raise FlowclasError(f"bag {path} has no topic {missing[0]} to keep; it has: {', '.join(sorted(there))}")
        wanted = {*keep, *TRANSFORMS, *_camera_infos(self.topic)}
        self._kept = [c for c in reader.connections if c.topic in wanted and c.topic != self.topic]

    @property
    def connections(self) -> list[Connection]:
        """All that `read` meets."""
        return [*self._images, *self._kept]

    @property
    def count(self) -> int:
        """Frames, broken ones included."""
        return sum(connection.msgcount for connection in self._images)

    @property
    def seconds(self) -> float:
        """From the first message to the last."""
        return float(self.reader.duration) * 1e-9

    def read(self) -> Iterator[Recorded]:
        """Every message in the order of recording. Raises FlowclasError when the bag breaks off."""
        images = {id(connection) for connection in self._images}
        index = 0
        for connection, bag_ns, raw in messages(self.reader, self.path, self.connections):
            if id(connection) not in images:
                yield Recorded(connection, bag_ns, raw)
                continue
            yield self._frame(connection, bag_ns, raw, index)
            index += 1

    def _frame(self, connection: Connection, bag_ns: int, raw: bytes, index: int) -> Recorded:
        message: Any = None
        start = time.perf_counter()
        try:
            message = self.reader.deserialize(raw, connection.msgtype)
            image = to_rgb(message) if hasattr(message, "encoding") else decode(message)  # the node's own lines
        except Exception as error:  # rosbags raises what its parser stumbles over
            return Recorded(connection, bag_ns, raw, index, message, error=f"{error}" or type(error).__name__)
        picture = np.ascontiguousarray(image)
        return Recorded(connection, bag_ns, raw, index, message, picture, seconds=time.perf_counter() - start)

    def identity(self) -> dict[str, Any]:
        """What tells this bag from another: files, bytes, times, counts, and a hash of its files' starts and ends."""
        files = [f for f in sorted(self.path.rglob("*")) if f.is_file()] if self.path.is_dir() else [self.path]
        digest = hashlib.sha256()
        for file in files:
            with open(file, "rb") as opened:
                digest.update(opened.read(_ENDS))
                opened.seek(max(file.stat().st_size - _ENDS, 0))
                digest.update(opened.read(_ENDS))
        return {
            "path": str(self.path),
            "bytes": sum(file.stat().st_size for file in files),
            "sha256_of_ends": digest.hexdigest(),
            "start_ns": int(self.reader.start_time),
            "seconds": self.seconds,
            "messages": int(self.reader.message_count),
            "topic": self.topic,
            "frames": self.count,
        }


@contextlib.contextmanager
def open_recording(path: Path, topic: str | None, keep: tuple[str, ...] = ()) -> Iterator[Recording]:
    """The bag at `path`, open."""
    if not path.exists():
        raise FlowclasError(f"bag {path} does not exist: give a rosbag2 folder, .mcap, .db3 or .bag file")
    with open_bag(path) as reader:
        yield Recording(reader, path, topic, keep)


def header_ns(message: Any) -> int:
    """Nanoseconds of a message's header stamp, 0 for none."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def find_bags(paths: list[Path]) -> list[Path]:
    """The bags that `paths` name: each a bag, or a folder that is searched for some. Raises FlowclasError for none."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir() or (path / "metadata.yaml").is_file():
            found.append(path)
            continue
        folders = {meta.parent for meta in path.rglob("metadata.yaml")}
        files = [file for file in path.rglob("*") if file.suffix.lower() in BAG_SUFFIXES and file.is_file()]
        loose = [file for file in files if not folders & set(file.parents)]
        if not folders and not loose:
            raise FlowclasError(f"folder {path} holds no bag: give rosbag2 folders, .mcap, .db3 or .bag files")
        found += sorted([*folders, *loose])
    return list(dict.fromkeys(found))


def _camera_infos(topic: str) -> set[str]:
    """Where the camera_info of an image topic is by convention: beside it, or beside its raw one."""
    parts = topic.split("/")
    return {"/".join([*parts[:cut], "camera_info"]) for cut in (-1, -2) if len(parts) > -cut}
