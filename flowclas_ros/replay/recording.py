"""A rosbag as the replay reads it: frames in order with their raw messages, and the topics kept beside them."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.conversion import header_ns, to_picture
from flowclas_ros.replay.cameras import Camera
from flowclas_ros.replay.frames import image_connections, messages, open_bag

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection

STATIC = "/tf_static"
TRANSFORMS = ("/tf", STATIC)  # kept whenever they are there: RViz needs them
_IMAGE, _INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
_ENDS = 1 << 20  # bytes of a file's start and end that identify it


@dataclass(frozen=True, eq=False)
class Recorded:
    """One message. index: of the frame among its image topic's messages, broken ones included; None for all else.
    message: None for what is only kept, and for what cannot be read. image: (H,W,3) uint8 RGB, of frames that are not
    broken. error: why it is broken. seconds: that reading the picture took.
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
    def header(self) -> Any:
        """The message's; a frame may stand for its message where that is paired by its stamp."""
        return self.message.header

    @property
    def stamp_ns(self) -> int:
        """Of the header, nanoseconds; the time of recording where there is none."""
        return (0 if self.message is None else header_ns(self.message)) or self.bag_ns


class Recording:
    """An open bag with its cameras' topics. Raises FlowclasError as `iter_frames` does.

    keep: further topics to read along; camera_info beside an image topic and transforms always are.
    """

    def __init__(self, reader: AnyReader, path: Path, cameras: tuple[Camera, ...], keep: tuple[str, ...] = ()):
        self.reader, self.path = reader, path
        self._images = {camera: image_connections(reader, path, camera.image) for camera in cameras}
        self.cameras = tuple(self._resolved(camera) for camera in cameras)
        self._images = dict(zip(self.cameras, self._images.values(), strict=True))
        there = {connection.topic for connection in reader.connections}
        missing = [name for name in keep if name not in there]
        if missing:
            raise FlowclasError(f"bag {path} has no topic {missing[0]} to keep; it has: {', '.join(sorted(there))}")
        frames = {camera.image for camera in self.cameras}
        self._read_too = {name for one in self.cameras for name in (one.depth, one.depth and one.camera_info) if name}
        beside = {name for camera in self.cameras for name in (camera.depth, camera.camera_info)}
        wanted = {*keep, *TRANSFORMS, *beside} - frames
        self._kept = [connection for connection in reader.connections if connection.topic in wanted]

    @property
    def connections(self) -> list[Connection]:
        """All that `read` meets."""
        return [*(connection for several in self._images.values() for connection in several), *self._kept]

    @property
    def seconds(self) -> float:
        """From the first message to the last."""
        return float(self.reader.duration) * 1e-9

    def count(self, camera: Camera | None = None) -> int:
        """Frames of one camera, or of all, broken ones included."""
        chosen = self._images.values() if camera is None else [self._images[camera]]
        return sum(connection.msgcount for several in chosen for connection in several)

    def read(self) -> Iterator[Recorded]:
        """Every message in the order of recording. Raises FlowclasError when the bag breaks off."""
        following = {str(camera.image): 0 for camera in self.cameras}
        for connection, bag_ns, raw in messages(self.reader, self.path, self.connections):
            recorded = Recorded(connection, bag_ns, raw)
            if connection.topic in following:
                recorded = self._frame(replace(recorded, index=following[connection.topic]))
                following[connection.topic] += 1
            elif connection.topic in self._read_too:
                recorded = self._with_message(recorded)
            yield recorded

    def deserialised(self, recorded: Recorded) -> Any:
        """The message, in ROS 2's field names. Raises what rosbags' parser stumbles over."""
        if recorded.message is not None:
            return recorded.message
        message: Any = self.reader.deserialize(recorded.raw, recorded.connection.msgtype)
        if recorded.connection.msgtype == _INFO and not self.reader.is2:  # ROS 1 calls the matrices D, K, R, P
            message = SimpleNamespace(**{name.lower(): value for name, value in vars(message).items()})
        return message

    def _resolved(self, camera: Camera) -> Camera:
        """With every topic that is there named. Raises FlowclasError for one that is not, listing those there are."""
        kinds = {connection.topic: connection.msgtype for connection in self.reader.connections}
        for name, kind, what in ((camera.depth, _IMAGE, "depth"), (camera.camera_info, _INFO, "camera info")):
            if name is not None and kinds.get(name) != kind:
                there = ", ".join(sorted(topic for topic, found in kinds.items() if found == kind)) or "none"
                raise FlowclasError(f"bag {self.path} has no {what} topic {name} ({kind}); it has: {there}")
        image = self._images[camera][0].topic
        beside = [name for name in _camera_infos(image) if kinds.get(name) == _INFO]
        info = camera.camera_info or next(iter(beside), None)
        if camera.depth is not None and info is None:
            raise FlowclasError(f"bag {self.path} has no camera_info beside {image}: name it with --camera-info-topic")
        return replace(camera, image=image, camera_info=info)

    def _with_message(self, recorded: Recorded) -> Recorded:
        try:
            return replace(recorded, message=self.deserialised(recorded))
        except Exception as error:  # rosbags raises what its parser stumbles over
            return replace(recorded, error=f"{error}" or type(error).__name__)

    def _frame(self, recorded: Recorded) -> Recorded:
        start = time.perf_counter()
        recorded = self._with_message(recorded)
        if recorded.error:
            return recorded
        message = recorded.message
        try:
            image = to_picture(message)  # the node's own lines
        except Exception as error:  # a message that contradicts itself in ways that nobody has thought of
            return replace(recorded, error=f"{error}" or type(error).__name__)
        picture = np.ascontiguousarray(image)
        return replace(recorded, image=picture, seconds=time.perf_counter() - start)

    def identity(self, camera: Camera) -> dict[str, Any]:
        """What tells this bag from another: files, bytes, times, counts, and a hash of its files' starts and ends."""
        files = _files(self.path)
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
            "topic": camera.image,
            "depth_topic": camera.depth,
            "camera_info_topic": camera.camera_info,
            "frames": self.count(camera),
        }


@contextlib.contextmanager
def open_recording(path: Path, cameras: tuple[Camera, ...], keep: tuple[str, ...] = ()) -> Iterator[Recording]:
    """The bag at `path`, open."""
    if not path.exists():
        raise FlowclasError(f"bag {path} does not exist: give a rosbag2 folder, .mcap, .db3 or .bag file")
    with open_bag(path) as reader:
        yield Recording(reader, path, cameras, keep)


def _files(bag: Path) -> list[Path]:
    """Those that the bag consists of: of a rosbag2 folder, whatever else lies in it (results, say), its metadata.yaml
    and the files that it names, which rosbags looks for in the folder itself.
    """
    if not bag.is_dir():
        return [bag]
    import yaml

    metadata = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    return sorted([bag / "metadata.yaml", *(bag / Path(name).name for name in metadata["relative_file_paths"])])


def _camera_infos(topic: str) -> list[str]:
    """Where the camera_info of an image topic is by convention: beside it, or beside its raw one."""
    parts = topic.split("/")
    return ["/".join([*parts[:cut], "camera_info"]) for cut in (-1, -2) if len(parts) > -cut]
