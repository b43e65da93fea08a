"""`flowclas distill`: a small backbone learns the feature map of a large one, and is then a local weight file.

The student's map goes through a 1x1 linear adapter, which is thrown away afterwards, to the teacher's map with every
channel brought to mean 0 and variance 1; the loss is the squared error. So the held-out loss reads as the share of
the teacher's variance that the student leaves unexplained (FitNets, arXiv 1412.6550; EfficientAD, arXiv 2303.14535).
With `outlier_weight` the student's features are also to tell outliers from inliers, by a linear map that is thrown away
too: a student too small for all that the teacher knows then keeps what the task needs.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from flowclas_ros.errors import FlowclasError
from flowclas_ros.files import require_writable
from flowclas_ros.model.backbone import FrozenBackbone
from flowclas_ros.model.device import memory_errors, resolve_device
from flowclas_ros.progress import progress_bar
from flowclas_ros.training.batches import StepBatches, collate
from flowclas_ros.training.callbacks import FitProgress, WeightEma
from flowclas_ros.training.config_file import parse_command
from flowclas_ros.training.data import FitData, Frame, MixDataset, open_data
from flowclas_ros.training.distill_config import DistillConfig
from flowclas_ros.training.exposed import ExposedDataset
from flowclas_ros.training.losses import cell_shares
from flowclas_ros.training.outliers import OutlierSource
from flowclas_ros.training.student_file import check_round_trip, write_student
from flowclas_ros.training.trainer_setup import adamw, check_processes, hardware, quiet_lightning, worker_errors


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: ``--config FILE [--KEY VALUE ...]``; the exit code."""
    try:
        config, _ = parse_command(list(sys.argv[1:] if argv is None else argv), DistillConfig)
        if config is not None:
            distill(config)
    except FlowclasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def distill(config: DistillConfig) -> Path:
    """Train the student, write its weights and their provenance; the path of the weights.

    Raises:
        FlowclasError: bad data, a backbone that is not to be had or whose weights do not load back, a full disk, too
            little memory.
        KeyboardInterrupt: SIGINT came; nothing is written.
    """
    output = Path(config.output).expanduser()
    if output.exists():
        raise FlowclasError(f"'{output}' exists: choose another output, or move it away")
    require_writable(output)
    check_processes(config.trainer)
    device = resolve_device(config.trainer.device)
    data = open_data(config.data, config.seed)
    L.seed_everything(config.seed, verbose=False)
    quiet_lightning()
    module = Distillation(config, data)
    check_round_trip(module.student)
    print(
        f"distilling {config.teacher.name} ({module.teacher.channels} channels, stride {module.teacher.stride}) into "
        f"{config.student.name} ({module.student.channels}, stride {module.student.stride}, "
        f"{_millions(module.student)} M weights) on {len(data.train)} images, held out {len(data.val)}",
        flush=True,
    )
    trainer = L.Trainer(
        **hardware(config.trainer, device),
        max_epochs=1,  # to Lightning; see fit._trainer
        max_time=timedelta(minutes=config.trainer.max_minutes) if config.trainer.max_minutes else None,
        val_check_interval=min(config.trainer.val_every * module.batches().steps_per_epoch, len(module.batches())),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=config.optimiser.clip or None,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[FitProgress(), *([WeightEma(config.optimiser.ema)] if config.optimiser.ema else [])],
    )
    try:
        with memory_errors(device, "this distillation", "use a smaller data.batch_size or data.crop"), worker_errors():
            module.prepare(device)
            trainer.fit(module)
            if module.validated_at != trainer.global_step:  # stopped, or ended, between two validations
                trainer.validate(module, verbose=False)
    except SystemExit:  # Lightning's answer to KeyboardInterrupt
        raise KeyboardInterrupt from None
    return write_student(output, module, config, data)


