"""Metrics of anomaly segmentation: pooled pixels, regions, connected components, whole images."""

from flowclas_ros.training.metrics.components import ComponentMetrics
from flowclas_ros.training.metrics.images import ImageMetrics
from flowclas_ros.training.metrics.pixels import PixelMetrics, PixelResult, require_both_classes

__all__ = [
    "ComponentMetrics",
    "ImageMetrics",
    "PixelMetrics",
    "PixelResult",
    "require_both_classes",
]
