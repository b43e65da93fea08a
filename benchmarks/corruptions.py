"""What bad weather and a bad camera cost a checkpoint: AUPRC clear and under every corruption, on the kit's road.

    python benchmarks/corruptions.py --checkpoint runs/kit_road/model.safetensors          # its own validation scenes
    python benchmarks/corruptions.py --checkpoint runs/kit_road/model.safetensors --test   # camvid_pasted_test, once

The validation scenes are those that the fit chose its checkpoint on: held-out frames, held-out objects. Choose there.
Writes benchmarks/results/corruptions_val.json, or corruptions_test.json, and the bars as .png beside it; aimed at: at
most a quarter of the clear AUPRC lost over all corruptions pooled.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fit_rows import run_flowclas
from record import kit_folder, write_result

from flowclas_ros.detection.images import write_png
from flowclas_ros.detection.scorer import Scorer
from flowclas_ros.training.config_file import load_config
from flowclas_ros.training.data import open_data, validation_set

TEST = "camvid_pasted_test"


def main(argv: list[str] | None = None) -> None:
    """Evaluate, write the JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--test", action="store_true", help=f"on {TEST}, in place of the fit's validation scenes")
    arguments = parser.parse_args(argv)
    kit, header = kit_folder(), Scorer(arguments.checkpoint, device="cpu").header
    with tempfile.TemporaryDirectory() as folder:
        scenes = kit / TEST if arguments.test else write_validation_scenes(header["provenance"]["config"], Path(folder))
        figures = Path(folder) / "figures.json"
        data = ["--images", str(scenes / "images"), "--masks", str(scenes / "masks"), "--json", str(figures)]
        weather = ["--corruptions", "all", "--severity", str(arguments.severity)]
        run_flowclas(["evaluate", "--checkpoint", str(arguments.checkpoint), *data, *weather], kit)
        result = json.loads(figures.read_text())
        about = {"set": TEST if arguments.test else "validation scenes of the fit", "images": result["images"]}
        name = "corruptions_test" if arguments.test else "corruptions_val"
        about["checkpoint_sha256"] = header["sha256"]
        path = write_result(name, {**about, **result["corruptions"]}, seed=header["provenance"]["seed"])
        shutil.copy(figures.with_name("figures_corruptions.png"), path.with_suffix(".png"))
    print(f"-> {path}, .png")


def write_validation_scenes(settings: dict[str, Any], folder: Path) -> Path:
    """The scenes that a fit with these settings is validated on, as images/ and masks/ below the folder."""
    saved = folder / "config.yaml"
    saved.write_text(json.dumps(settings))  # JSON is YAML
    config = load_config(saved)
    scenes = validation_set(config, open_data(config.data, config.seed))
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for index in range(len(scenes)):
        item = scenes[index]
        write_png(folder / "images" / f"{index:04d}.png", item["image"].permute(1, 2, 0).numpy())
        write_png(folder / "masks" / f"{index:04d}.png", item["label"].numpy())
    return folder


if __name__ == "__main__":
    main()
