"""What each part of a checkpoint's score brings and what it costs: all of them, each left out, the likelihood alone.

    python benchmarks/score_parts.py road --checkpoint runs/kit_road/model.safetensors
    python benchmarks/score_parts.py bicyclists --checkpoint ... --scenes runs/real_objects/val

On the fit's own validation scenes, held-out frames with held-out objects, or on a folder's images/ with its masks/.
Nothing is fitted anew. Each frame is scored by every variant in turn, so that what else the machine does disturbs all
alike; milliseconds are the median over the frames. Writes benchmarks/results/score_parts_<name>.json and the table as
.md beside it.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from corruptions import validation_scenes
from record import markdown_table, write_result

from flowclas_ros.model import FlowCLAS, load_checkpoint
from flowclas_ros.model.fusion import DISCRIMINANT_WEIGHT, PROJECTION_WEIGHT
from flowclas_ros.progress import progress_bar
from flowclas_ros.training.data import MixDataset
from flowclas_ros.training.exposed import ExposedDataset
from flowclas_ros.training.metrics import PixelMetrics

WHOLE = "the whole score"
OWN_SCENES = "validation scenes of the fit"
BOTH_PARTS = PROJECTION_WEIGHT + DISCRIMINANT_WEIGHT


def likelihood_alone(model: FlowCLAS) -> None:
    """The published score."""
    model.fusion = model.memory = None
    model.config = replace(
        model.config, margin_weight=0.0, memory_weight=0.0, centred=False, guided_radius=0.0, mirrored=False
    )


def without_mirrored(model: FlowCLAS) -> None:
    """The frame alone, not its mirror image beside it."""
    model.config = replace(model.config, mirrored=False)


def without_filters(model: FlowCLAS) -> None:
    """The score as the grid gives it."""
    model.config = replace(model.config, guided_radius=0.0)


def without_memory(model: FlowCLAS) -> None:
    """Likelihood and margin alone."""
    model.memory, model.config = None, replace(model.config, memory_weight=0.0)


def without_centring(model: FlowCLAS) -> None:
    """Each frame at its own level."""
    assert model.fusion is not None
    model.fusion.centred, model.config = False, replace(model.config, centred=False)


def without_projection(model: FlowCLAS) -> None:
    """The margin by the discriminant alone, at the same weight."""
    assert model.fusion is not None
    model.fusion.direction.zero_()
    model.fusion.discriminant.mul_(BOTH_PARTS / DISCRIMINANT_WEIGHT)


def without_discriminant(model: FlowCLAS) -> None:
    """The margin by the contrastive head's projection alone, at the same weight."""
    assert model.fusion is not None
    model.fusion.discriminant.zero_()
    model.fusion.direction.mul_(BOTH_PARTS / PROJECTION_WEIGHT)


def without_likelihood(model: FlowCLAS) -> None:
    """A spread so wide that asinh of the NLL is flat beside the margin."""
    assert model.fusion is not None
    model.fusion.spread.mul_(1e4)


def half_the_margin(model: FlowCLAS) -> None:
    """As fitted with half the margin_weight."""
    assert model.fusion is not None
    model.fusion.weight /= 2


def variants(model: FlowCLAS) -> dict[str, FlowCLAS]:
    """The model, and copies of it that lack one part each."""
    parts: dict[str, tuple[bool, Callable[[FlowCLAS], None]]] = {
        "without mirrored frames": (model.config.mirrored, without_mirrored),
        "without the guided filters": (model.config.guided_radius > 0, without_filters),
        "without the memory": (model.memory is not None, without_memory),
        "without each frame's median taken off": (model.config.centred, without_centring),
        "without the head's projection": (model.fusion is not None, without_projection),
        "without Fisher's discriminant": (model.fusion is not None, without_discriminant),
        "half the margin's weight": (model.fusion is not None, half_the_margin),
        "without the likelihood": (model.fusion is not None, without_likelihood),
        "the likelihood alone": (model.fusion is not None, likelihood_alone),
    }
    models = {WHOLE: model}
    for name, (present, leave_out) in parts.items():
        if present:
            models[name] = copy.deepcopy(model)
            leave_out(models[name])
    return models


def measure(models: dict[str, FlowCLAS], scenes: MixDataset | ExposedDataset) -> dict[str, dict[str, float]]:
    """AUPRC, FPR95 and milliseconds a frame of each on labelled scenes."""
    metrics = {name: PixelMetrics() for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with progress_bar("score parts", len(scenes), "frames") as advance, torch.inference_mode():
        for index in range(len(scenes)):
            scene = scenes[index]
            image, mask = scene["image"].unsqueeze(0).float() / 255, scene["label"].numpy()
            for name, model in models.items():
                start = time.perf_counter()
                score = model(image)[0].numpy()
                seconds[name].append(time.perf_counter() - start)
                metrics[name].update(score, mask)
            advance()
    figures = {}
    for name, metric in metrics.items():
        result = metric.compute()
        milliseconds = 1e3 * statistics.median(seconds[name])
        figures[name] = {"auprc": result.auprc, "fpr95": result.fpr95, "ms_per_frame": milliseconds}
    return {name: {key: round(value, 4) for key, value in row.items()} for name, row in figures.items()}


def markdown(rows: dict[str, dict[str, float]]) -> str:
    """The table; times as shares of the whole score's."""
    whole, lines = rows[WHOLE]["ms_per_frame"], []
    for name, row in rows.items():
        time_a_frame = row["ms_per_frame"]
        accuracy = (f"{row['auprc']:.3f}", f"{row['fpr95']:.3f}")
        lines.append((name, *accuracy, f"{time_a_frame:.0f}", f"{time_a_frame / whole:.0%}"))
    return markdown_table(("", "AUPRC", "FPR95", "ms a frame", "of the whole"), lines) + "\n"


def save(name: str, header: dict[str, Any], frames: int, rows: dict[str, dict[str, float]], **about: Any) -> None:
    """The JSON of a checkpoint's rows, and the table beside it."""
    about |= {"checkpoint_sha256": header["sha256"], "frames": frames}
    about |= {"threads": torch.get_num_threads(), "load_average": round(os.getloadavg()[0], 1)}
    path = write_result(name, {**about, "rows": rows}, seed=header["provenance"]["seed"])
    path.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")
    print(f"{markdown(rows)}\n-> {path}, .md")


def main(argv: list[str] | None = None) -> None:
    """Measure, write the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the result")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--scenes", type=Path, help="folder of images/ and masks/ (default: the fit's own)")
    arguments = parser.parse_args(argv)
    loaded = load_checkpoint(arguments.checkpoint)
    own = arguments.scenes is None
    scenes = validation_scenes(loaded.header["provenance"]["config"]) if own else ExposedDataset(str(arguments.scenes))
    rows = measure(variants(loaded.model.eval()), scenes)
    which = OWN_SCENES if own else str(arguments.scenes)
    save(f"score_parts_{arguments.name}", loaded.header, len(scenes), rows, set=which)


if __name__ == "__main__":
    main()
