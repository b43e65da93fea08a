"""What the tests of `flowclas replay` share: a drive of six small frames, its ground truth, a run and its results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags.rosbag2", reason="rosbags is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
from node_support import picture
from rosbags.highlevel import AnyReader
from test_frames import raw

from flowclas_ros.cli import main
from flowclas_ros.replay.annotated import message_store

TOPIC = "/front/image"
SECOND = 10**9
STAMPS = [5 * SECOND + index * SECOND // 10 for index in range(6)]
RESULTS = {"annotated.mcap", "metrics.csv", "metrics.json", "report.html"}


def frames() -> list:
    """Six frames; in the last three stands an anomaly."""
    return [raw(picture(index, anomaly=index >= 3), "rgb8", stamp) for index, stamp in enumerate(STAMPS)]


def truth(index: int) -> np.ndarray:
    """(H, W) uint8, the mask of frame `index`."""
    mask = np.zeros((96, 128), np.uint8)
    if index >= 3:
        mask[32:64, 48:80] = 1
    return mask


def replay(bag: Path | list[Path], checkpoint: Path, output: Path, *options: str) -> int:
    bags = bag if isinstance(bag, list) else [bag]
    return main(["replay", *map(str, bags), "--checkpoint", str(checkpoint), "--output", str(output), *options])


def metrics(output: Path) -> dict:
    return json.loads((output / "metrics.json").read_text())


def read(path: Path) -> list:
    """(topic, time of recording, message) of an mcap that rosbags opens by what is in it alone."""
    with AnyReader([path], default_typestore=message_store()) as reader:
        return [
            (connection.topic, stamp, reader.deserialize(data, connection.msgtype))
            for connection, stamp, data in reader.messages()
        ]
