"""Make all that ships in flowclas_ros/samples anew: render, distil, fit, write bags. Takes hours on two cores.

    FLOWCLAS_KIT=../shared/kit python tools/build_samples.py [--work DIR] [STEP ...]

The steps, in order: render, distill, fit, bags, install. What a step has finished it does not do again; a changed
configuration therefore wants that step's results deleted. Needs the extras training, bags and sim, and the kit's
MobileNetV2 as the teacher. Nothing real goes into what ships but the teacher's knowledge (Apache-2.0) and, as objects
to paste, photographed cut-outs under CC BY or without known restrictions: share-alike ones are left out.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from flowclas_ros import samples  # noqa: E402
from flowclas_ros.detection.images import through_jpeg, write_png  # noqa: E402
from flowclas_ros.files import replacing  # noqa: E402
from flowclas_ros.progress import progress_bar  # noqa: E402
from flowclas_ros.training import scenes  # noqa: E402

SIZE = (320, 240)  # pixels of the frames fitted on: width, height
FRAMES, EVERY = 6, 10 / 3  # of a scene, and seconds from one to the next: 20 seconds in all
# splits: the seeds of their scenes, and the kinds of the foreign objects in them
SPLITS = {
    "val": (range(1000, 1064), "none"),  # calibrated on
    "exposed_val": (range(1500, 1516), "val"),  # chosen on
    "exposed": ([*range(100, 1000), *range(3000, 3450)], "fit"),
    "fit": (range(0, 40), "none"),
}
EXPOSED = {"orbit": 1350, "road": 300}  # scenes of that split: in orbit foreign things are harder to tell
# epochs of the distillation, round by round: each begins at what the one before has learned
EPOCHS = {"orbit": (84, 42, 42, 42, 42, 42, 42), "road": (84, 42, 42)}
QUALITIES = (75, 99)  # of the JPEG that half of the frames go through: from, and below
BAG_SEED = 2000  # from here to 2999 seeds are for tests: benchmarks/samples.py takes those after it
CUTOUTS = 96  # rendered objects of the kinds "fit", in each domain
FREE = ("Attribution License", "No known copyright restrictions", "United States Government Work")


def render(work: Path, kit: Path) -> None:
    """Frames of many scenes with nothing foreign in them, of others with foreign objects, and such objects alone."""
    jobs = [
        (domain, seed, work / domain / split, kinds)
        for split, (seeds, kinds) in SPLITS.items()
        for domain in samples.DOMAINS
        for seed in (seeds[: EXPOSED[domain]] if split == "exposed" else seeds)
    ]
    # spawned: a graphics context does not survive a fork
    with (
        ProcessPoolExecutor(mp_context=get_context("spawn")) as pool,
        progress_bar("render", len(jobs), "scenes") as go,
    ):
        for done in as_completed([pool.submit(_scene, *job) for job in jobs]):
            done.result()
            go()
    for domain in samples.DOMAINS:
        folder = work / "cutouts" / domain
        if not (folder / f"{domain}{CUTOUTS - 1:03d}.png").is_file():
            for number, rgba in enumerate(scenes.cutouts(domain, 0, CUTOUTS, kinds="fit")):
                write_png(folder / f"{domain}{number:03d}.png", rgba)
    _photographed(work / "cutouts" / "photographed", kit / "coco_cutouts")


def _scene(domain: str, seed: int, folder: Path, kinds: str) -> None:
    """A scene's frames into the folder; where it holds foreign objects, into images/, and their masks into masks/."""
    width, height = SIZE
    exposed = kinds != "none"
    images = folder / "images" if exposed else folder
    if (images / f"s{seed:04d}_{FRAMES - 1:03d}.png").is_file():
        return
    film = scenes.render(domain, seed, frames=FRAMES, width=width, height=height, fps=1 / EVERY, anomalies=kinds)
    for number, frame in enumerate(film):
        name = f"s{seed:04d}_{number:03d}.png"
        if exposed:
            write_png(folder / "masks" / name, frame.mask)
        write_png(images / name, sent(frame.image, seed, number))


