"""Tensors in, tensors out: backbone, flow, base density, FlowCLAS and its checkpoint."""

from flowclas_ros.model.backbone import BackboneConfig, FrozenBackbone
from flowclas_ros.model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from flowclas_ros.model.config import FlowCLASConfig
from flowclas_ros.model.device import resolve_device
from flowclas_ros.model.flow import FlowConfig, NormalizingFlow
from flowclas_ros.model.flow_types import FLOW_TYPES, build_flow
from flowclas_ros.model.flowclas import FlowCLAS
from flowclas_ros.model.presets import PRESETS, build_preset

__all__ = [
    "FLOW_TYPES",
    "PRESETS",
    "BackboneConfig",
    "Checkpoint",
    "CheckpointError",
    "FlowCLAS",
    "FlowCLASConfig",
    "FlowConfig",
    "FrozenBackbone",
    "NormalizingFlow",
    "build_flow",
    "build_preset",
    "load_checkpoint",
    "resolve_device",
    "save_checkpoint",
]
