"""`python -m flowclas_ros.node.camera`: a camera for a machine that has none.

Publishes the frames of a bag, folder, video or image as sensor_msgs/Image (rgb8) on `image` at a steady rate, stamped
when sent, and with --mask-topic a bag's ground truth (mono8) on `ground_truth` with the same stamp. Prints one JSON
line at the end: {"sent": frames, "seconds": duration}.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.conversion import to_message
from flowclas_ros.node.quality import output_qos
from flowclas_ros.node.running import run
from flowclas_ros.replay.cameras import Camera
from flowclas_ros.replay.frames import iter_frames, open_bag
from flowclas_ros.replay.masks import MaskTopic
from flowclas_ros.replay.recording import open_recording

PATIENCE = 180.0  # seconds to wait for the listeners: a detector may be loading a large checkpoint

# A picture (H, W, 3) uint8 RGB, and what is true of it (H, W) uint8, None where nobody knows
Pictures = Iterator[tuple[np.ndarray, np.ndarray | None]]


def frames(source: str, topic: str | None, mask_topic: str) -> Pictures:
    """The source's pictures, over and over."""
    some = True
    while some:  # a source without a frame is not looked through for ever
        some = False
        for one in _labelled(Path(source), topic, mask_topic) if mask_topic else _plain(source, topic):
            some = True
            yield one


def _plain(source: str, topic: str | None) -> Pictures:
    return ((frame.image, None) for frame in iter_frames(source, topic))


def _labelled(bag: Path, topic: str | None, mask_topic: str) -> Pictures:
    with open_recording(bag, (Camera("", topic),)) as recording, open_bag(bag) as reader:
        masks = MaskTopic(reader, bag, mask_topic)
        for recorded in recording.read():
            if recorded.image is not None:
                yield recorded.image, masks.of(recorded)


def stream(node: Node, pictures: Pictures, rate: float, listeners: int, frame_id: str) -> dict[str, float]:
    """Publish at `rate` frames a second once `listeners` have subscribed. Raises FlowclasError when they do not."""
    publisher = node.create_publisher(Image, "image", output_qos())
    truth_publisher = node.create_publisher(Image, "ground_truth", output_qos())
    first = next(pictures, None)
    if first is None:
        raise FlowclasError("the source holds no frame")
    print("ready", flush=True)
    patience = time.monotonic() + PATIENCE
    while publisher.get_subscription_count() < listeners:
        if time.monotonic() > patience:
            raise FlowclasError(
                f"only {publisher.get_subscription_count()} of {listeners} listeners came to "
                f"{publisher.topic_name} in {PATIENCE:.0f} s"
            )
        rclpy.spin_once(node, timeout_sec=0.05)
    start, sent = time.monotonic(), 0
    for picture, truth in itertools.chain([first], pictures):
        time.sleep(max(0.0, start + sent / rate - time.monotonic()))
        if not node.context.ok():
            break
        header = Header(frame_id=frame_id, stamp=node.get_clock().now().to_msg())
        publisher.publish(to_message(picture, "rgb8", header))
        if truth is not None:
            truth_publisher.publish(to_message(truth, "mono8", header))
        sent += 1
    return {"sent": sent, "seconds": time.monotonic() - start}


def main(arguments: list[str] | None = None) -> int:
    """Run until the frames are sent. Returns the exit status: 2 with one line on stderr for what went wrong."""
    parser = argparse.ArgumentParser(prog="flowclas camera", description=__doc__)
    parser.add_argument("--source", required=True, help="bag, folder, video or image; begun anew when it ends")
    parser.add_argument("--topic", help="image topic of a bag that has several")
    parser.add_argument("--mask-topic", default="", help="of a bag: mono8 masks with the stamps of their frames")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long")
    parser.add_argument("--listeners", type=int, default=1, help="subscribers to wait for")
    parser.add_argument("--frame-id", default="camera")
    argv = rclpy.utilities.remove_ros_args(args=sys.argv if arguments is None else ["camera", *arguments])
    options = parser.parse_args(argv[1:])
    if not (0 < options.rate < math.inf and 0 < options.seconds < math.inf):
        parser.error(f"--rate {options.rate:g} and --seconds {options.seconds:g} must be above 0")
    count = max(1, round(options.rate * options.seconds))

    def show(node: Node) -> None:
        pictures = itertools.islice(frames(options.source, options.topic, options.mask_topic), count)
        print(json.dumps(stream(node, pictures, options.rate, options.listeners, options.frame_id)), flush=True)

    return run(lambda: rclpy.create_node("camera"), show, arguments)


if __name__ == "__main__":
    sys.exit(main())
