"""`python -m flowclas_ros.node.camera`: a camera for a machine that has none.

Publishes the frames of a bag, folder, video or image, or the demo's drawn road, as sensor_msgs/Image (rgb8) on `image`
at a steady rate, stamped when sent. Prints one JSON line at the end: {"sent": frames, "seconds": duration}.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from array import array
from collections.abc import Iterator

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from flowclas_ros.errors import FlowclasError

PATIENCE = 180.0  # seconds to wait for the listeners: a detector may be loading a large checkpoint
AHEAD = 200  # frames drawn before the stream starts: drawing beside the detector would take its processor time


def frames(source: str, rate: float, count: int, seed: int) -> Iterator[np.ndarray]:
    """At most `count` pictures (H, W, 3) uint8 RGB; a source that ends sooner starts anew."""
    if source:
        from flowclas_ros.replay.frames import iter_frames

        again = (frame.image for _ in itertools.count() for frame in iter_frames(source))
        yield from itertools.islice(again, count)
        return
    from flowclas_ros.node.demo_scenes import drive

    drawn = itertools.islice(drive(seed, rate), count)
    yield from list(itertools.islice(drawn, AHEAD))
    yield from drawn


def to_image(pixels: np.ndarray) -> Image:
    """An rgb8 message of (H, W, 3) uint8, without a header yet."""
    data = array("B")
    data.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    return Image(height=pixels.shape[0], width=pixels.shape[1], encoding="rgb8", step=3 * pixels.shape[1], data=data)


def stream(node: Node, pictures: Iterator[np.ndarray], rate: float, listeners: int, frame_id: str) -> dict[str, float]:
    """Publish at `rate` frames a second once `listeners` have subscribed. Raises FlowclasError when they do not."""
    # reliable serves any listener; depth 1 as a camera's newest frame is the one that counts
    publisher = node.create_publisher(Image, "image", QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE))
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
    for picture in itertools.chain([first], pictures):
        message = to_image(picture)
        time.sleep(max(0.0, start + sent / rate - time.monotonic()))
        if not node.context.ok():
            break
        message.header.frame_id = frame_id
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        sent += 1
    return {"sent": sent, "seconds": time.monotonic() - start}


def main(arguments: list[str] | None = None) -> int:
    """Run until the frames are sent. Returns the exit status: 2 with one line on stderr for what went wrong."""
    parser = argparse.ArgumentParser(prog="flowclas camera", description=__doc__)
    parser.add_argument("--source", default="", help="bag, folder, video or image; without: the demo's drawn road")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long")
    parser.add_argument("--listeners", type=int, default=1, help="subscribers to wait for")
    parser.add_argument("--seed", type=int, default=1000, help="which road is drawn")
    parser.add_argument("--frame-id", default="camera")
    argv = rclpy.utilities.remove_ros_args(args=sys.argv if arguments is None else ["camera", *arguments])
    options = parser.parse_args(argv[1:])
    rclpy.init(args=arguments if arguments is not None else sys.argv)
    node = rclpy.create_node("camera")
    try:
        count = max(1, round(options.rate * options.seconds))
        pictures = frames(options.source, options.rate, count, options.seed)
        print(json.dumps(stream(node, pictures, options.rate, options.listeners, options.frame_id)), flush=True)
    except FlowclasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
