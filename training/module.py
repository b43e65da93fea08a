"""The Lightning module: FlowCLAS's loss, its optimiser, and validation on pasted scenes."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassJaccardIndex

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.flowclas import FlowCLAS
from flowclas_ros.training.batches import StepBatches, by_size, collate
from flowclas_ros.training.config import FitConfig
from flowclas_ros.training.data import (
    VALIDATION,
    FitData,
    Frame,
    InlierDataset,
    training_set,
    validation_set,
)
from flowclas_ros.training.losses import IGNORE, INLIER, flowclas_loss, labels_to_grid
from flowclas_ros.training.metrics import PixelMetrics
from flowclas_ros.training.segmentation import label_losses
from flowclas_ros.training.trainer_setup import adamw

BACKBONE = "model.backbone."
WHOLE_IMAGES = 8  # at once, however many crops a step takes: whole images need more memory


class FitModule(L.LightningModule):
    """Trains everything of a FlowCLAS but its backbone, and of that its low-rank updates where it has any.

    All randomness of a step is drawn from generators seeded with (seed, step), the noise also with the rank, and its
    batch is a function of the same: a resumed run needs no generator's state to go on exactly, and several processes
    do what one does with all of their batches, but for `flow.noise`, `loss.cells`, the padding of unequal images and
    Lovasz-softmax.
    """

    def __init__(self, model: FlowCLAS, config: FitConfig, data: FitData) -> None:
        super().__init__()
        self.model, self.config, self.data = model, config, data
        self.strict_loading = False  # the frozen backbone is left out of the resumable state
        self.metrics = PixelMetrics(streaming=True)
        self.shared = torch.Generator()  # of the step's random numbers that all processes have in common
        classes = model.config.classes
        self.iou = MulticlassJaccardIndex(classes, ignore_index=IGNORE) if classes else None  # mean over the classes
        if not config.loss.fits_flow:
            model.base.requires_grad_(False)  # in no loss: DistributedDataParallel would wait for its gradient
        self.inlier_score = (0.0, 0)  # sum and count over the validation's inlier pixels

    # -- data ---------------------------------------------------------------------------------------------------

    def batches(self, start: int = 0, rank: int = 0, world: int = 1) -> StepBatches:
        """The run's batches from step ``start`` on, as this process sees them."""
        config = self.config
        return StepBatches(
            len(self.data.train),
            config.data.batch_size,
            epochs=config.trainer.max_epochs,
            seed=config.seed,
            start=start,
            rank=rank,
            world=world,
        )

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Lightning's hook; a resumed run starts at the step that it is to do next."""
        config, trainer = self.config, self.trainer
        dataset = training_set(config, self.data)
        sampler = self.batches(trainer.global_step, trainer.global_rank, trainer.world_size)
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, **self._loader_options())

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Lightning's hook; every process validates all of it, so that the metrics need no merging."""
        config = self.config
        dataset = validation_set(config, self.data)
        size = min(config.data.batch_size, WHOLE_IMAGES)
        return DataLoader(dataset, batch_size=size, collate_fn=collate, **self._loader_options())

    def _loader_options(self) -> dict[str, Any]:
        workers = self.config.data.workers
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": self.trainer.strategy.root_device.type == "cuda",
            "worker_init_fn": _ignore_interrupts,
        }

    # -- training -----------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Make this step's random numbers independent of all that came before."""
        entropy = [self.config.seed, self.trainer.global_step]
        torch.manual_seed(_seed_of([*entropy, self.trainer.global_rank]))
        self.shared = torch.Generator().manual_seed(_seed_of(entropy))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch (see losses.flowclas_loss and segmentation.label_losses)."""
        features, labels = batch_features(self.model, batch)
        out_features = out_labels = None
        if "out_image" in batch:
            # As they are: they come at their own size, which the scenes' short side has no say in.
            out_features, out_labels = grid_features(self.model, batch["out_image"], batch["out_label"], resize=False)
        losses: dict[str, Tensor] = {}
        if self.config.loss.fits_flow:
            # The flow takes the features as they are: its likelihood would rather collapse them than fit them, so the
            # backbone's low-rank updates learn from the class labels alone.
            still, out_still = features.detach(), None if out_features is None else out_features.detach()
            losses = flowclas_loss(self.model, still, labels, out_still, out_labels, self.config.loss, self.shared)
        if self.config.loss.fits_classes:
            classes = batch["classes"], batch["label"], batch["size"]
            ours = label_losses(self.model, features, *classes, self.config.loss)
            losses |= {**ours, "loss": losses["loss"] + ours["loss"] if losses else ours["loss"]}
        several = self.trainer.world_size > 1
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), prog_bar=name in ("loss", "nll"), sync_dist=several)
        return losses["loss"]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine."""
        return adamw(self.model.parameters(), self.config.optimiser, self.batches(world=self.trainer.world_size))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen backbone out: it is large, and known by name."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not is_frozen(k)}

    # -- validation ---------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.metrics = PixelMetrics(streaming=True)
        self.inlier_score = (0.0, 0)
        if self.trainer.state.fn == "fit":  # weights that were chosen before hold their own
            if self.model.config.margin_weight:
                self.model.fit_margin(batch_features(self.model, batch) for batch in self._margin_batches())
            if self.model.config.energy_weight:
                batches = (part for batch in self._margin_batches() for part in size_by_size(self.model, batch))
                self.model.fit_energy((features, labels) for _, features, labels in batches)
        if self.iou is not None:
            self.iou.reset()

    def _margin_batches(self) -> Iterator[dict[str, Tensor]]:
        """Training scenes, evenly spread, with pastes that no step saw, the same each time.

        Where there are fewer frames than scenes are asked for, they come again with other pastes.
        """
        dataset = training_set(self.config, self.data)
        dataset.auxiliary = False  # the objects alone, x_out, have no part in the margin
        size, scenes = self.config.data.batch_size, self.config.trainer.margin_scenes
        passes = math.ceil(scenes / len(dataset))
        spread = np.linspace(0, passes * len(dataset) - 1, scenes).round().astype(int).tolist()
        keys = [(VALIDATION - number // len(dataset), number % len(dataset)) for number in spread]
        steps: Iterable[int] = range(0, len(keys), size)
        bar = getattr(self.trainer.progress_bar_callback, "progress", None)  # rich's, where one is shown
        for first in bar.track(steps, description="margin") if bar else steps:
            yield collate([dataset[key] for key in keys[first : first + size]])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, list[Tensor]]:
        """Collect the scores of the labelled pixels, of each image at its own resolution: (H, W), nats per dimension.

        As on the robot, no score comes of an image with padding.
        """
        scores: dict[int, Tensor] = {}
        for (height, width), places in by_size(batch["size"]):
            images = batch["image"][places, :, :height, :width].float() / 255
            features = self.model.features(images)
            if self.iou is not None:
                logits = self.model.to_image(self.model.logits(features), height, width)
                self.iou.update(logits, batch["classes"][places, :height, :width])
            score, labels = self.model.image_score(features, images), batch["label"][places, :height, :width]
            if not bool(torch.isfinite(score).all()):
                raise FlowclasError(
                    f"the scores of validation scenes are not finite at step {self.trainer.global_step}: the fit "
                    "diverged; lower optimiser.lr or raise loss.alpha"
                )
            self.metrics.update(score.cpu().numpy(), labels.cpu().numpy())
            inliers = score[labels == INLIER]
            total, count = self.inlier_score
            self.inlier_score = total + float(inliers.double().sum()), count + inliers.numel()
            scores |= dict(zip(places, score, strict=True))
        return {"scores": [scores[place] for place in sorted(scores)]}

    def on_validation_epoch_end(self) -> None:
        """Log AUPRC, FPR95, the inliers' mean score, and on the label track the mean IoU of the classes."""
        result = self.metrics.compute()
        total, count = self.inlier_score
        self.log("val/auprc", result.auprc, prog_bar=True)
        self.log("val/fpr95", result.fpr95)
        self.log("val/auroc", result.auroc)
        self.log("val/inlier_score", total / max(count, 1))
        if self.iou is not None:
            self.log("val/miou", self.iou.compute())


def is_frozen(name: str) -> bool:
    """Whether a tensor of the module's state belongs to the backbone as it came, not to its low-rank updates."""
    return name.startswith(BACKBONE) and ".lora_" not in name


def _seed_of(entropy: Sequence[int]) -> int:
    return int(np.random.SeedSequence(list(entropy)).generate_state(1)[0])


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal's group; workers must live until the main one has ended its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def grid_features(model: FlowCLAS, images: Tensor, labels: Tensor, *, resize: bool = True) -> tuple[Tensor, Tensor]:
    """Features and labels on one grid.

    Args:
        model: gives features and stride.
        images: (B, 3, H, W) uint8 RGB.
        labels: (B, H, W) uint8, 0 inlier, 1 outlier, 255 ignore.
        resize: bring the images to the model's short side first.

    Returns:
        (B, C, h, w) and (B, h, w) uint8.
    """
    features = model.features(images.float() / 255, resize=resize)
    size = model.working_size(*images.shape[-2:]) if resize else (images.shape[-2], images.shape[-1])
    return features, labels_to_grid(labels, size, (features.shape[-2], features.shape[-1]), model.backbone.stride)


def size_by_size(model: FlowCLAS, batch: dict[str, Tensor]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """The images of each size in a batch: their places in it, and their features and labels as `grid_features` has
    them: as the robot sees each image, at its own size and without padding.
    """
    device = model.backbone.mean.device
    for (height, width), places in by_size(batch["size"]):
        images, labels = batch["image"][places, :, :height, :width], batch["label"][places, :height, :width]
        yield places, *grid_features(model, images.to(device), labels.to(device))


def batch_features(model: FlowCLAS, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Features (B, C, h, w) and labels (B, h, w) of a whole batch, those of its smaller images padded: with their
    border's features, and label 255.
    """
    places, features, labels = zip(*size_by_size(model, batch), strict=True)
    if len(features) == 1:
        return features[0], labels[0]
    rows, cols = (max(part.shape[axis] for part in features) for axis in (-2, -1))
    pads = [(0, cols - part.shape[-1], 0, rows - part.shape[-2]) for part in features]
    order = torch.tensor([place for part in places for place in part]).argsort().to(features[0].device)
    one_grid = [F.pad(part, pad, mode="replicate") for part, pad in zip(features, pads, strict=True)]
    one_label = [F.pad(part, pad, value=IGNORE) for part, pad in zip(labels, pads, strict=True)]
    return torch.cat(one_grid)[order], torch.cat(one_label)[order]


class FeatureBatches:
    """Inlier features over and over, each with the mask of its true (not padded) cells: what the flow starts from."""

    def __init__(self, model: FlowCLAS, frames: Sequence[Frame], config: FitConfig) -> None:
        # Evenly spread, then shuffled: ActNorm looks at the first batch only, which must not be one place alone.
        count = min(len(frames), config.trainer.init_frames)
        spread = np.linspace(0, len(frames) - 1, count).round().astype(int)
        order = np.random.default_rng(config.seed).permutation(spread)
        self.model = model
        self.loader = DataLoader(
            InlierDataset([frames[i] for i in order]),
            # as many on several processes as on one: ActNorm starts from the first batch
            batch_size=min(config.data.batch_size * config.trainer.devices * config.trainer.nodes, WHOLE_IMAGES),
            collate_fn=collate,
            num_workers=config.data.workers,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            features, grid = batch_features(self.model, batch)
            yield features, grid != IGNORE
