"""One checkpoint file: safetensors with a JSON header, nothing pickled, the backbone embedded if asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from flowclas_ros.errors import FlowclasError
from flowclas_ros.files import replacing
from flowclas_ros.model.backbone import BackboneConfig
from flowclas_ros.model.config import FlowCLASConfig
from flowclas_ros.model.flow import FlowConfig
from flowclas_ros.model.flowclas import FlowCLAS

FORMAT = "flowclas"
FORMAT_VERSION = 3  # since 2 the guided filter goes by colour, since 3 by colours without the camera's noise
_HEADER_KEY = "flowclas"
_BACKBONE = "backbone."

T = TypeVar("T")


class CheckpointError(FlowclasError):
    """A checkpoint that cannot be read, is of another format, or does not fit its backbone."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with its header.

    Attributes:
        model: in eval mode, on the asked-for device.
        header: format, format_version, name, config, backbone_sha256, backbone_embedded, calibration (dict or None),
            provenance (dict), track (label-free or label), and sha256 of the file.
    """

    model: FlowCLAS
    header: dict[str, Any]


def save_checkpoint(
    path: str | Path,
    model: FlowCLAS,
    *,
    calibration: dict[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    embed_backbone: bool = False,
) -> None:
    """Write the model to one file, through a temporary file that is renamed when whole.

    Raises:
        CheckpointError: the backbone has random weights and is not embedded, so nobody could load it again.
        OSError: the file cannot be written; nothing half-written stays.
    """
    if model.config.backbone.weights == "random" and not embed_backbone:
        raise CheckpointError(f"'{path}': a backbone with random weights must be embedded (embed_backbone=True)")
    path = Path(path)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": path.stem,
        "track": model.config.track,
        "config": asdict(model.config),
        "backbone_sha256": model.backbone.content_sha256(),
        "backbone_embedded": embed_backbone,
        "calibration": calibration,
        "provenance": dict(provenance or {}),
    }
    tensors = {
        name: _stored(name, value.detach().cpu().contiguous())
        for name, value in model.state_dict().items()
        if embed_backbone or not name.startswith(_BACKBONE)
    }
    try:
        with replacing(path) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata={_HEADER_KEY: json.dumps(header)})
            temporary.chmod(0o644)
    except safetensors.SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(f"'{path}' could not be written: {error}") from error


def _stored(name: str, value: Tensor) -> Tensor:
    """A backbone's tensor in half precision where that loses nothing, as with weights published so: half the file."""
    if name.startswith(_BACKBONE) and value.dtype == torch.float32 and torch.equal(value.half().float(), value):
        return value.half()
    return value


def load_checkpoint(
    path: str | Path, *, device: str | torch.device = "cpu", backbone_weights: str | Path | None = None
) -> Checkpoint:
    """Read a checkpoint, with its backbone from the file itself, from ``backbone_weights`` or from timm's hub.

    Args:
        path: the ``.safetensors`` file.
        device: where the model goes.
        backbone_weights: local ``.safetensors`` of the backbone, when it is not embedded.

    Raises:
        CheckpointError: the file is missing, truncated, no FlowCLAS checkpoint, of a newer format, or the backbone's
            weights are not those it was fitted with.
        FlowclasError: the backbone is not to be had.
    """
    path = Path(path)
    header, tensors = _read(path)
    config = _config_from(header["config"], path)
    if header["backbone_embedded"]:
        config = replace(config, backbone=replace(config.backbone, weights="random"))
    elif backbone_weights is not None:
        config = replace(config, backbone=replace(config.backbone, weights=str(backbone_weights)))
    model = FlowCLAS(config)
    try:
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # a tensor of another shape
        raise CheckpointError(f"'{path}' does not fit its own header: {str(error).splitlines()[-1].strip()}") from error
    missing = [name for name in missing if header["backbone_embedded"] or not name.startswith(_BACKBONE)]
    if missing or unexpected:
        raise CheckpointError(f"'{path}' does not fit its own header: missing {missing[:3]}, unknown {unexpected[:3]}")
    if model.backbone.content_sha256() != header["backbone_sha256"]:
        raise CheckpointError(
            f"'{path}' was fitted on other weights of backbone '{config.backbone.name}' than those from "
            f"'{config.backbone.weights}'; give the ones it was fitted with as backbone weights"
        )
    header["sha256"] = _sha256(path)
    header["track"] = config.track  # older files do not say; those that do say what their configuration says
    # The configuration as it was saved: where the weights came from this time does not belong to the model.
    model.config = _config_from(header["config"], path)
    return Checkpoint(model.to(device).eval(), header)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist; give the path of a .safetensors file")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if _HEADER_KEY not in metadata:
                raise CheckpointError(f"'{path}' is no FlowCLAS checkpoint; make one with `flowclas fit`")
            header = json.loads(metadata[_HEADER_KEY])
            _check_version(header, path)
            return header, {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"checkpoint '{path}' is truncated or damaged ({error}); copy it again") from error


def _check_version(header: dict[str, Any], path: Path) -> None:
    if not isinstance(header, dict) or header.get("format", FORMAT) != FORMAT:
        raise CheckpointError(f"'{path}' is no FlowCLAS checkpoint; make one with `flowclas fit`")
    version = header.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"'{path}' has checkpoint format {version}; this flowclas_ros reads up to {FORMAT_VERSION}: update it"
        )
    for key in ("name", "config", "backbone_sha256", "backbone_embedded", "calibration", "provenance"):
        if key not in header:
            raise CheckpointError(f"'{path}' is damaged: its header lacks '{key}'; copy it again")
    if not isinstance(header["config"], dict):
        raise CheckpointError(f"'{path}' is damaged: its settings are no table; copy it again")
    if version < FORMAT_VERSION and header["config"].get("guided_radius"):
        raise CheckpointError(
            f"'{path}' has format {version}, of another guided filter: its thresholds do not hold for that of format "
            f"{FORMAT_VERSION}. Validate and calibrate its run anew (`flowclas fit --resume`), or fit it again"
        )


def _config_from(data: dict[str, Any], path: Path) -> FlowCLASConfig:
    try:
        parts = {
            "backbone": _build(BackboneConfig, data["backbone"], path),
            "flow": _build(FlowConfig, data["flow"], path),
        }
        return _build(FlowCLASConfig, {**data, **parts}, path)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"'{path}' is damaged: its settings cannot be read ({error!r}); copy it again") from error


def _build(kind: type[T], values: dict[str, Any], path: Path) -> T:
    """A dataclass from a JSON object; JSON's lists become the tuples that frozen dataclasses hold."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise CheckpointError(f"'{path}' has settings that this flowclas_ros does not know: {', '.join(unknown)}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
