"""A small whole fit that tests run, kill and resume: its data, its settings, and what must hold of its folder."""

from pathlib import Path

import numpy as np
import torch
from fit_support import write_discs, write_noise
from safetensors.torch import load_file

from flowclas_ros.model.checkpoint import load_checkpoint
from flowclas_ros.training import fit as fitting
from flowclas_ros.training.config_file import load_config

STEPS = 9  # three epochs of three
YAML = """
model: {backbone: {name: mobilenetv2_100, weights: random, layers: [1], stride: 8}, flow: {steps: 1, noise: 0.1},
        projection_dim: 8}
data: {train: [ROOT/train], val: [ROOT/val], scene_block: 2, outliers: {cutouts: ROOT/cut}, batch_size: 4,
       x_out_size: [64, 64], jitter: 0.1}
paste: {min_size: 0.3, max_size: 0.8}
loss: {samples: 32}
optimiser: {ema: 0.9, lr: 1e-3}
trainer: {max_epochs: 3, save_every: 2, margin_scenes: 16, device: cpu, log_every: 1}
"""


def write_root(folder: Path) -> Path:
    """The data and fit.yaml, into the folder, which it returns."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        write_noise(folder / split, count, rng)
    write_discs(folder / "cut", rng)
    (folder / "fit.yaml").write_text(YAML.replace("ROOT", str(folder)))
    return folder


def fit(root, name, *overrides, resume=False):
    torch.set_num_threads(1)
    config = load_config(root / "fit.yaml", ["--output", str(root / name), *overrides])
    return fitting.fit(config, resume=resume)


def assert_same_run(one, other):
    for name in ("model.safetensors", "best.safetensors"):
        ours, theirs = load_file(one / name), load_file(other / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    ours, theirs = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (one, other))
    assert ours["global_step"] == theirs["global_step"] == STEPS
    assert all(torch.equal(ours["state_dict"][key], theirs["state_dict"][key]) for key in ours["state_dict"])
    ours, theirs = (state["optimizer_states"][0]["state"] for state in (ours, theirs))
    assert all(torch.equal(ours[i][key], theirs[i][key]) for i in ours for key in ours[i])
    calibrations = [load_checkpoint(folder / "model.safetensors").header["calibration"] for folder in (one, other)]
    assert calibrations[0] == calibrations[1]


def assert_whole_files_only(output):
    names = {path.name for path in output.rglob("*")}
    assert not [name for name in names if name.endswith(".tmp") or name.startswith(".")]
    for path in output.glob("*.safetensors"):
        load_file(path)
    if (output / "last.ckpt").exists():
        torch.load(output / "last.ckpt", weights_only=True)
