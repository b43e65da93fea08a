"""CUDA against CPU, latency and memory of the presets, and a short fit in two precisions (benchmarks/gpu.sh)."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from record import ROOT, write_result
from rich.console import Console
from rich.table import Table

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model import PRESETS, FlowCLAS, build_preset, resolve_device

# Largest difference of a score map between CUDA and CPU in fp32, as a share of the map's own standard deviation.
# Kernels sum in other orders; TF32 is off, as in use (`resolve_device`).
CUDA_TOLERANCE = 1e-2
SIZES = [(480, 640), (518, 1036), (1080, 1920)]
FIT_EPOCHS = 5


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script out (not a GPU figure)")
    parser.add_argument("--quick", action="store_true", help="the edge preset at the smallest size only")
    arguments = parser.parse_args()
    try:
        device = resolve_device(arguments.device)
    except FlowclasError as error:
        sys.exit(f"error: {error}; --device cpu tries the script out")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # whose memory, name and end of work are asked for
    presets = ["flowclas_edge"] if arguments.quick else list(PRESETS)
    sizes = SIZES[:1] if arguments.quick else SIZES
    figures = {
        "device": str(device),
        "agreement": [agreement(name, device) for name in presets],
        "latency": [row for name in presets for row in latency(name, sizes, device)],
        "fit": fit_in_two_precisions(device, 1 if arguments.quick else FIT_EPOCHS),
    }
    _print(figures)
    name = ("gpu" if device.type == "cuda" else "gpu_script_on_cpu") + ("_quick" if arguments.quick else "")
    print(f"-> {write_result(name, figures, seed=0)}")
    if not all(row["within_tolerance"] for row in figures["agreement"]):  # type: ignore[attr-defined]
        sys.exit("error: CUDA and CPU scores differ by more than the tolerance")


def started(name: str) -> FlowCLAS:
    """The preset with random weights and a data-dependent start, its couplings moved off the identity."""
    torch.manual_seed(0)
    model = build_preset(name, weights="random")
    batches = [(model.features(torch.rand(2, 3, 224, 224)), None)]
    if model.flow.whitening is None or batches[0][0][:, 0].numel() > model.backbone.channels:
        model.flow.initialise(batches)
    for parameter in model.flow.steps.parameters():
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter) * 1e-3)
    return model.eval()


@torch.inference_mode()
def agreement(name: str, device: torch.device) -> dict[str, Any]:
    """Largest difference of CUDA and CPU scores on the same image, in the map's standard deviations."""
    model = started(name)
    image = torch.rand(1, 3, 180, 240)
    on_cpu = model(image)
    on_device = model.to(device)(image.to(device)).cpu()
    spread = float(on_cpu.std())
    worst = float((on_cpu - on_device).abs().max()) / max(spread, 1e-9)
    return {
        "preset": name,
        "max_difference_in_std": worst,
        "tolerance": CUDA_TOLERANCE,
        "within_tolerance": worst < CUDA_TOLERANCE,
    }


@torch.inference_mode()
def latency(name: str, sizes: list[tuple[int, int]], device: torch.device) -> list[dict[str, Any]]:
    """Median milliseconds from an image on the device to its score map, and peak memory, per size and precision."""
    model = started(name).to(device)
    rows = []
    for height, width in sizes:
        image = torch.rand(1, 3, height, width, device=device)
        for precision in ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16"):
            rows.append({"preset": name, "size": f"{width}x{height}", "precision": precision})
            rows[-1] |= _time(model, image, precision, device)
    return rows


def _time(model: FlowCLAS, image: torch.Tensor, precision: str, device: torch.device) -> dict[str, float | None]:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def run() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32"):
            model(image)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        run()
    times = sorted(run() for _ in range(30 if device.type == "cuda" else 5))
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    return {"median_ms": times[len(times) // 2], "worst_ms": times[-1], "peak_mib": peak}


def fit_in_two_precisions(device: torch.device, epochs: int) -> list[dict[str, Any]] | str:
    """A short fit of the edge preset on the kit's road frames in fp32 and bf16: validation figures and seconds."""
    kit = Path(os.environ.get("FLOWCLAS_KIT") or ROOT.parent / "shared" / "kit")
    if not (kit / "README.md").is_file():
        return f"skipped: no kit at {kit}, set FLOWCLAS_KIT"
    from flowclas_ros.training.config import FitConfig, OptimiserConfig, TrainerConfig
    from flowclas_ros.training.data_config import DataConfig, OutlierConfig
    from flowclas_ros.training.fit import fit

    edge = PRESETS["flowclas_edge"]
    weights = str(kit / "backbone" / "mobilenetv2_100.tf_in1k.safetensors")
    half, same = (0.5, 0.5, 0.5), {"pad_type": "same"}
    backbone = replace(edge.backbone, weights=weights, mean=half, std=half, kwargs=same)
    data = DataConfig(
        train=(str(kit / "camvid" / "images" / "train"),),
        val=(str(kit / "camvid" / "images" / "val"),),
        scene_block=10,
        outliers=OutlierConfig(cutouts=str(kit / "coco_cutouts" / "train"), group_regex=r"_(\d{12})_"),
        batch_size=16,
        workers=min(8, os.cpu_count() or 1),
    )
    rows: list[dict[str, Any]] = []
    for precision in ("fp32", "bf16"):
        with tempfile.TemporaryDirectory() as output:
            config = FitConfig(
                model=replace(edge, backbone=backbone),
                data=data,
                optimiser=OptimiserConfig(lr=3e-4),
                trainer=TrainerConfig(
                    max_epochs=epochs,
                    val_every=epochs,
                    device=str(device),
                    precision=precision,  # type: ignore[arg-type]
                ),
                output=output,
            )
            start = time.perf_counter()
            fit(config)
            seconds = time.perf_counter() - start
            metrics = json.loads((Path(output) / "metrics.json").read_text())
        figures = {key: value for key, value in metrics.items() if key.startswith("val/")}
        rows.append({"precision": precision, "epochs": epochs, "seconds": seconds, **figures})
    return rows


def _print(figures: dict[str, Any]) -> None:
    table = Table("preset", "size", "precision", "median ms", "worst ms", "peak MiB", title=figures["device"])
    for row in figures["latency"]:
        peak = f"{row['peak_mib']:.0f}" if row["peak_mib"] else "-"
        table.add_row(
            row["preset"], row["size"], row["precision"], f"{row['median_ms']:.1f}", f"{row['worst_ms']:.1f}", peak
        )
    console = Console()
    console.print(table)
    for row in figures["agreement"]:
        console.print(f"{row['preset']}: CUDA and CPU differ by {row['max_difference_in_std']:.2e} of the map's std")
    console.print(figures["fit"])


if __name__ == "__main__":
    main()