def sent(image: np.ndarray, seed: int, number: int) -> np.ndarray:
    """Frame `number` as it comes from some camera: every other one through a JPEG, of the rest some soft or noisy.

    With foreign objects and without alike, or what a JPEG leaves of the noise would be foreign.
    """
    rng = np.random.default_rng([seed, number])
    if number % 2:
        return through_jpeg(image, int(rng.integers(*QUALITIES)))
    kind = rng.random()
    if kind < 0.2:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
    if kind < 0.4:
        noise = rng.normal(0.0, rng.uniform(1, 4), image.shape)
        return np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)
    return image


def _photographed(folder: Path, kit: Path) -> None:
    """The kit's cut-outs whose licence asks for no more than to be named."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(kit / "manifest.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == "train" and row["licence"] in FREE:
                shutil.copy(kit / row["file"], folder)


def distill(work: Path, kit: Path) -> None:
    """A backbone of each domain."""
    for domain in samples.DOMAINS:
        learned: list[str] = []
        for number, epochs in enumerate(EPOCHS[domain]):
            last = number == len(EPOCHS[domain]) - 1
            student = work / domain / ("student.safetensors" if last else f"student_{number}.safetensors")
            if not student.is_file():
                config = ["--config", "config/training/sample_backbone.yaml", "--trainer.max_epochs", str(epochs)]
                own = ["--seed", str(number), "--output", str(student), *learned]
                _flowclas("distill", *config, *own, work=work, kit=kit, DOMAIN=domain)
            learned = ["--student.weights", str(student)]


def fit(work: Path, kit: Path) -> None:
    """A checkpoint of each domain."""
    for domain in samples.DOMAINS:
        run = work / domain / "run"
        if not (run / "model.safetensors").is_file():
            resume = ["--resume"] if (run / "last.ckpt").is_file() else []
            _flowclas("fit", "--config", f"config/training/sample_{domain}.yaml", *resume, work=work, kit=kit)


def bags(work: Path, kit: Path) -> None:
    """A bag of each domain, of a seed and of kinds of objects that nothing was fitted on."""
    for domain in samples.DOMAINS:
        bag = work / f"{domain}.mcap"
        if not bag.is_file():
            scene = ["--scene", domain, "--seed", str(BAG_SEED), "--anomalies", "test", "--compressed"]
            length = ["--frames", str(round(samples.SECONDS * samples.RATE)), "--fps", str(samples.RATE)]
            _flowclas("simulate", *scene, *length, "--output", str(bag), work=work, kit=kit)


def install(work: Path, kit: Path) -> None:
    """Into the package."""
    for domain in samples.DOMAINS:
        for source, name in ((work / domain / "run" / "model.safetensors", f"{domain}.safetensors"),
                             (work / f"{domain}.mcap", f"{domain}.mcap")):  # fmt: skip
            with replacing(samples.FOLDER / name) as temporary:
                shutil.copy(source, temporary)
            print(f"{samples.FOLDER / name}: {source.stat().st_size / 1e6:.1f} MB")


def _flowclas(*arguments: str, work: Path, kit: Path, **environment: str) -> None:
    environment = {**os.environ, "FLOWCLAS_KIT": str(kit), "SAMPLES": str(work), "PYTHONPATH": str(ROOT), **environment}
    subprocess.run([sys.executable, "-m", "flowclas_ros.cli", *arguments], cwd=ROOT, env=environment, check=True)


STEPS = {step.__name__: step for step in (render, distill, fit, bags, install)}


def main() -> None:
    """Do the steps asked for, by default all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "samples", help="for what lies between")
    arguments = parser.parse_args()
    unknown = set(arguments.steps) - set(STEPS)
    if unknown:
        parser.error(f"no step {', '.join(sorted(unknown))}; there are: {', '.join(STEPS)}")
    kit = Path(os.environ.get("FLOWCLAS_KIT") or ROOT.parent / "shared" / "kit").resolve()
    if not (kit / "README.md").is_file():
        sys.exit(f"error: no kit at {kit}: set FLOWCLAS_KIT")
    try:
        for step in arguments.steps or STEPS:
            STEPS[step](arguments.work.resolve(), kit)
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: `{' '.join(error.cmd[2:])}` ended with status {error.returncode}")


if __name__ == "__main__":
    main()
