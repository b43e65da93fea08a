"""A distilled student's file, in timm's own key names, so that it loads as any local weight file does."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import timm
from torch import Tensor

from flowclas_ros.detection.images import write_json
from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.backbone import BackboneConfig, FrozenBackbone
from flowclas_ros.training.calibrate import describe, software
from flowclas_ros.training.callbacks import whole_file
from flowclas_ros.training.data import FitData
from flowclas_ros.training.distill_config import DistillConfig

if TYPE_CHECKING:
    from flowclas_ros.training.distill import Distillation


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


def write_student(output: Path, module: Distillation, config: DistillConfig, data: FitData) -> Path:
    """Weights and sidecar of the best student, rounded to the file's numbers; its path."""
    student = module.student.cpu()
    state = module.best
    if config.dtype == "fp16":
        state = {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
    student.model.load_state_dict(state)
    student.requires_grad_(False)
    student.train()  # which for a FrozenBackbone means eval
    tensors = timm_state(student)
    if config.dtype == "fp16":
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    chosen = min(module.losses, key=lambda one: one["total"])
    about = {
        "backbone": _plain(replace(config.student, weights=str(output))),
        "held_out_loss": chosen["imitation"],
        "held_out_losses": module.losses,
        "teacher_sha256": module.teacher.content_sha256(),
        "student_sha256": student.content_sha256(),
        "config": _plain(config),
        "data": {"train": describe(data.train), "val": describe(data.val), "outliers": len(data.outliers)},
        **software(),
    }
    with whole_file(output) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"flowclas_distill": json.dumps(about)})
    write_json(output.with_suffix(".json"), about)
    print(
        f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB): {1 - chosen['imitation']:.1%} of the teacher's "
        "variance on held-out images; to fit on it, use as model.backbone:\n  "
        + json.dumps({k: v for k, v in about["backbone"].items() if v not in (None, [], {})})
    )
    return output


def _plain(config: DistillConfig | BackboneConfig) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain
