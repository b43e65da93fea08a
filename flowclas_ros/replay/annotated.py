"""The annotated bag: input topics as they came, and what the node would have said, as one mcap file."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.interpreter import Finding
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.conversion import image_fields
from flowclas_ros.node.diagnostics import diagnostic_array
from flowclas_ros.node.messages import (
    hazard_array,
    hazard_cloud,
    hazard_markers,
    heat_pixels,
    mask_pixels,
)
from flowclas_ros.replay.cameras import Camera
from flowclas_ros.replay.recording import STATIC, Recorded, Recording

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
DEPTH_OUTPUTS = {"points": "sensor_msgs/msg/PointCloud2", "markers": "visualization_msgs/msg/MarkerArray"}
DEFAULT_OUTPUTS = tuple(name for name in OUTPUTS if name != "score")  # which is float32 noise and hardly compresses

DIAGNOSTICS = "/diagnostics"  # every node's: what was recorded there stays, and this one's comes to it

_ZSTD_LEVEL = -1
# Version of rosbag2's metadata: newer players read it too, Humble's and Iron's none that is in words.
_QOS_IN_NUMBERS: Final = 8
_TYPES_NOW = {"tf/msg/tfMessage": "tf2_msgs/msg/TFMessage"}  # ROS 1's first transforms, which hold the same


def make(kind: str, **fields: Any) -> SimpleNamespace:
    """A message for rosbags, which reads attributes and asks for no class."""
    return SimpleNamespace(**{**_UNUSED.get(kind, {}), **fields})


EMPTY_HEADER = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0), frame_id="")
# the fields that nobody sets: rclpy fills them in by itself, rosbags does not
_UNUSED: dict[str, dict[str, Any]] = {
    "Marker": {
        "ns": "",
        "id": 0,
        "type": 0,
        "pose": SimpleNamespace(
            position=SimpleNamespace(x=0.0, y=0.0, z=0.0), orientation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
        ),
        "scale": SimpleNamespace(x=0.0, y=0.0, z=0.0),
        "color": SimpleNamespace(r=0.0, g=0.0, b=0.0, a=0.0),
        "lifetime": SimpleNamespace(sec=0, nanosec=0),
        "frame_locked": False,
        "points": [],
        "colors": [],
        "texture_resource": "",
        "texture": SimpleNamespace(header=EMPTY_HEADER, format="", data=np.empty(0, np.uint8)),
        "uv_coordinates": [],
        "text": "",
        "mesh_resource": "",
        "mesh_file": SimpleNamespace(filename="", data=np.empty(0, np.uint8)),
        "mesh_use_embedded_materials": False,
    }
}


def message_store() -> Typestore:
    """ROS 2's standard messages and this package's own."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    for name in ("Hazard", "HazardArray", "DetectorState"):
        kind = f"flowclas_ros/msg/{name}"
        store.register(get_types_from_msg(_definition(name), kind))
    return store


def prefix(camera: Camera) -> str:
    """What a camera's output topics begin with, as the node's."""
    return f"{NODE}/{camera.name}/" if camera.name else f"{NODE}/"


