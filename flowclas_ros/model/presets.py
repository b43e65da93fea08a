"""Named model configurations: the paper's two and one for CPUs and edge devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.backbone import BackboneConfig
from flowclas_ros.model.config import FlowCLASConfig
from flowclas_ros.model.flow import FlowConfig
from flowclas_ros.model.flowclas import FlowCLAS

_DINOV2_L = BackboneConfig(name="vit_large_patch14_dinov2.lvd142m")

PRESETS: dict[str, FlowCLASConfig] = {
    # arXiv 2411.19888 v1, label-free: 8 two-sided steps, subnets 3x3 / 1x1, clamp 3 tanh, P = 256.
    "flowclas_v1": FlowCLASConfig(_DINOV2_L, FlowConfig(steps=8, whitening=False), projection_dim=256),
    # WACV 2026 release: 16 one-sided steps, residual GroupNorm subnets, clamp 2 tanh, P = 128. (Its adapted backbone
    # belongs to the label track; here the same backbone stays frozen.)
    "flowclas_wacv": FlowCLASConfig(
        _DINOV2_L,
        FlowConfig(steps=16, coupling="one_sided", subnet="residual", clamp=2.0, whitening=False),
        projection_dim=128,
    ),
    # Three stages of MobileNetV2 at stride 16 (448 channels): some frames a second on two CPU cores.
    "flowclas_edge": FlowCLASConfig(
        BackboneConfig(name="mobilenetv2_100", layers=(2, 3, 4), stride=16), FlowConfig(steps=4), projection_dim=128
    ),
}


def build_preset(name: str, **backbone: Any) -> FlowCLAS:
    """A model of that preset, not fitted; keyword arguments replace fields of its ``BackboneConfig``.

    Raises:
        FlowclasError: there is no such preset, or its backbone is not to be had.
    """
    if name not in PRESETS:
        raise FlowclasError(f"there is no preset '{name}': choose from {', '.join(PRESETS)}")
    config = PRESETS[name]
    return FlowCLAS(replace(config, backbone=replace(config.backbone, **backbone)))
