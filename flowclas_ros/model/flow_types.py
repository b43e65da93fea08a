"""The flow types that a configuration can name."""

from __future__ import annotations

from collections.abc import Sequence

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.backbone import Section
from flowclas_ros.model.fastflow import FastFlow
from flowclas_ros.model.flow import FlowConfig, NormalizingFlow
from flowclas_ros.model.uflow import UFlow

FLOW_TYPES: dict[str, type[NormalizingFlow]] = {"glow": NormalizingFlow, "fastflow": FastFlow, "uflow": UFlow}


def build_flow(channels: int, config: FlowConfig, sections: Sequence[Section] = ()) -> NormalizingFlow:
    """The flow of the configured type on C channels, which came from the backbone's layers ``sections``.

    Raises:
        FlowclasError: there is no such type, or a layer has too few channels for a coupling.
    """
    if config.type not in FLOW_TYPES:
        raise FlowclasError(f"flow.type is '{config.type}'; it must be one of {', '.join(FLOW_TYPES)}")
    return FLOW_TYPES[config.type](channels, config, sections)
