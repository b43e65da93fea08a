"""`flowclas evaluate`: what a benchmark reports of a checkpoint on labelled images, with curves and a sheet."""

from __future__ import annotations

import argparse
import datetime
import importlib
import math
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import flowclas_ros
from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.detector import DEFAULT_FALSE_ALARM_RATE
from flowclas_ros.detection.images import size_in_header, write_bytes, write_json, write_png
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.errors import FlowclasError
from flowclas_ros.progress import progress_bar
from flowclas_ros.training.benchmarks import Pair, open_benchmark, pair_folders, unlabelled_pairs
from flowclas_ros.training.data_sets import NAMES, OWN, Benchmark
from flowclas_ros.training.evaluate_corruptions import add_arguments as add_corruption_arguments
from flowclas_ros.training.evaluate_corruptions import asked_corruptions, evaluate_corruptions
from flowclas_ros.training.evaluate_pictures import Sheet, curves_png
from flowclas_ros.training.figures import Figures
from flowclas_ros.training.metrics import require_both_classes
from flowclas_ros.training.smiyc_export import SmiycExport

EXACT_PIXELS = 300_000_000  # at most, unless asked for: 6 to 18 bytes each, by the share of anomalous ones


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options, beside those that name the checkpoint and the device."""
    parser.add_argument("--images", type=Path, help="folder of images")
    parser.add_argument(
        "--masks", type=Path, help="folder of masks named like the images: 0 normal, 1 foreign, 255 ignored"
    )
    parser.add_argument("--benchmark", choices=NAMES, help="layout of a public data set, instead of the two folders")
    parser.add_argument("--root", type=Path, help="folder of the benchmark; for a manifest, the csv file")
    parser.add_argument("--json", required=True, type=Path, help="file for the figures; pictures are written beside it")
    parser.add_argument(
        "--false-alarm-rate",
        "--false_alarm_rate",  # as the option was spelt first
        type=float,
        default=DEFAULT_FALSE_ALARM_RATE,
        help="also report recall at the calibration's threshold for this rate (default: %(default)s)",
    )
    parser.add_argument(
        "--streaming",
        action=argparse.BooleanOptionalAction,
        help="constant memory: bins the scores instead of keeping all; by default where there are more than "
        f"{EXACT_PIXELS // 10**6} million pixels",
    )
    parser.add_argument(
        "--export", type=Path, help="folder for float32 scores in the format of the SegmentMeIfYouCan toolkit"
    )
    add_corruption_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate as asked, write the JSON and the pictures, print the figures; the exit status 0.

    Raises FlowclasError for images or masks that are missing, broken or do not fit, for a data set that lies in
    another way than published, and for masks of one class only.
    """
    corruptions, severity = asked_corruptions(arguments)
    benchmark, pairs = _open(arguments)
    # Now, and not after hours of scoring.
    for pair in pairs:
        pair.check_size()
    _check_classes(pairs)
    streaming = _pixels(pairs) > EXACT_PIXELS if arguments.streaming is None else arguments.streaming
    if arguments.json.is_dir():
        raise FlowclasError(f"--json {arguments.json} is a folder: name the file, such as {arguments.json}/result.json")
    for module in ("matplotlib", "h5py") if arguments.export else ("matplotlib",):
        importlib.import_module(module)
    export = SmiycExport(arguments.export, benchmark, arguments.benchmark, method=arguments.checkpoint.stem)
    scorer = Scorer(
        arguments.checkpoint,
        device=arguments.device,
        precision=arguments.precision,
        backbone_weights=arguments.backbone_weights,
    )
    calibration = scorer.header.get("calibration")
    threshold = Calibration.from_dict(calibration).threshold(arguments.false_alarm_rate) if calibration else None
    sheet = Sheet(calibration)
    rows: list[dict[str, Any]] = []
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    # Without a name, so that nothing is left behind by whatever ends the process.
    with tempfile.TemporaryFile(dir=arguments.json.parent) as file:
        figures = Figures(benchmark, streaming=streaming, file=file, threshold=threshold)
        unlabelled = unlabelled_pairs(benchmark, arguments.root, pairs) if arguments.export else []
        with progress_bar("evaluate", len(pairs) + len(unlabelled), "images") as advance:
            for pair in [*pairs, *unlabelled]:
                image = pair.read_image()
                mask, score = pair.read_mask(image), scorer.score_batch([image])[0][0]
                export.add(pair, score)
                if pair.mask is not None or pair.all_normal:
                    own = figures.update(pair, score, mask)
                    rows.append(_row(pair, score, mask, own))
                    sheet.add(rows[-1], image, mask, score)
                advance()
        result = figures.compute()
    if corruptions:
        result["corruptions"] = evaluate_corruptions(
            corruptions, severity, pairs, scorer, figures.pixels.compute(), arguments.json
        )
    stem = arguments.json.with_name(arguments.json.stem)
    write_png(f"{stem}_sheet.png", sheet.draw(result))
    write_bytes(f"{stem}_curves.png", curves_png(figures.pixels.curves(), result))
    result = {"track": scorer.header["track"], **result}
    write_json(arguments.json, {**result, "provenance": _provenance(arguments, scorer, streaming), "per_image": rows})
    _say(result, arguments)
    return 0


