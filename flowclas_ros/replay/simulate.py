"""`flowclas simulate`: a rendered scene with its ground truth, as an mcap bag to replay or a folder to fit on."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flowclas_ros.detection.images import write_json, write_png
from flowclas_ros.errors import FlowclasError
from flowclas_ros.files import replacing
from flowclas_ros.progress import progress_bar
from flowclas_ros.training import scenes

START = 1_700_000_000  # seconds: the stamp of the first frame, the same for every bag, so that a seed gives a bag
CUTOUTS = 120  # objects for fitting, in a folder
QUALITY = 90  # of JPEG
CAMERA, TRUTH = "/camera", "/ground_truth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--scene", required=True, choices=scenes.DOMAINS, help="world to render")
    parser.add_argument("--output", required=True, type=Path, help="an .mcap file, or a folder with --format folder")
    parser.add_argument(
        "--format", choices=("bag", "folder"), default="bag", help="output format (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same scene (default: %(default)s)")
    parser.add_argument(
        "--frames", type=int, default=100, help="number of frames; a new scene starts every 20 s (default: %(default)s)"
    )
    parser.add_argument("--fps", type=float, default=10.0, help="frames per second (default: %(default)s)")
    parser.add_argument(
        "--size", type=_size, default=(320, 240), metavar="WxH", help="image size in pixels (default: 320x240)"
    )
    parser.add_argument(
        "--anomalies", choices=scenes.ANOMALIES, default="none", help="kinds of foreign objects (default: %(default)s)"
    )
    parser.add_argument(
        "--compressed",
        action="store_true",
        help="of a bag: JPEG on image_raw/compressed instead of image_raw, and depth rounded to 0.5 %%",
    )
    parser.add_argument(
        "--no-depth", action="store_true", help="leave out the depth, which is most of a compressed bag"
    )


def run(arguments: argparse.Namespace) -> int:
    """Render and write. Raises FlowclasError for what is there already, and as `scenes.render` does."""
    output: Path = arguments.output
    if output.exists():
        raise FlowclasError(f"output {output} exists: remove it or choose another name")
    width, height = arguments.size
    frames = scenes.render(
        arguments.scene,
        arguments.seed,
        frames=arguments.frames,
        width=width,
        height=height,
        fps=arguments.fps,
        anomalies=arguments.anomalies,
    )
    if arguments.format == "bag" and output.suffix != ".mcap":
        raise FlowclasError(f"output {output} does not end in .mcap: name it so, or give --format folder")
    if arguments.format == "folder" and arguments.compressed:
        raise FlowclasError("--compressed is for a bag: leave it out, or give --format bag")
    try:
        with progress_bar(arguments.scene, arguments.frames, "frames") as advance:
            if arguments.format == "bag":
                _write_bag(arguments, _counted(frames, advance))
            else:
                _write_folder(arguments, _counted(frames, advance))
    except OSError as error:
        reason = error.strerror or error
        raise FlowclasError(f"cannot write {output}: {reason}; free the disk or choose another place") from error
    print(f"wrote {output}")
    return 0


def _counted(frames: Iterator[scenes.SceneFrame], advance: Any) -> Iterator[scenes.SceneFrame]:
    for frame in frames:
        yield frame
        advance()


# --- bag -----------------------------------------------------------------------------------------------------------


def _write_bag(arguments: argparse.Namespace, frames: Iterator[scenes.SceneFrame]) -> None:
    from flowclas_ros.node import scene_messages as say
    from flowclas_ros.replay.annotated import make

    picture = f"{CAMERA}/image_raw"
    with _mcap(arguments.output) as write:
        for frame in frames:
            if arguments.compressed:
                frame = replace(frame, depth=_coarse(frame.depth))
            nanoseconds = START * 10**9 + round(frame.stamp * 1e9)
            stamp = make("Time", sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
            header = make("Header", stamp=stamp, frame_id=say.OPTICAL)
            images = {name: make("Image", header=header, **fields) for name, fields in say.images(frame).items()}
            info = say.camera_info(header, frame, make)
            write("/tf", "tf2_msgs/msg/TFMessage", nanoseconds, say.transforms(stamp, frame, make))
            write(f"{CAMERA}/{say.CAMERA_INFO}", "sensor_msgs/msg/CameraInfo", nanoseconds, info)
            if not arguments.no_depth:
                write(f"{CAMERA}/{say.DEPTH}", "sensor_msgs/msg/Image", nanoseconds, images[say.DEPTH])
            for name in (say.MASK, say.OBJECTS):
                write(f"{TRUTH}/{name}", "sensor_msgs/msg/Image", nanoseconds, images[name])
            # the picture last, as the live camera sends it: who gets it has got the rest, its transform above all
            if arguments.compressed:
                _, data = cv2.imencode(".jpg", frame.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
                message = make("CompressedImage", header=header, format="jpeg", data=data)
                write(f"{picture}/compressed", "sensor_msgs/msg/CompressedImage", nanoseconds, message)
            else:
                write(picture, "sensor_msgs/msg/Image", nanoseconds, images["image_raw"])


def _coarse(depth: np.ndarray) -> np.ndarray:
    """(H, W) metres to half a percent, about what a stereo camera knows: a third of the bytes once compressed."""
    return np.exp(np.round(np.log(depth) / 0.005) * 0.005)


@contextmanager
def _mcap(path: Path) -> Iterator[Any]:
    """A function (topic, type, nanoseconds, message) that writes into `path`, which is there when all went well."""
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    from flowclas_ros.replay.annotated import message_store

    store, connections = message_store(), {}
    with replacing(path) as temporary:
        # rosbags writes a folder of file and metadata; the file holds it all, the folder's name too: the same for all
        around = temporary.with_suffix(".bag")
        folder = around / "scene"
        try:
            shutil.rmtree(around, ignore_errors=True)  # of a run that was killed: in a container ids come again
            around.mkdir()
            writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            with writer:

                def write(topic: str, kind: str, nanoseconds: int, message: Any) -> None:
                    if topic not in connections:
                        connections[topic] = writer.add_connection(topic, kind, typestore=store)
                    writer.write(connections[topic], nanoseconds, store.serialize_cdr(message, kind))

                yield write
            os.replace(folder / f"{folder.name}.mcap", temporary)
        finally:
            shutil.rmtree(around, ignore_errors=True)


# --- folder --------------------------------------------------------------------------------------------------------


def _write_folder(arguments: argparse.Namespace, frames: Iterator[scenes.SceneFrame]) -> None:
    """images/, masks/, objects/ (their numbers) and depth/ with a folder a scene, cutouts/ of the fit kinds,
    cameras.json.
    """
    from flowclas_ros.node.scene_messages import DEPTH, images
    from flowclas_ros.training.scenes.episodes import frames_per_scene

    output: Path = arguments.output
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    each, cameras = frames_per_scene(arguments.fps), {}
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed, whose files would mix with these
        for index, frame in enumerate(frames):
            name = f"scene_{index // each:04d}/{index:06d}"
            write_png(folder / "images" / f"{name}.png", frame.image)
            write_png(folder / "masks" / f"{name}.png", frame.mask)
            write_png(folder / "objects" / f"{name}.png", frame.objects)
            if not arguments.no_depth:
                shape = frame.mask.shape
                write_png(folder / "depth" / f"{name}.png", images(frame)[DEPTH]["data"].view(np.uint16).reshape(shape))
            matrices = {"camera_matrix": frame.camera_matrix, "world_from_optical": frame.camera_pose}
            cameras[name] = {"stamp": frame.stamp, **{key: value.tolist() for key, value in matrices.items()}}
        for index, cutout in enumerate(scenes.cutouts(arguments.scene, arguments.seed, CUTOUTS, kinds="fit")):
            write_png(folder / "cutouts" / f"{index:04d}.png", cutout)
        write_json(folder / "cameras.json", cameras)
        os.rename(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a width and a height as 320x240")
    return int(width), int(height)
