"""anomalib's EfficientAD with a teacher distilled here, since the published one cannot be reached.

EfficientAD (Batzner et al., arXiv 2303.14535) compares a student with a patch description network that was distilled
from a WideResNet-101 on ImageNet, and keeps the student from imitating it on other photos of ImageNet. Here the kit's
MobileNetV2, pretrained on ImageNet, is distilled on the training frames and on the pseudo-outliers' cut-outs, which on
a grey ground are also the photos of the penalty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from anomalib_rivals import WholeNetworkRival
from rival_base import to_tensor
from torch import Tensor, nn

from flowclas_ros.detection.images import read_image
from flowclas_ros.model.backbone import FrozenBackbone
from flowclas_ros.training.data import list_frames
from flowclas_ros.training.outliers import open_outliers
from flowclas_ros.training.pseudo_outliers import PasteConfig, draw_count, paste

STRIDE, BORDER = 4, 4  # pixels of a cell of the patch description network; cells that it lacks at each side
# Of the gradient steps' budget; the teacher stands for weights that the other rivals are given.
TEACHER_SHARE = 0.5


class EfficientAdRival(WholeNetworkRival):
    """anomalib's small EfficientAD; losses, normalisation and maps are its own."""

    def build(self, size: tuple[int, int]) -> nn.Module:
        from anomalib.models import EfficientAd

        backbone = self.config.model.backbone
        # Strides 8 and 16 as published; stride 32 sees far beyond the 33 px of a patch description network.
        self.source = FrozenBackbone(replace(backbone, layers=backbone.layers[:2], stride=8))
        self.objects = open_outliers(self.config.data.outliers)
        self.anomalib = EfficientAd(teacher_out_channels=self.source.channels)
        return self.anomalib.model

    def train_network(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        held_out = [frame.path for frame in list_frames(self.config.data.val, self.config.data)]
        self.held_out = held_out[:2] if self.quick else held_out
        self._distil_teacher(seed)
        statistics = self.anomalib.teacher_channel_mean_std(self._labelled(self.frames))
        self.model.mean_std.update(statistics)
        super().train_network(seed)
        self.model.eval()
        self.model.quantiles.update(self.anomalib.map_norm_quantiles(self._labelled(self.held_out)))

    def _distil_teacher(self, seed: int) -> None:
        """Teach it the backbone's map, every channel brought to mean 0 and variance 1."""
        teacher = self.model.teacher
        scale = nn.BatchNorm2d(self.source.channels, affine=False, momentum=None)  # averages over all it is shown
        for path in self.spread(40):
            scale(self.source(torch.cat([self.prepare(read_image(path)), self._photo()])))
        scale.eval()

        def loss(frames: Tensor) -> Tensor:
            images = torch.cat([frames, self._photo()])
            with torch.no_grad():
                cells = [side // STRIDE for side in self.size]
                target = F.interpolate(scale(self.source(images)), size=cells, mode="bilinear")
            return F.mse_loss(teacher(images), target[..., BORDER:-BORDER, BORDER:-BORDER])

        optimiser = torch.optim.Adam(teacher.parameters(), lr=1e-3, weight_decay=1e-5)
        steps = self.minimise(loss, optimiser, seed, TEACHER_SHARE * self.minutes)
        with torch.inference_mode():
            unexplained = [float(loss(self.prepare(read_image(path)))) for path in self.held_out]
        self.settings = {
            "teacher": f"distilled here from {self.source.config.name}, strides 8 and 16, not the published one",
            "teacher_cpu_minutes": TEACHER_SHARE * self.minutes,
            "teacher_steps": steps,
            "teacher_variance_unexplained": round(float(np.mean(unexplained)), 3),
            "penalty_images": "cut-outs on a grey ground",
            **self.settings,
        }

    def optimiser(self) -> torch.optim.Optimizer:
        trained = [*self.model.student.parameters(), *self.model.ae.parameters()]
        return torch.optim.Adam(trained, lr=1e-4, weight_decay=1e-5)

    def loss(self, images: Tensor) -> Tensor:
        return sum(self.model(images, self._photo()))

    def _photo(self) -> Tensor:
        """(1, 3, *size): cut-outs on a grey ground, in ImageNet's stead."""
        config = PasteConfig(max_objects=8, max_size=0.8, exposure=0.0)
        ground = np.full((*self.size, 3), self.rng.integers(64, 192), np.uint8)
        drawn = self.rng.integers(len(self.objects), size=draw_count(config, self.rng))
        return to_tensor(paste(ground, [self.objects.cutout(int(i)) for i in drawn], config, self.rng)[0])

    def _labelled(self, paths: Sequence[Path]) -> Iterator[SimpleNamespace]:
        """Normal frames in anomalib's form of a batch."""
        for path in paths:
            yield SimpleNamespace(image=self.prepare(read_image(path)), gt_label=torch.zeros(1))