class AnnotatedBag:
    """Open for writing; every message keeps the time of recording of the one that it stems from."""

    def __init__(self, writer: Any, recording: Recording, outputs: tuple[str, ...]):
        self._writer, self._recording, self._store = writer, recording, message_store()
        self.lost: Counter[str] = Counter()  # messages by topic that ROS 2's serialisation cannot take
        self._copied = {id(connection): self._copy_of(connection) for connection in recording.connections}
        taken = {connection.topic for connection in recording.connections}
        self._outputs: dict[str, tuple[Any, str]] = {}  # topic: connection, type
        for camera in recording.cameras:
            kinds = {name: OUTPUTS[name] for name in outputs} | (DEPTH_OUTPUTS if camera.depth else {})
            for topic, kind in ((prefix(camera) + name, kind) for name, kind in kinds.items()):
                if topic in taken:
                    raise FlowclasError(f"topic {topic} of bag {recording.path} is an output's name: do not keep it")
                self._outputs[topic] = (writer.add_connection(topic, kind, typestore=self._store), kind)
        self._outputs[DIAGNOSTICS] = self._shared(DIAGNOSTICS, "diagnostic_msgs/msg/DiagnosticArray")

    def copy(self, recorded: Recorded) -> None:
        """A message of the input, byte by byte; one of ROS 1 in ROS 2's serialisation."""
        source, target = recorded.connection, self._copied[id(recorded.connection)]
        raw: Any = recorded.raw
        if not self._recording.reader.is2:
            try:
                raw = self._store.serialize_cdr(self._recording.deserialised(recorded), target.msgtype)
            except Exception:  # broken, or of a type that has other fields in ROS 2: there is nothing to copy
                if recorded.index is None:  # a frame is counted as broken
                    self.lost[source.topic] += 1
                return
        self._writer.write(target, recorded.bag_ns, raw)

    def finding(self, camera: Camera, recorded: Recorded, finding: Finding, overlay: npt.NDArray[np.uint8]) -> None:
        """The pictures and hazards of a frame, with its header. overlay: (H,W,3) BGR."""
        header, judged, hazards = recorded.header, finding.judged, finding.hazards
        reason = "no depth" if finding.located is None else finding.located.reason

        def picture(pixels: Any, encoding: str) -> Any:
            return make("Image", header=header, **image_fields(pixels, encoding))

        built = {
            "hazards": lambda: hazard_array(header, hazards, make),
            "points": lambda: hazard_cloud(header, hazards, reason, make),
            "markers": lambda: hazard_markers(header, hazards, make),
            "mask": lambda: picture(mask_pixels(judged.mask, 1), "mono8"),
            "heatmap": lambda: picture(heat_pixels(finding.heat, 1), "mono8"),
            "overlay": lambda: picture(overlay, "bgr8"),
            "score": lambda: picture(judged.score, "32FC1"),
        }
        for name, build in built.items():
            self._write(prefix(camera) + name, recorded.bag_ns, build)

    def state(self, camera: Camera, recorded: Recorded, header: Any, fields: dict[str, Any]) -> None:
        """The detector's state after a frame, broken ones included."""
        topic = prefix(camera) + "state"
        self._write(topic, recorded.bag_ns, lambda: make("DetectorState", header=header or EMPTY_HEADER, **fields))

    def diagnostics(self, bag_ns: int, statuses: list[Any]) -> None:
        """Health and hazard of every camera. bag_ns: time of recording of the message after which they are."""
        sec, nanosec = divmod(bag_ns, 10**9)
        stamp = SimpleNamespace(sec=sec, nanosec=nanosec)
        self._write(DIAGNOSTICS, bag_ns, lambda: diagnostic_array(stamp, statuses, make))

    def _write(self, topic: str, bag_ns: int, build: Callable[[], Any]) -> None:
        if topic not in self._outputs:
            return
        connection, kind = self._outputs[topic]
        message = build()
        if message is not None:
            self._writer.write(connection, bag_ns, self._store.serialize_cdr(message, kind))

    def _shared(self, topic: str, kind: str) -> tuple[Any, str]:
        """An output's connection on a topic that may be in the bag already."""
        for connection in self._writer.connections:
            if connection.topic == topic:
                if connection.msgtype != kind:
                    raise FlowclasError(f"topic {topic} of bag {self._recording.path} is no {kind}: do not keep it")
                return connection, kind
        return self._writer.add_connection(topic, kind, typestore=self._store), kind

    def _copy_of(self, connection: Any) -> Any:
        store = self._recording.reader.typestore if self._recording.reader.is2 else self._store
        known = {c.topic: c for c in self._writer.connections}
        if connection.topic in known:  # a topic recorded in several parts
            return known[connection.topic]
        kind = _TYPES_NOW.get(connection.msgtype, connection.msgtype)
        try:
            return self._writer.add_connection(
                connection.topic, kind, typestore=store, offered_qos_profiles=_offered(connection)
            )
        except Exception as error:  # a bag without its messages' definitions, which only sqlite3 and ROS 1 can be
            raise FlowclasError(
                f"topic {connection.topic} of bag {self._recording.path} has the unknown type {connection.msgtype}: "
                "leave it out of --keep"
            ) from error


def _offered(connection: Any) -> Sequence[Any]:
    """The recorded QoS. What ROS 1 latched, and static transforms without any, are sent to whoever comes later."""
    from rosbags import interfaces as rosbags

    ext = connection.ext
    latched = isinstance(ext, rosbags.ConnectionExtRosbag1) and bool(ext.latching)
    recorded = ext.offered_qos_profiles if isinstance(ext, rosbags.ConnectionExtRosbag2) else ()
    if recorded or not (latched or connection.topic == STATIC):
        return recorded
    unset = rosbags.QosTime(0, 0)
    return [
        rosbags.Qos(
            history=rosbags.QosHistory.KEEP_LAST,
            depth=1,
            reliability=rosbags.QosReliability.RELIABLE,
            durability=rosbags.QosDurability.TRANSIENT_LOCAL,
            deadline=unset,
            lifespan=unset,
            liveliness=rosbags.QosLiveliness.SYSTEM_DEFAULT,
            liveliness_lease_duration=unset,
            avoid_ros_namespace_conventions=False,
        )
    ]


@contextmanager
def annotated_bag(path: Path, recording: Recording, outputs: tuple[str, ...]) -> Iterator[AnnotatedBag]:
    """Write `path`, an mcap file in zstd chunks; it is there when the block ends well and not before."""
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    folder = path.with_suffix("")
    writer = Writer(folder, version=_QOS_IN_NUMBERS, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        # rosbags has no setting for it; at its level 3 the camera's noise takes 3 times as long for 7 % fewer bytes
        if compressor := getattr(writer.storage, "compressor", None):  # not a promise of rosbags
            setattr(writer.storage, "compressor", functools.partial(compressor, level=_ZSTD_LEVEL))  # noqa: B010
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
