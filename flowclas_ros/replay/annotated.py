"""The annotated bag: input topics as they came, and what the node would have said, as one mcap file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from flowclas_ros.detection.interpreter import Finding
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.conversion import image_fields
from flowclas_ros.node.messages import hazard_array, heat_pixels, mask_pixels, overlay_pixels
from flowclas_ros.replay.recording import Recorded, Recording

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

NODE = "/detector"  # whose topics they would be
OUTPUTS = {
    "hazards": "flowclas_ros/msg/HazardArray",
    "state": "flowclas_ros/msg/DetectorState",
    "mask": "sensor_msgs/msg/Image",
    "heatmap": "sensor_msgs/msg/Image",
    "overlay": "sensor_msgs/msg/Image",
    "score": "sensor_msgs/msg/Image",
}
DEFAULT_OUTPUTS = tuple(name for name in OUTPUTS if name != "score")  # which is float32 noise and hardly compresses


def make(kind: str, **fields: Any) -> SimpleNamespace:
    """A message for rosbags, which reads attributes and asks for no class."""
    return SimpleNamespace(**fields)


EMPTY_HEADER = make("Header", stamp=make("Time", sec=0, nanosec=0), frame_id="")


def message_store() -> Typestore:
    """ROS 2's standard messages and this package's own."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    for name in ("Hazard", "HazardArray", "DetectorState"):
        kind = f"flowclas_ros/msg/{name}"
        store.register(get_types_from_msg(_definition(name), kind))
    return store


class AnnotatedBag:
    """Open for writing; every message keeps the time of recording of the one that it stems from."""

    def __init__(self, writer: Any, recording: Recording, outputs: tuple[str, ...]):
        self._writer, self._recording, self._store = writer, recording, message_store()
        self._copied = {id(connection): self._copy_of(connection) for connection in recording.connections}
        taken = {connection.topic for connection in recording.connections}
        self._outputs = {}
        for name in outputs:
            topic = f"{NODE}/{name}"
            if topic in taken:
                raise FlowclasError(f"topic {topic} of bag {recording.path} is an output's name: do not keep it")
            self._outputs[name] = writer.add_connection(topic, OUTPUTS[name], typestore=self._store)

    def copy(self, recorded: Recorded) -> None:
        """A message of the input, byte by byte; one of ROS 1 in ROS 2's serialisation."""
        source, target = recorded.connection, self._copied[id(recorded.connection)]
        raw: Any = recorded.raw
        if not self._recording.reader.is2:
            message = recorded.message or self._recording.reader.deserialize(raw, source.msgtype)
            raw = self._store.serialize_cdr(message, source.msgtype)
        self._writer.write(target, recorded.bag_ns, raw)

    def finding(self, recorded: Recorded, finding: Finding) -> None:
        """The pictures and hazards of a frame, with its header."""
        header = recorded.message.header
        judged = finding.judged
        pictures = {
            "mask": lambda: (mask_pixels(judged.mask, 1), "mono8"),
            "heatmap": lambda: (heat_pixels(finding.heat, 1), "mono8"),
            "overlay": lambda: (overlay_pixels(recorded.image, finding, 1), "bgr8"),  # type: ignore[arg-type]
            "score": lambda: (judged.score, "32FC1"),
        }
        self._write("hazards", recorded.bag_ns, hazard_array(header, finding.hazards, make))
        for name, picture in pictures.items():
            if name in self._outputs:
                self._write(name, recorded.bag_ns, make("Image", header=header, **image_fields(*picture())))

    def state(self, recorded: Recorded, header: Any, fields: dict[str, Any]) -> None:
        """The detector's state after a frame, broken ones included."""
        self._write("state", recorded.bag_ns, make("DetectorState", header=header or EMPTY_HEADER, **fields))

    def _write(self, name: str, bag_ns: int, message: Any) -> None:
        if name in self._outputs:
            self._writer.write(self._outputs[name], bag_ns, self._store.serialize_cdr(message, OUTPUTS[name]))

    def _copy_of(self, connection: Any) -> Any:
        from rosbags.interfaces import ConnectionExtRosbag2

        qos = connection.ext.offered_qos_profiles if isinstance(connection.ext, ConnectionExtRosbag2) else ()
        store = self._recording.reader.typestore if self._recording.reader.is2 else self._store
        known = {c.topic: c for c in self._writer.connections}
        if connection.topic in known:  # a topic recorded in several parts
            return known[connection.topic]
        return self._writer.add_connection(
            connection.topic, connection.msgtype, typestore=store, offered_qos_profiles=qos
        )


@contextmanager
def annotated_bag(path: Path, recording: Recording, outputs: tuple[str, ...]) -> Iterator[AnnotatedBag]:
    """Write `path`, an mcap file in zstd chunks; it is there when the block ends well and not before."""
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    folder = path.with_suffix("")
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        yield AnnotatedBag(writer, recording, outputs)
    # rosbags writes a folder of file and metadata.yaml; the file holds all of it, and players take it alone
    os.replace(folder / f"{folder.name}.mcap", path)
    (folder / "metadata.yaml").unlink()
    folder.rmdir()


def _definition(name: str) -> str:
    """The text of msg/<name>.msg, which the package carries."""
    path = Path(__file__).resolve().parent.parent / "msg_definitions" / f"{name}.msg"
    if not path.is_file():
        raise FlowclasError(f"message definition {path} is missing: install flowclas_ros again")
    return path.read_text()
