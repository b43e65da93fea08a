"""A distilled student in timm's own key names, so that it loads as any local weight file does."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import timm
from torch import Tensor

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.backbone import FrozenBackbone


def timm_state(student: FrozenBackbone) -> dict[str, Tensor]:
    """The student's tensors under the names that timm's whole model has, which is what it loads from a file.

    Raises FlowclasError where a tensor has no counterpart there.
    """
    whole = timm.create_model(student.config.name, pretrained=False, **student.config.kwargs).state_dict()
    # timm's feature extractors join the first levels of a name with an underscore: layers.0.x becomes layers_0.x
    by_flat = {name.replace(".", "_"): name for name in whole}
    named = {}
    for name, value in student.model.state_dict().items():
        target = name if name in whole else by_flat.get(name.replace(".", "_"))
        if target is None:
            raise FlowclasError(
                f"student '{student.config.name}' cannot be stored: timm's whole model has no tensor '{name}'; "
                "choose another student"
            )
        named[target] = value.detach().cpu().contiguous()
    return named


def check_round_trip(student: FrozenBackbone) -> None:
    """Raise FlowclasError unless the student's weights, once in a file, load back bit for bit: before, not after."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.safetensors"
        safetensors.torch.save_file(timm_state(student), path)
        again = FrozenBackbone(replace(student.config, weights=str(path)))
    if again.content_sha256() != student.content_sha256():
        raise FlowclasError(
            f"student '{student.config.name}' does not load back from a file as it was stored; choose another student"
        )
