#!/usr/bin/env python3
"""What the node costs beside its model: from publish to mask received, minus the model's own time, beside an echo.

    python benchmarks/node_overhead.py            # writes benchmarks/results/node_overhead.json

Real DDS between processes: this one publishes a frame, waits for its mask, then does the same with a bare echo node,
in turns, so that both see the same machine. The model's time is what the detector measures of that very frame (upload,
network, download); what is left is transport, conversion, the mask and its message: all else comes after it. Two
echoes: `echo` sends the frame back as it came, `echo_mask` a mono8 image of its size, which is all that the detector
sends.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record

from flowclas_ros.node.conversion import header_ns
from flowclas_ros.node.environment import settings_for_large_images, settings_for_this_machine_alone

sys.path.insert(0, str(record.ROOT / "test"))  # the detector as a process and a peer for it are the tests' own

SIZES = {"640x480": (480, 640), "1920x1080": (1080, 1920)}
TO_REACH = 1.5  # times the echo
PATIENCE = 60.0  # seconds for one frame
PAUSE = 0.02  # seconds between two frames: this is about latency, not throughput
FIRST = 10  # frames of each kind and size that only warm up


def main() -> int:
    """Measure, print, write. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100, help="of each kind and size")
    parser.add_argument("--device", default="cpu", help="of the model")
    parser.add_argument("--echo", action="store_true", help=argparse.SUPPRESS)  # the echo's own process
    options = parser.parse_args()
    if options.echo:
        return echo()
    # read by DDS when its first node is made; the nodes' own processes inherit it
    os.environ.setdefault("ROS_DOMAIN_ID", str(os.getpid() % 101 + 1))
    os.environ.update(settings_for_this_machine_alone(os.environ))
    os.environ.update(settings_for_large_images(os.environ))
    figures = measure(options.frames, options.device)
    for size, row in figures["sizes"].items():
        print(
            f"{size}: detector {row['detector_ms']['median']:.1f} ms - model {row['model_ms']['median']:.1f} ms = "
            f"{row['overhead_ms']['median']:.1f} ms; echo {row['echo_ms']['median']:.1f} ms, "
            f"echo of a mask {row['echo_mask_ms']['median']:.1f} ms; overhead / echo {row['overhead_to_echo']:.2f}"
        )
    print(record.write_result("node_overhead", figures))
    return 0


def echo() -> int:
    """A bare node: what comes on echo_in goes out on echo_out as it is, what comes on mask_in as a mono8 mask."""
    from array import array

    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("echo")
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
    back, mask = (node.create_publisher(Image, topic, qos) for topic in ("echo_out", "mask_out"))

    def to_mask(message: Any) -> None:
        data = array("B")
        data.frombytes(bytes(message.height * message.width))
        mask.publish(
            Image(
                header=message.header,
                height=message.height,
                width=message.width,
                encoding="mono8",
                step=message.width,
                data=data,
            )
        )

    node.create_subscription(Image, "echo_in", back.publish, qos)
    node.create_subscription(Image, "mask_in", to_mask, qos)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    return 0


def measure(frames: int, device: str) -> dict[str, Any]:
    """All figures, times in milliseconds."""
    from node_support import LOAD_TIMEOUT, DetectorProcess, Peer, make_checkpoint, options
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(Path(folder) / "small.safetensors")
        detector = DetectorProcess(
            Path(folder) / "detector.log",
            *options(checkpoint=checkpoint, device=device, autostart=True, max_age=0.0, qos="reliable"),
        )
        bare = subprocess.Popen([sys.executable, __file__, "--echo"])
        peer = Peer()
        try:
            qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
            arrivals: dict[str, dict[int, float]] = {"mask": {}, "echo_out": {}, "mask_out": {}}
            for topic, seen in arrivals.items():
                name = f"/detector/{topic}" if topic == "mask" else f"/{topic}"
                peer.node.create_subscription(Image, name, noting(seen), qos)
            peer.listen("state")
            ways = {
                "detector": (peer.camera, arrivals["mask"]),
                "echo": (peer.node.create_publisher(Image, "/echo_in", qos), arrivals["echo_out"]),
                "echo_mask": (peer.node.create_publisher(Image, "/mask_in", qos), arrivals["mask_out"]),
            }
            peer.until(lambda: peer.state() == "active", "the detector", LOAD_TIMEOUT)
            peer.connected("mask", "state")
            for name, (publisher, _) in ways.items():
                peer.until(lambda publisher=publisher: publisher.get_subscription_count(), name, PATIENCE)
            sizes = {name: rounds(peer, ways, size, frames) for name, size in SIZES.items()}
        finally:
            peer.close()
            detector.stop()
            bare.terminate()
            bare.wait(10)
    return {
        "to_reach": {"overhead_to_echo": TO_REACH},
        "frames": frames,
        "device": device,
        "model": "random mobilenetv2_100 to its stride 4, no coupling step: small, so that the rest is seen",
        "torch_threads": 1,
        "sizes": sizes,
    }


def noting(seen: dict[int, float]) -> Callable[[Any], None]:
    """A callback that keeps when each stamp arrived."""

    def note(message: Any) -> None:
        seen[header_ns(message)] = time.perf_counter()

    return note


def rounds(peer: Any, ways: dict[str, tuple], size: tuple[int, int], frames: int) -> dict[str, Any]:
    """Frames of one size through the detector and the echoes in turns."""
    import cv2
    from node_support import image_message, picture

    height, width = size
    message = image_message(cv2.resize(picture(1, anomaly=True), (width, height), interpolation=cv2.INTER_CUBIC))
    times: dict[str, list[float]] = {name: [] for name in (*ways, "model", "overhead")}
    for turn in range(FIRST + frames):
        peer.got["state"].clear()
        for name, (publisher, seen) in ways.items():
            seen.clear()
            message.header.stamp = peer.now()
            stamp = header_ns(message)
            sent = time.perf_counter()
            publisher.publish(message)
            peer.until(lambda seen=seen, stamp=stamp: stamp in seen, name, PATIENCE)
            took = seen[stamp] - sent
            model = 0.0
            if name == "detector":
                model = peer.until(lambda stamp=stamp: state_of(peer, stamp), "state", PATIENCE).model_time
            if turn >= FIRST:
                times[name].append(took)
                if name == "detector":
                    times["model"].append(model)
                    times["overhead"].append(took - model)
            resume = time.perf_counter() + PAUSE
            peer.until(lambda resume=resume: time.perf_counter() > resume, "the pause")
    row: dict[str, Any] = {f"{name}_ms": summary(values) for name, values in times.items()}
    for name in ("echo", "echo_mask"):
        row[f"overhead_to_{name}"] = row["overhead_ms"]["median"] / row[f"{name}_ms"]["median"]
    return row


def state_of(peer: Any, stamp: int) -> Any:
    """The state of the frame with that stamp, if it has come."""
    return next((state for state in peer.got["state"] if header_ns(state) == stamp), None)


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, quartiles and 99th percentile in milliseconds."""
    ordered = sorted(1e3 * value for value in seconds)
    low, _, high = statistics.quantiles(ordered, n=4)
    return {
        "median": statistics.median(ordered),
        "quartile_1": low,
        "quartile_3": high,
        "p99": ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))],
    }


if __name__ == "__main__":
    sys.exit(main())
