"""What bad weather and a bad camera cost checkpoints: AUPRC clear and under every corruption, on the kit's road.

    python benchmarks/corruptions.py --checkpoint runs/kit_road/model.safetensors          # its own validation scenes
    python benchmarks/corruptions.py --checkpoint runs/kit_road/model.safetensors --test   # camvid_pasted_test, once

The validation scenes are those that the fit chose its checkpoint on: held-out frames, held-out objects. Choose there.
Several checkpoints, of different seeds, may be named. Writes benchmarks/results/corruptions_val.json, or
corruptions_test.json, and the first one's bars as .png beside it; aimed at: at most a quarter of the clear AUPRC lost
over all corruptions pooled.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from fit_rows import run_flowclas
from record import kit_folder, write_result

from flowclas_ros.detection.images import write_png
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.training.config import FitConfig
from flowclas_ros.training.config_file import load_config
from flowclas_ros.training.data import MixDataset, open_data, validation_set
from flowclas_ros.training.exposed import ExposedDataset

TEST = "camvid_pasted_test"


def main(argv: list[str] | None = None) -> None:
    """Evaluate, write the JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True)
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--test", action="store_true", help=f"on {TEST}, in place of the fit's validation scenes")
    arguments = parser.parse_args(argv)
    name = "corruptions_test" if arguments.test else "corruptions_val"
    results, seeds = [], []
    for checkpoint in arguments.checkpoint:
        header = Scorer(checkpoint, device="cpu").header
        seeds.append(header["provenance"]["seed"])
        with tempfile.TemporaryDirectory() as folder:
            figures = evaluate(checkpoint, header, arguments, Path(folder))
            result = json.loads(figures.read_text())
            own = {"seed": seeds[-1], "checkpoint_sha256": header["sha256"], "images": result["images"]}
            results.append({**own, **result["corruptions"]})
            about = {"set": TEST if arguments.test else "validation scenes of the fit"}
            about["auprc_lost_mean"] = round(statistics.mean(one["adverse"]["auprc_lost"] for one in results), 4)
            path = write_result(name, {**about, "checkpoints": results}, seed=seeds)
            if len(results) == 1:
                shutil.copy(figures.with_name("figures_corruptions.png"), path.with_suffix(".png"))
    print(f"-> {path}, and of the first checkpoint .png")


def evaluate(checkpoint: Path, header: dict[str, Any], arguments: argparse.Namespace, folder: Path) -> Path:
    """The figures of `flowclas evaluate --corruptions all`, a file in the folder."""
    kit = kit_folder()
    scenes = kit / TEST if arguments.test else write_validation_scenes(header["provenance"]["config"], folder)
    figures = folder / "figures.json"
    data = ["--images", str(scenes / "images"), "--masks", str(scenes / "masks"), "--json", str(figures)]
    weather = ["--corruptions", "all", "--severity", str(arguments.severity)]
    run_flowclas(["evaluate", "--checkpoint", str(checkpoint), *data, *weather], kit)
    return figures


def validation_scenes(settings: dict[str, Any]) -> MixDataset | ExposedDataset:
    """The scenes that a fit with these settings is validated on."""
    config = config_of(settings)
    return validation_set(config, open_data(config.data, config.seed))


def config_of(settings: dict[str, Any]) -> FitConfig:
    """The configuration that a checkpoint's header holds."""
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "config.yaml"
        saved.write_text(json.dumps(settings))  # JSON is YAML
        return load_config(saved)


def write_validation_scenes(settings: dict[str, Any], folder: Path) -> Path:
    """The same as images/ and masks/ below the folder."""
    scenes = validation_scenes(settings)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for index in range(len(scenes)):
        item = scenes[index]
        write_png(folder / "images" / f"{index:04d}.png", item["image"].permute(1, 2, 0).numpy())
        write_png(folder / "masks" / f"{index:04d}.png", item["label"].numpy())
    return folder


if __name__ == "__main__":
    main()