class Distillation(L.LightningModule):
    """Trains a student backbone and what is thrown away; keeps the student of the lowest held-out loss in ``best``."""

    def __init__(self, config: DistillConfig, data: FitData) -> None:
        super().__init__()
        self.config, self.data = config, data
        self.teacher = FrozenBackbone(config.teacher)
        self.student = FrozenBackbone(config.student)
        self.student.model.requires_grad_(True)
        # Without weights of their own and momentum None they average over all that they are shown in train mode.
        self.standardise = nn.BatchNorm2d(self.teacher.channels, affine=False, momentum=None)
        self.precondition = nn.BatchNorm2d(self.student.channels, affine=False, momentum=None)
        self.adapter = nn.Conv2d(self.student.channels, self.teacher.channels, 1)
        self.outlier_head = nn.Conv2d(self.student.channels, 1, 1)
        self.outlier_head.requires_grad_(config.outlier_weight > 0)
        self.held_out: list[Tensor] = []
        self.losses: list[dict[str, float]] = []  # held-out ones: total, imitation, outliers
        self.best: dict[str, Tensor] = {}
        self.validated_at = -1  # step

    def train(self, mode: bool = True) -> Distillation:
        """The student's layers train although a FrozenBackbone never does; the scales stay as measured.

        A student that begins with weights keeps the batch-norm statistics that they came with.
        """
        super().train(mode)
        self.student.model.train(mode)
        if self.config.student.weights != "random":
            for layer in self.student.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        self.standardise.eval()
        self.precondition.eval()
        return self

    def on_train_start(self) -> None:
        """Lightning leaves every module in the mode that it finds it in, and a FrozenBackbone is made in eval mode."""
        self.train()

    def prepare(self, device: torch.device) -> None:
        """Measure the scale of both feature maps, then start the adapter at the least-squares fit between them.

        Over evenly spread training images. From a random start the adapter alone would take thousands of steps, and
        would meanwhile pull the student about.
        """
        self.to(device).train()
        for scale in (self.standardise, self.precondition):
            scale.train()
        for student, teacher in self._pairs(device, "scales"):
            self.standardise(teacher)
            self.precondition(student)
        self.train()
        size = self.student.channels + 1
        gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        cross = torch.zeros(size, self.teacher.channels, dtype=torch.float64, device=device)
        for student, teacher in self._pairs(device, "adapter"):
            rows = self.precondition(student).movedim(1, -1).flatten(0, 2).double()
            rows = F.pad(rows, (0, 1), value=1.0)
            gram += rows.T @ rows
            cross += rows.T @ self.standardise(teacher).movedim(1, -1).flatten(0, 2).double()
        ridge = 1e-3 * gram.diagonal().mean() * torch.eye(size, dtype=torch.float64, device=device)
        weights = torch.linalg.solve(gram + ridge, cross).float()
        with torch.no_grad():
            self.adapter.weight.copy_(weights[:-1].T[..., None, None])
            self.adapter.bias.copy_(weights[-1])  # type: ignore[union-attr]

    def _pairs(self, device: torch.device, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Feature maps of the student and the teacher, without gradients, over evenly spread training images."""
        frames, dataset, size = self.data.train, self._training_set(), self.config.data.batch_size
        count = min(len(frames), self.config.trainer.init_frames)
        chosen = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int)).tolist()
        starts = range(0, len(chosen), size)
        with progress_bar(name, len(starts), "batches") as advance:
            for start in starts:
                batch = collate([dataset[(0, index)] for index in chosen[start : start + size]])
                with torch.no_grad():
                    yield self.features(batch["image"].to(device))
                advance()

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) of the student and (B, C', h, w) of the teacher, of images (B, 3, H, W) uint8 RGB."""
        x = images.float() / 255
        student = self.student.feature_map(x)
        if self.teacher.stride != self.student.stride:  # one cell of the teacher to each cell of the student
            x = self.student.padded(x, self.student.stride)  # what is no whole cell would stretch all others
            size = (student.shape[-2] * self.teacher.stride, student.shape[-1] * self.teacher.stride)
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        return student.float(), self.teacher(x).float()

    def parts(self, images: Tensor, labels: Tensor) -> Tensor:
        """(3,) the loss and its terms: total, imitation, outliers; images (B, 3, H, W) uint8 RGB, labels (B, H, W)."""
        student, teacher = self.features(images)
        with torch.autocast(images.device.type, enabled=False):  # half precision would be most of a small error
            rows = self.precondition(student)
            imitation = F.mse_loss(self.adapter(rows), self.standardise(teacher))
            size, cells = (labels.shape[-2], labels.shape[-1]), (rows.shape[-2], rows.shape[-1])
            shares, unknown = cell_shares(labels, size, cells, self.student.stride)
            known = unknown <= 0.5
            logits = self.outlier_head(rows).squeeze(1)
            # towards the share of the cell that is outlier: all or nothing would blunt an object's edge
            summed = F.binary_cross_entropy_with_logits(logits[known], shares[known], reduction="sum")
            outliers = summed / known.sum().clamp_min(1)  # of a batch in which nothing is known 0, not NaN
        return torch.stack([imitation + self.config.outlier_weight * outliers, imitation, outliers])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch."""
        parts = self.parts(batch["image"], batch["label"])
        self.log("loss", parts[0].detach(), prog_bar=True)
        return parts[0]

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.held_out = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect the held-out losses."""
        parts, count = self.parts(batch["image"], batch["label"]), len(batch["image"])  # the last may be smaller
        self.held_out.append(torch.cat([parts * count, parts.new_tensor([count])]))

    def on_validation_epoch_end(self) -> None:
        """Keep the student if it is the best so far. (An average of the weights is in their place by now.)"""
        *sums, images = torch.stack(self.held_out).sum(0).tolist()
        total, imitation, outliers = (value / images for value in sums)
        if not np.isfinite(total):
            raise FlowclasError("the held-out loss is not finite: the distillation diverged; lower optimiser.lr")
        self.log("held_out", total, prog_bar=True)
        if not self.losses or total < min(one["total"] for one in self.losses):
            self.best = {k: v.detach().cpu().clone() for k, v in self.student.model.state_dict().items()}
        self.losses.append({"total": total, "imitation": imitation, "outliers": outliers})
        self.validated_at = self.trainer.global_step

    def batches(self) -> StepBatches:
        """The run's batches."""
        config = self.config
        epochs = config.trainer.max_epochs
        return StepBatches(len(self.data.train), config.data.batch_size, epochs=epochs, seed=config.seed)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine."""
        return adamw(self.parameters(), self.config.optimiser, self.batches())

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Lightning's hook."""
        return self._loader(self._training_set(), batch_sampler=self.batches())

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Lightning's hook."""
        if self.config.data.exposed_val is not None:
            dataset: Dataset[dict[str, Any]] = ExposedDataset(self.config.data.exposed_val)
        else:
            dataset = self._mix(self.data.val, self.data.outliers_val, augment=False)
        return self._loader(dataset, batch_size=self.config.data.batch_size)

    def _training_set(self) -> MixDataset:
        return self._mix(self.data.train, self.data.outliers, augment=True)

    def _mix(self, frames: list[Frame], outliers: OutlierSource, *, augment: bool) -> MixDataset:
        config = self.config
        return MixDataset(
            frames, outliers, config.data, config.paste, seed=config.seed, augment=augment, auxiliary=False
        )

    def _loader(self, dataset: Dataset[dict[str, Any]], **options: Any) -> DataLoader[dict[str, Any]]:
        workers = self.config.data.workers
        return DataLoader(dataset, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0, **options)


def _millions(student: FrozenBackbone) -> str:
    return f"{sum(p.numel() for p in student.model.parameters()) / 1e6:.2f}"


if __name__ == "__main__":
    sys.exit(main())