def _open(arguments: argparse.Namespace) -> tuple[Benchmark, list[Pair]]:
    folders, named = (arguments.images, arguments.masks), (arguments.benchmark, arguments.root)
    if all(folders) and not any(named):
        return OWN, pair_folders(*folders)
    if all(named) and not any(folders):
        return open_benchmark(*named)
    raise FlowclasError("give either --images and --masks, or --benchmark and --root")


def _pixels(pairs: list[Pair]) -> int:
    return sum(math.prod(size_in_header(pair.image) or (0, 0)) for pair in pairs)


def _check_classes(pairs: list[Pair]) -> None:
    """Raise FlowclasError where the masks hold one class only; read until both were seen, mostly in the first."""
    normal = anomaly = 0
    for pair in pairs:
        mask = pair.read_mask(pair.read_image())
        normal, anomaly = normal + int((mask == 0).sum()), anomaly + int((mask == 1).sum())
        if normal and anomaly:
            return
    require_both_classes(normal, anomaly, len(pairs))


def _row(
    pair: Pair, score: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], own: dict[str, float] | None
) -> dict[str, Any]:
    """One image's figures; its own AUPRC is None where it holds one class only."""
    normal = score[mask == 0]
    return {
        "name": pair.name,
        "condition": pair.condition,
        "auprc": round(own["auprc"], 5) if own else None,
        "anomaly_pixels": int((mask == 1).sum()),
        "mean_normal_score": round(float(normal.mean()), 4) if normal.size else None,
    }


def _say(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    figures = f"{result['track']} track  "
    figures += "  ".join(f"{name} {result[name]:.4f}" for name in ("auprc", "auroc", "fpr95"))
    print(f"{figures}  over {result['images']} images, {result['pixels']} pixels -> {arguments.json}")
    if result["threshold"] is not None:
        asked, observed = (f"{100 * rate:.3g} %" for rate in (arguments.false_alarm_rate, result["false_alarm_rate"]))
        print(f"  at the threshold for {asked} false alarms: recall {result['recall']:.3f}, false alarms {observed}")
    for condition, own in result.get("conditions", {}).items():
        if "note" in own:
            print(f"  {condition}: {own['note']}")
        else:
            print(f"  {condition}: auprc {own['auprc']:.4f}  fpr95 {own['fpr95']:.4f}  over {own['images']} images")
    published = result.get("published_images")
    if published not in (None, result["images"]):
        print(f"note: the published {arguments.benchmark} has {published} images: figures of {result['images']} differ")


def _provenance(arguments: argparse.Namespace, scorer: Scorer, streaming: bool) -> dict[str, Any]:
    import torch

    return {
        "checkpoint": str(arguments.checkpoint),
        "checkpoint_sha256": scorer.header["sha256"],
        "benchmark": arguments.benchmark,
        "root": str(arguments.root) if arguments.root else None,
        "images": str(arguments.images) if arguments.images else None,
        "masks": str(arguments.masks) if arguments.masks else None,
        "mode": "streaming" if streaming else "exact",
        "false_alarm_rate_asked": arguments.false_alarm_rate,
        "device": str(scorer.device),
        "precision": scorer.precision,
        "versions": {
            "flowclas_ros": flowclas_ros.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": platform.machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
    }
