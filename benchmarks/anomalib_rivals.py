"""anomalib's networks and losses with its optimisers and settings (pip install 'flowclas_ros[training,rivals]').

The kit's MobileNetV2 serves all that take a backbone, at our own working size. What is a whole network of its own works
at the 256 rows that anomalib gives it, a frame a step: at ours a step of DRAEM's would take minutes. Whatever is fitted
by gradient has the same budget of processor time. What else differs is said at each.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
import torch.nn.functional as F
from rich.progress import track
from rival_base import Image, Missing, Rival, to_tensor
from torch import Tensor, nn

from flowclas_ros.detection.images import read_image
from flowclas_ros.progress import progress_bar
from flowclas_ros.training.trainer_setup import hardware

BACKBONE = "flowclas_rival_backbone"


class AnomalibRival(Rival):
    """One of anomalib's networks, its input brought to whole multiples of 32 px."""

    short_side: int | None = None  # px of the input; None: of our own working size
    normalise = True  # by mean and deviation of the backbone

    @abstractmethod
    def build(self, size: tuple[int, int]) -> nn.Module:
        """The network for inputs of size (height, width) in pixels."""

    @abstractmethod
    def train_network(self, seed: int) -> None:
        """Fit the network that was built."""

    def fit(self, seed: int) -> None:
        _anomalib()
        torch.manual_seed(seed)
        first = read_image(self.frames[0])
        self.size = self._working_size(first.shape[0], first.shape[1])
        self.model = self.build(self.size)
        self.settings = {**self.settings, "input": list(self.size)}
        self.train_network(seed)
        self.model.eval()

    def prepare(self, image: Image) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, *size)."""
        x = F.interpolate(to_tensor(image), size=self.size, mode="bilinear", antialias=True)
        if not self.normalise:
            return x
        backbone = self.config.model.backbone
        return (x - torch.tensor(backbone.mean).view(1, 3, 1, 1)) / torch.tensor(backbone.std).view(1, 3, 1, 1)

    @torch.inference_mode()
    def score(self, image: Image) -> npt.NDArray[np.float32]:
        result = self.model(self.prepare(image)).anomaly_map.float()
        result = result.view(1, 1, *result.shape[-2:])
        return F.interpolate(result, size=image.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()

    def _working_size(self, height: int, width: int) -> tuple[int, int]:
        factor = (self.short_side or self.config.model.short_side or min(height, width)) / min(height, width)
        return max(64, round(height * factor / 32) * 32), max(64, round(width * factor / 32) * 32)

    def _register_backbone(self) -> None:
        """Let timm make the kit's backbone by a name of its own, which is all that anomalib lets one choose by."""
        backbone = self.config.model.backbone

        def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
            for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
                kwargs.pop(key, None)
            overlay = {"file": backbone.weights}
            return timm.create_model(
                backbone.name, pretrained=True, pretrained_cfg_overlay=overlay, **backbone.kwargs, **kwargs
            )

        entry.__name__ = BACKBONE
        entry.__module__ = __name__
        if BACKBONE not in timm.list_models():
            timm.models.register_model(entry)


class GradientRival(AnomalibRival):
    """One that is fitted by gradient: every step a new batch of the shuffled frames, until the budget is spent.

    In our own fit's precision, and at a constant rate: anomalib's decays come at the end of hundreds of epochs.
    """

    batch = 8

    @abstractmethod
    def optimiser(self) -> torch.optim.Optimizer:
        """As anomalib sets it."""

    @abstractmethod
    def loss(self, images: Tensor) -> Tensor:
        """Of a batch (B, 3, H, W)."""

    def train_network(self, seed: int) -> None:
        steps = self.minimise(self.loss, self.optimiser(), seed, self.minutes)
        self.settings = {**self.settings, "cpu_minutes": self.minutes, "steps": steps, "batch": self.batch}

    def minimise(
        self, loss: Callable[[Tensor], Tensor], optimiser: torch.optim.Optimizer, seed: int, minutes: float
    ) -> int:
        """Take steps until they have used so many minutes of processor time, and at least two; how many it took."""
        half = hardware(self.config.trainer, torch.device("cpu"))["precision"] == "bf16-mixed"
        precision = torch.autocast("cpu", torch.bfloat16, enabled=half)
        batches, steps, start = self.batches(seed), 0, time.process_time()
        self.model.train()
        with progress_bar("fit", None, "steps") as advance:
            while steps < 2 or time.process_time() - start < 60 * minutes:
                with precision:
                    value = loss(next(batches))
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
                steps += 1
                advance()
        return steps

    def batches(self, seed: int) -> Iterator[Tensor]:
        """Batches without end, mirrored at random as ours are."""
        rng = np.random.default_rng(seed)
        order: list[Path] = []
        while True:
            while len(order) < self.batch:
                order += [self.frames[i] for i in rng.permutation(len(self.frames))]
            images = [read_image(path) for path in order[: self.batch]]
            order = order[self.batch :]
            images = [image[:, ::-1] if rng.random() < self.config.data.flip else image for image in images]
            yield torch.cat([self.prepare(np.ascontiguousarray(image)) for image in images])


