"""One stream of frames from whatever was recorded: an image, a folder, a video or a rosbag2."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.images import SUFFIXES, list_images, read_image
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.conversion import header_ns, to_picture

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection

VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v"}
BAG_SUFFIXES = {".mcap", ".db3", ".bag"}
IMAGE_TYPES = {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}

OnError = Callable[[FlowclasError], None]


@dataclass(frozen=True, eq=False)
class Frame:
    """stamp_ns: nanoseconds (a bag's header stamp, a video's time from its start), None for image files.

    name: unique in its source and fit for a file name, sub-folders as slashes. image: (H,W,3) uint8 RGB.
    """

    stamp_ns: int | None
    name: str
    image: npt.NDArray[np.uint8]


def iter_frames(source: str | Path, topic: str | None = None, *, on_error: OnError | None = None) -> Iterator[Frame]:
    """Frames of an image, a folder of images, a video, or a rosbag2 (folder, .mcap, .db3; ROS 1 .bag too), in order.

    topic: the image topic of a bag, needed when it has several. on_error: called with the error of each single frame
    that is broken, which is then skipped; without it the error is raised. Raises FlowclasError when the source itself
    cannot be read: not there, no images, no or several image topics (listed).
    """
    path = Path(source)
    if not path.exists():
        raise FlowclasError(f"input {path} does not exist: give an image, a folder of images, a video or a rosbag2")
    skip = on_error or _raise
    if is_bag(path):
        return _bag_frames(path, topic, skip)
    if topic is not None:
        raise FlowclasError(f"topic {topic} was given, but {path} is no bag: leave the topic out")
    if path.is_dir():
        return _file_frames(list_images(path), path, skip)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _video_frames(path)
    if path.suffix.lower() in SUFFIXES:
        return _file_frames([path], path.parent, skip)
    raise FlowclasError(f"input {path} is no image, video or bag by its suffix '{path.suffix}': convert or rename it")


def count_frames(source: str | Path, topic: str | None = None) -> int | None:
    """How many frames `iter_frames` will meet, broken ones included; None where nobody knows before the end."""
    path = Path(source)
    if is_bag(path):
        with open_bag(path) as reader:
            return sum(connection.msgcount for connection in image_connections(reader, path, topic))
    if path.is_dir():
        return len(list_images(path))
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return max(int(_open_video(path).get(cv2.CAP_PROP_FRAME_COUNT)), 0) or None
    return 1


def is_bag(path: Path) -> bool:
    """Whether the path is a rosbag: a bag file, or a folder with a metadata.yaml or a bag file in it."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(f.suffix.lower() in BAG_SUFFIXES for f in path.iterdir())
    return path.suffix.lower() in BAG_SUFFIXES


def _raise(error: FlowclasError) -> None:
    raise error


def _file_frames(paths: list[Path], root: Path, skip: OnError) -> Iterator[Frame]:
    stems = [path.relative_to(root).with_suffix("") for path in paths]
    uses = Counter(stems)
    for path, stem in zip(paths, stems, strict=True):
        try:
            image = read_image(path)
        except FlowclasError as error:
            skip(error)
            continue
        # a.jpg beside a.png: the suffix joins the name, so that neither overwrites the other's results
        name = stem if uses[stem] == 1 else stem.with_name(path.name.replace(".", "_"))
        yield Frame(None, name.as_posix(), image)


def _open_video(path: Path) -> cv2.VideoCapture:
    return cv2.VideoCapture(str(path.absolute()))  # a colon in a relative path would name a protocol


def _video_frames(path: Path) -> Iterator[Frame]:
    video = _open_video(path)
    try:
        index = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            stamp_ms = video.get(cv2.CAP_PROP_POS_MSEC)  # after the read: that of the frame just read
            image = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)
            yield Frame(int(stamp_ms * 1e6), f"{path.stem}_{index:06d}", image)
            index += 1
        if index == 0:
            raise FlowclasError(
                f"video {path} holds no readable frame: it is corrupt, or its codec is unknown to OpenCV"
            )
    finally:
        video.release()


def _bag_frames(path: Path, topic: str | None, skip: OnError) -> Iterator[Frame]:
    with open_bag(path) as reader:
        connections = image_connections(reader, path, topic)
        for index, (connection, bag_ns, raw) in enumerate(messages(reader, path, connections)):
            try:
                message: Any = reader.deserialize(raw, connection.msgtype)
                # The node's own lines read the message, so that a recorded bag and a live robot give the same pixels.
                image = np.ascontiguousarray(to_picture(message))
            except Exception as error:  # a broken message: rosbags raises what its parser stumbles over
                skip(FlowclasError(f"bag {path}, topic {connection.topic}, message {index}: {error}"))
                continue
            stamp_ns = header_ns(message)
            yield Frame(stamp_ns or bag_ns, f"{index:06d}_{stamp_ns or bag_ns}", image)


def messages(reader: AnyReader, path: Path, connections: list[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
    """(connection, time of recording in ns, raw message) of an open bag. Raises FlowclasError when it breaks off."""
    try:
        yield from reader.messages(connections=connections)
    except Exception as error:  # a file cut short shows here, after its last whole message
        raise FlowclasError(f"bag {path} breaks off ({error}): copy it again, or run `ros2 bag reindex`") from error


@contextlib.contextmanager
def open_bag(path: Path) -> Iterator[AnyReader]:
    """A reader on the bag. Raises FlowclasError when it cannot be opened."""
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise FlowclasError(f"reading bag {path} needs the Python package rosbags: pip install rosbags") from error
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        bags = sorted(file.name for file in path.iterdir() if file.suffix.lower() in BAG_SUFFIXES)
        raise FlowclasError(
            f"folder {path} is no bag (it has no metadata.yaml) but holds {len(bags)}, such as {bags[0]}: "
            "name them one by one, or take them out"
        )
    try:
        # sqlite3 bags from before Iron carry no message definitions; the standard ones fill in.
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    except KeyError as error:  # rosbags' word for a schema that is not one of ROS's
        raise FlowclasError(
            f"bag {path} cannot be opened: it holds messages of encoding {error} beside ROS's: take their topics out "
            "with `mcap filter`"
        ) from error
    except Exception as error:  # rosbags' own errors, and those of sqlite3, yaml and struct beneath it
        raise FlowclasError(
            f"bag {path} cannot be opened ({error}): copy it again, or run `ros2 bag reindex`"
        ) from error
    try:
        yield reader
    finally:
        reader.close()


def image_connections(reader: AnyReader, path: Path, topic: str | None) -> list[Connection]:
    """Those of the one image topic, or of the one that is chosen. Raises FlowclasError listing what there is."""
    images = [connection for connection in reader.connections if connection.msgtype in IMAGE_TYPES]
    topics = sorted({connection.topic for connection in images})
    if not topics:
        others = ", ".join(sorted({f"{c.topic} ({c.msgtype})" for c in reader.connections})) or "none at all"
        raise FlowclasError(f"bag {path} has no image topic; its topics: {others}")
    if topic is None and len(topics) > 1:
        raise FlowclasError(f"bag {path} has {len(topics)} image topics, choose one of them: {', '.join(topics)}")
    chosen = [connection for connection in images if connection.topic == (topic or topics[0])]
    if not chosen:
        raise FlowclasError(f"bag {path} has no image topic {topic}; it has: {', '.join(topics)}")
    return chosen
