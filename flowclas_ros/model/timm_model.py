"""A timm model made by its name with the weights asked for, and nothing else taken for them."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
from torch import nn

from flowclas_ros.errors import FlowclasError

if TYPE_CHECKING:
    from flowclas_ros.model.backbone import BackboneConfig


def is_plain_transformer(name: str) -> bool:
    """Whether timm builds this name as a columnar transformer (ViT, DeiT, EVA) rather than in stages."""
    try:
        entry = timm.model_entrypoint(name.split(".")[0])
    except (RuntimeError, KeyError):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise FlowclasError(f"timm has no model '{name}'; names like it: {', '.join(near) or 'none'}") from None
    return entry.__module__.rsplit(".", 1)[-1] in ("vision_transformer", "eva", "deit")


def first_line(error: Exception) -> str:
    """What it says, or what it is where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _MissingKeys(logging.Filter):
    """Reads from timm's log which tensors a file has lacked, as nothing else tells; the log itself stays quiet."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        found = re.search(r"Missing keys \((.*)\)", record.getMessage())
        self.names += found[1].split(", ") if found else []
        return record.levelno > logging.WARNING


@contextlib.contextmanager
def _missing_keys() -> Iterator[list[str]]:
    logger, reader = logging.getLogger("timm.models._builder"), _MissingKeys()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addFilter(reader)
    try:
        yield reader.names
    finally:
        logger.removeFilter(reader)
        logger.setLevel(level)


def lacking(model: nn.Module, missing: list[str]) -> list[str]:
    """Of the tensors that a file has lacked those that the model has after its unread part was cut off."""
    # as timm's extractors write names: dots as underscores, or below "model"
    used = {name.removeprefix("model.").replace(".", "_") for name in model.state_dict()}
    return [name for name in missing if name.replace(".", "_") in used and not name.endswith("num_batches_tracked")]


def create(config: BackboneConfig, is_transformer: bool) -> tuple[nn.Module, list[str]]:
    """The model, and which of its tensors the file of its weights lacks."""
    kwargs: dict[str, Any] = dict(config.kwargs)
    if is_transformer:
        kwargs |= {"num_classes": 0, "dynamic_img_size": True}
    else:
        kwargs |= {"features_only": True, "out_indices": tuple(config.layers) or (-1,)}
    if config.weights not in ("hub", "random"):
        path = Path(config.weights).expanduser()
        if path.suffix != ".safetensors":
            raise FlowclasError(f"backbone weights '{path}' are not a .safetensors file; nothing else is loaded")
        if not path.is_file():
            raise FlowclasError(f"backbone weights '{path}' do not exist; give the path of the file, or 'hub'")
        kwargs["pretrained_cfg_overlay"] = {"file": str(path)}
    try:
        with _missing_keys() as missing:
            model = timm.create_model(config.name, pretrained=config.weights != "random", **kwargs)
        return model, missing if "pretrained_cfg_overlay" in kwargs else []
    except Exception as error:  # timm and the hub raise many types; each means: this backbone is not to be had
        where = "timm's hub" if config.weights == "hub" else f"'{config.weights}'"
        reason = first_line(error)
        if isinstance(error, IndexError) and config.layers:  # "list index out of range", in timm's words
            reason = f"it does not have all of the layers {list(config.layers)}"
        raise FlowclasError(
            f"backbone '{config.name}' could not be made with weights from {where}: {reason}; "
            "give a local file as backbone weights, or check name, layers and kwargs"
        ) from error
