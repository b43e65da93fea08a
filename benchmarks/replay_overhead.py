#!/usr/bin/env python3
"""What a replay costs beside the detector, and how its memory grows, on the kit's recorded drive.

    python benchmarks/replay_overhead.py            # writes benchmarks/results/replay_overhead.json

Time: the detector alone on the bag's frames, decoded before, and the pass of the replay over the bag (reading,
decoding, detecting, interpreting, annotated bag, table), in turns, so that both see the same machine, with a detector
that is warm. What a bag costs once, however long it is (opening, report), stands beside it. Memory: the peak of
`flowclas replay` in its own process over the bag and over the same frames ten times.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record

TO_REACH = {"overhead": 0.15, "memory_growth": 1.1}
LOOPS = 10
# the process's own high-water mark: what wait4 tells is never below the memory of the process that forked it
_WITH_PEAK = """import sys
from flowclas_ros.cli import main
status = main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(status)
"""
TOPIC = "/camera/image_raw/compressed"


def main() -> int:
    """Measure, print, write. Returns the exit status."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of both, in turns")
    parser.add_argument("--short-side", type=int, default=540, help="pixels that the model works at")
    parser.add_argument("--memory-frames", type=int, default=30, help="of the short bag")
    options = parser.parse_args()
    bag = record.kit_folder() / "wos_seq1_bag" / "mcap"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = make_checkpoint(folder / "mobilenet.safetensors", bag, options.short_side)
        figures: dict[str, Any] = {
            "to_reach": TO_REACH,
            "model": f"mobilenetv2_100 of the kit, stages 2 to 4, 4 coupling steps, short side {options.short_side}",
            "load_average": os.getloadavg()[0],
            "torch_threads": torch.get_num_threads(),
            "time": measure_time(checkpoint, bag, folder, options.rounds),
        }
        small = make_checkpoint(folder / "small.safetensors", bag, 96)
        figures["memory"] = measure_memory(small, bag, folder, options.memory_frames)
    row, memory = figures["time"], figures["memory"]
    print(
        f"detector {row['detector_ms']:.1f} ms a frame, replay {row['replay_ms']:.1f} ms: {row['overhead']:+.1%}; "
        f"{row['once_seconds']:.1f} s a bag"
    )
    print(
        f"peak memory {memory['peak_mib'][0]:.0f} MiB of {memory['frames'][0]} frames, "
        f"{memory['peak_mib'][1]:.0f} MiB of {memory['frames'][1]}"
    )
    print(record.write_result("replay_overhead", figures, seed=0))
    return 0


def make_checkpoint(path: Path, bag: Path, short_side: int) -> Path:
    """The kit's road model but for its training: whitened and calibrated on frames of the drive itself."""
    import torch

    from flowclas_ros.detection.calibration import Calibration
    from flowclas_ros.model.backbone import BackboneConfig
    from flowclas_ros.model.checkpoint import save_checkpoint
    from flowclas_ros.model.config import FlowCLASConfig
    from flowclas_ros.model.flow import FlowConfig
    from flowclas_ros.model.flowclas import FlowCLAS

    torch.manual_seed(0)
    weights = str(record.kit_folder() / "backbone" / "mobilenetv2_100.tf_in1k.safetensors")
    half = (0.5, 0.5, 0.5)
    backbone = BackboneConfig(
        "mobilenetv2_100", weights, layers=(2, 3, 4), stride=16, mean=half, std=half, kwargs={"pad_type": "same"}
    )
    flow = FlowConfig(steps=4, kernels=(1,))
    model = FlowCLAS(FlowCLASConfig(backbone, flow, projection_dim=0, short_side=short_side)).eval()
    scenes = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in decoded(bag)[::6]]
    with torch.no_grad():
        model.flow.initialise([(model.features(scene), None) for scene in scenes])
        calibration = Calibration.fit(model(scene).numpy() for scene in scenes)
    save_checkpoint(path, model, calibration=calibration.to_dict(), provenance={}, embed_backbone=True)
    return path


