"""Low-rank updates of the frozen backbone while it is being fitted, by peft; merged, nothing of them remains."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.backbone import FrozenBackbone


class LowRankUpdates:
    """W + B A in every linear layer and every 1x1 convolution of a backbone, B starting at zero (Hu et al. 2021).

    Only A and B are trained, W stays; those that have no part in the features, as the blocks behind the last layer that
    is read, get none. Raises FlowclasError when peft is missing or the backbone has no such layer.
    """

    def __init__(self, backbone: FrozenBackbone, rank: int) -> None:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise FlowclasError(
                f"adapt_rank {rank} needs peft, which is not here ({error}): pip install 'flowclas_ros[label]', or set "
                "adapt_rank 0"
            ) from error
        called = _called(backbone)
        layers = [name for name, module in backbone.model.named_modules() if _is_matrix(module) and module in called]
        if not layers:
            raise FlowclasError(
                f"backbone '{backbone.config.name}' has no linear layer and no 1x1 convolution: set adapt_rank 0"
            )
        # In place: the backbone's own layers are wrapped, so that its code runs as before.
        self._wrapped: Any = get_peft_model(backbone.model, LoraConfig(r=rank, lora_alpha=rank, target_modules=layers))
        self._backbone = backbone
        backbone.adapted = True

    def merge(self) -> None:
        """Add the updates to the weights and take the wrappers away: a plain frozen backbone again."""
        self._wrapped.merge_and_unload()
        self._backbone.adapted = False


def _called(backbone: FrozenBackbone) -> set[nn.Module]:
    """The modules that are called for the features. In others an update would have no gradient, for which
    DistributedDataParallel would wait.
    """
    called: set[nn.Module] = set()
    hooks = [m.register_forward_hook(lambda module, *_: called.add(module)) for m in backbone.model.modules()]
    with torch.no_grad():
        backbone.feature_map(torch.zeros(1, 3, 64, 64, device=backbone.mean.device))
    for hook in hooks:
        hook.remove()
    return called


def _is_matrix(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)
