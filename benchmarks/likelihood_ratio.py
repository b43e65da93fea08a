"""Does a second flow, of the outliers, help? Its likelihood ratio beside a checkpoint's score, and in its parts' place.

    python benchmarks/likelihood_ratio.py road --checkpoint runs/kit_road/model.safetensors

The second flow is made as the checkpoint's own and takes the same features, but of the cells of pasted objects in
training scenes: its whitening and its steps are fitted on them by their likelihood, until that of the cells of the
last tenth of the scenes no longer rises. The ratio, log p(outlier) - log p(inlier) in nats per dimension, is brought to
the inliers' spread. Measured on the fit's own validation scenes, held-out frames with held-out objects. Writes
benchmarks/results/likelihood_ratio_<name>.json and the table as .md beside it.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from corruptions import config_of, validation_scenes
from score_parts import OWN_SCENES, WHOLE, likelihood_alone, measure, save, without_likelihood
from torch import Tensor, nn

from flowclas_ros.model import FlowCLAS, load_checkpoint
from flowclas_ros.model.density import DiagonalGaussian
from flowclas_ros.model.flow_types import build_flow
from flowclas_ros.model.fusion import centre_and_spread
from flowclas_ros.progress import progress_bar
from flowclas_ros.training.batches import collate
from flowclas_ros.training.data import open_data, training_set
from flowclas_ros.training.module import batch_features

CELLS = 2048  # of a training step
PATIENCE = 3  # passes over the cells without a better held-out likelihood
PASSES = 40  # at most
WEIGHTS = (0.25, 1.0)
INLIERS_EVERY = 50  # cells that the ratio's spread is taken from


def cells(model: FlowCLAS, settings: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Features of training scenes' cells: outliers (N, C), those of the last tenth of scenes, and some inliers."""
    config = config_of(settings)
    scenes = training_set(config, open_data(config.data, config.seed))
    scenes.auxiliary = False
    size = config.data.batch_size
    order = torch.randperm(len(scenes), generator=torch.Generator().manual_seed(config.seed)).tolist()
    outliers, inliers = [], []
    starts = range(0, len(order), size)
    with progress_bar("features", len(starts), "batches") as advance, torch.inference_mode():
        for first in starts:
            batch = collate([scenes[(0, index)] for index in order[first : first + size]])
            features, labels = batch_features(model, batch)
            rows = features.movedim(1, -1)
            outliers.append(rows[labels == 1].clone())
            inliers.append(rows[labels == 0][::INLIERS_EVERY].clone())
            advance()
    kept = max(1, len(outliers) // 10)
    return torch.cat(outliers[:-kept]), torch.cat(outliers[-kept:]), torch.cat(inliers)


def as_map(rows: Tensor) -> Tensor:
    """(N, C) as (1, C, 1, N)."""
    return rows.T[None, :, None]


def fit_outlier_flow(model: FlowCLAS, train: Tensor, held_out: Tensor, seed: int) -> tuple[FlowCLAS, list[float]]:
    """A copy of the model with the outliers' flow, that of the lowest held-out NLL; and the NLL of every pass."""
    torch.manual_seed(seed)
    outliers = copy.deepcopy(model)
    outliers.flow = build_flow(model.backbone.channels, model.config.flow, model.backbone.sections)
    outliers.flow.initialise([(as_map(train), None)])
    outliers.base = DiagonalGaussian(model.backbone.channels)
    density = nn.ModuleList([outliers.flow, outliers.base])
    optimiser = torch.optim.AdamW(density.parameters(), lr=1e-3, weight_decay=1e-5)
    best, losses = copy.deepcopy(density.state_dict()), [_held_out(outliers, held_out)]
    with progress_bar("outlier flow", PASSES, "passes") as advance:
        for _ in range(PASSES):
            for rows in train[torch.randperm(len(train))].split(CELLS):
                optimiser.zero_grad()
                outliers.nll(as_map(rows)).mean().backward()
                nn.utils.clip_grad_norm_(density.parameters(), 5.0)
                optimiser.step()
            losses.append(_held_out(outliers, held_out))
            if losses[-1] == min(losses):
                best = copy.deepcopy(density.state_dict())
            advance()
            if len(losses) - 1 - losses.index(min(losses)) >= PATIENCE:
                break
    density.load_state_dict(best)
    return outliers.eval(), losses


@torch.no_grad()
def _held_out(outliers: FlowCLAS, rows: Tensor) -> float:
    return float(outliers.nll(as_map(rows)).mean())


class LikelihoodRatio(nn.Module):
    """Features (B, C, h, w) to log p(outlier) - log p(inlier) (B, h, w) in spreads of the inliers'."""

    def __init__(self, model: FlowCLAS, outliers: FlowCLAS, inlier_rows: Tensor) -> None:
        super().__init__()
        self.inliers, self.outliers = model, outliers
        self.centre, self.spread = torch.zeros(()), torch.ones(())
        with torch.inference_mode():
            values = torch.cat([self(as_map(rows)).flatten() for rows in inlier_rows.split(CELLS)])
        self.centre, self.spread = centre_and_spread(values)

    def forward(self, features: Tensor) -> Tensor:
        ratio: Tensor = self.inliers.nll(features) - self.outliers.nll(features)
        return (ratio - self.centre) / self.spread


def beside(model: FlowCLAS, ratio: LikelihoodRatio, weight: float) -> FlowCLAS:
    """A copy with the ratio where a memory would be: a term beside likelihood and margin."""
    changed = copy.deepcopy(model)
    changed.memory = ratio  # type: ignore[assignment]
    changed.config = replace(changed.config, memory_weight=weight)
    return changed


def variants(model: FlowCLAS, ratio: LikelihoodRatio) -> dict[str, FlowCLAS]:
    """The model, and copies of it with the ratio."""
    models = {WHOLE: model}
    for weight in WEIGHTS:
        models[f"with the ratio, weight {weight}"] = beside(model, ratio, weight)
    instead = beside(model, ratio, 1.0)
    assert instead.fusion is not None
    instead.fusion.weight = 0.0
    models["the ratio in the margin's place"] = instead
    alone = copy.deepcopy(instead)
    without_likelihood(alone)
    models["the ratio alone, filters and mirrored frames kept"] = alone
    models["the likelihood alone"] = copy.deepcopy(model)
    likelihood_alone(models["the likelihood alone"])
    return models


def main(argv: list[str] | None = None) -> None:
    """Fit the second flow, measure, write the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the result")
    parser.add_argument("--checkpoint", type=Path, required=True)
    arguments = parser.parse_args(argv)
    loaded = load_checkpoint(arguments.checkpoint)
    provenance: dict[str, Any] = loaded.header["provenance"]
    model = loaded.model.eval()
    train, held_out, inliers = cells(model, provenance["config"])
    outliers, losses = fit_outlier_flow(model, train, held_out, provenance["seed"])
    scenes = validation_scenes(provenance["config"])
    rows = measure(variants(model, LikelihoodRatio(model, outliers, inliers)), scenes)
    about = {"outlier_cells": len(train), "held_out_nll_after_each_pass": [round(loss, 4) for loss in losses]}
    save(f"likelihood_ratio_{arguments.name}", loaded.header, len(scenes), rows, set=OWN_SCENES, **about)


if __name__ == "__main__":
    main()