def decoded(bag: Path) -> list[Any]:
    """Every frame (H,W,3) uint8 RGB of the drive: 84 MB."""
    from flowclas_ros.replay.frames import iter_frames

    return [frame.image for frame in iter_frames(bag, TOPIC)]


def measure_time(checkpoint: Path, bag: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds a frame of both in their fastest round, which other work on the machine disturbed least, and the
    share by which the replay is longer.
    """
    from flowclas_ros.node.search import load
    from flowclas_ros.replay import one_bag

    job = make_job(checkpoint)
    detector = load(job.settings)
    frames = decoded(bag)
    detector.warm_up(*frames[0].shape[:2])
    times: dict[str, list[float]] = {"detector": [], "replay": [], "once": []}
    inner = one_bag.run_pass

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        done = inner(*arguments)
        times["replay"].append((time.perf_counter() - start) / len(frames))
        return done

    one_bag.run_pass = timed
    for _ in range(rounds):
        start = time.perf_counter()
        for frame in frames:
            detector.detect(frame)
        times["detector"].append((time.perf_counter() - start) / len(frames))
        start = time.perf_counter()
        one_bag.replay_bag(bag, folder / "out", detector, job)
        times["once"].append(time.perf_counter() - start - times["replay"][-1] * len(frames))
    one_bag.run_pass = inner
    best = {name: min(values) for name, values in times.items()}
    return {
        "frames": len(frames),
        "detector_ms": 1e3 * best["detector"],
        "replay_ms": 1e3 * best["replay"],
        "overhead": best["replay"] / best["detector"] - 1,
        "once_seconds": best["once"],
        "rounds_ms": {name: [1e3 * value for value in times[name]] for name in ("detector", "replay")},
    }


def make_job(checkpoint: Path) -> Any:
    """What `flowclas replay BAG --checkpoint ... --device cpu --overwrite` asks for."""
    from flowclas_ros.node.parameters import Settings
    from flowclas_ros.replay.annotated import DEFAULT_OUTPUTS
    from flowclas_ros.replay.cameras import Camera
    from flowclas_ros.replay.run_bag import Job

    settings = Settings(checkpoint=str(checkpoint), device="cpu")
    return Job(settings, (Camera("", TOPIC),), (), DEFAULT_OUTPUTS, None, False, (), overwrite=True, quiet=True)


def measure_memory(checkpoint: Path, bag: Path, folder: Path, frames: int) -> dict[str, Any]:
    """Peak resident memory (MiB) of the command over `frames` frames and over LOOPS times as many."""
    peaks = []
    for loops in (1, LOOPS):
        looped = loop(bag, folder / f"looped{loops}", frames, loops)
        command = [sys.executable, "-c", _WITH_PEAK, "replay", str(looped), "--device", "cpu"]
        command += ["--checkpoint", str(checkpoint), "--output", str(folder / f"out{loops}")]
        environment = {**os.environ, "PYTHONPATH": str(record.ROOT)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        peaks.append(int(done.stdout.split()[-2]) / 1024)
    return {"frames": [frames, frames * LOOPS], "peak_mib": peaks, "growth": peaks[1] / peaks[0]}


def loop(bag: Path, path: Path, frames: int, loops: int) -> Path:
    """The drive's first `frames` messages `loops` times over, stamps going on at 10 Hz."""
    from rosbags.highlevel import AnyReader
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    with AnyReader([bag], default_typestore=store) as reader:
        kind = next(one for one in reader.connections if one.topic == TOPIC)
        taken = [reader.deserialize(raw, one.msgtype) for one, _, raw in reader.messages([kind])][:frames]
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, kind.msgtype, typestore=store)
        for number in range(frames * loops):
            message, stamp = taken[number % frames], 10**18 + number * 10**8
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
            writer.write(connection, stamp, store.serialize_cdr(message, kind.msgtype))
    return path


if __name__ == "__main__":
    sys.exit(main())