class WholeNetworkRival(GradientRival):
    """A network of its own, from the pixels on; it takes RGB in 0..1."""

    short_side, batch, normalise = 256, 1, False


class FlowRival(GradientRival):
    """A normalizing flow on the kit's backbone; ``build`` sets the criterion as well."""

    criterion: nn.Module

    def optimiser(self) -> torch.optim.Optimizer:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=1e-3, weight_decay=1e-5)

    def loss(self, images: Tensor) -> Tensor:
        return self.criterion(*self.model(images))


class FastFlowRival(FlowRival):
    """anomalib's FastFlow blocks on the kit's backbone; its own constructor knows ResNets and transformers only."""

    settings = MappingProxyType({"flow_steps": 8, "hidden_ratio": 1.0})

    def build(self, size: tuple[int, int]) -> nn.Module:
        from anomalib.models.image.fastflow.anomaly_map import AnomalyMapGenerator
        from anomalib.models.image.fastflow.loss import FastflowLoss
        from anomalib.models.image.fastflow.torch_model import FastflowModel, create_fast_flow_block

        self._register_backbone()
        layers = self.config.model.backbone.layers
        model = FastflowModel.__new__(FastflowModel)
        nn.Module.__init__(model)
        model.input_size = size
        model.feature_extractor = timm.create_model(BACKBONE, features_only=True, out_indices=layers)
        model.feature_extractor.requires_grad_(False)
        info = model.feature_extractor.feature_info
        shapes = [[c, size[0] // s, size[1] // s] for c, s in zip(info.channels(), info.reduction(), strict=True)]
        model.norms = nn.ModuleList(nn.LayerNorm(shape, elementwise_affine=True) for shape in shapes)
        model.fast_flow_blocks = nn.ModuleList(
            create_fast_flow_block(shape, conv3x3_only=False, hidden_ratio=1.0, flow_steps=8) for shape in shapes
        )
        model.anomaly_map_generator = AnomalyMapGenerator(input_size=size)
        self.criterion = FastflowLoss()
        return model


class UFlowRival(FlowRival):
    """anomalib's U-Flow on the kit's backbone, by the class that it uses for ResNets."""

    settings = MappingProxyType({"flow_steps": 4})

    def build(self, size: tuple[int, int]) -> nn.Module:
        from anomalib.models.image.uflow.anomaly_map import AnomalyMapGenerator
        from anomalib.models.image.uflow.feature_extraction import LayerNormFeatureExtractor
        from anomalib.models.image.uflow.loss import UFlowLoss
        from anomalib.models.image.uflow.torch_model import UflowModel

        self._register_backbone()
        model = UflowModel.__new__(UflowModel)
        nn.Module.__init__(model)
        model.input_size, model.affine_clamp = size, 2.0
        model.affine_subnet_channels_ratio, model.permute_soft = 1.0, False
        model.feature_extractor = LayerNormFeatureExtractor(BACKBONE, size, layers=self.config.model.backbone.layers)
        model.flow = model.build_flow(4)
        model.anomaly_map_generator = AnomalyMapGenerator(size)
        self.criterion = UFlowLoss()
        return model


class PatchCoreRival(AnomalibRival):
    """anomalib's PatchCore on the kit's backbone; frames and coreset bounded, as its search is quadratic."""

    settings = MappingProxyType({"frames": 40, "coreset_ratio": 0.02, "neighbours": 9})

    def build(self, size: tuple[int, int]) -> nn.Module:
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        self._register_backbone()
        # Without our finest layer: PatchCore's grid is its first layer's, and at stride 8 search and memory would be
        # four times as large. Fine to coarse, which is the order that timm answers in, whatever it is asked for.
        layers = self.config.model.backbone.layers[1:]
        return PatchcoreModel(layers=layers, backbone=BACKBONE, num_neighbors=9)

    def train_network(self, seed: int) -> None:
        self.model.train()
        for path in track(self.spread(3 if self.quick else self.settings["frames"]), "features"):
            self.model(self.prepare(read_image(path)))
        self.model.subsample_embedding(self.settings["coreset_ratio"])


class DraemRival(WholeNetworkRival):
    """anomalib's DRAEM. Our pseudo-outliers are its anomaly source, where it would download textures."""

    def build(self, size: tuple[int, int]) -> nn.Module:
        from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
        from anomalib.models.image.draem.loss import DraemLoss
        from anomalib.models.image.draem.torch_model import DraemModel

        source = self.config.data.outliers.cutouts
        self.augmenter = PerlinAnomalyGenerator(anomaly_source_path=source, blend_factor=(0.1, 1.0))
        self.criterion = DraemLoss()
        return DraemModel(sspcab=False)

    def optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=1e-4)

    def loss(self, images: Tensor) -> Tensor:
        augmented, mask = self.augmenter(images)
        reconstruction, prediction = self.model(augmented)
        return self.criterion(images, reconstruction, mask, prediction)


def _anomalib() -> None:
    try:
        import anomalib  # noqa: F401
    except ImportError as error:
        raise Missing(
            f"anomalib is not installed ({error.name}): pip install 'flowclas_ros[training,rivals]'"
        ) from error
