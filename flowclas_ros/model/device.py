"""Which device the model runs on, asked for by name."""

import torch

from flowclas_ros.errors import FlowclasError


def resolve_device(name: str = "auto") -> torch.device:
    """The torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``; ``auto`` takes the first GPU if there is one.

    Raises:
        FlowclasError: the name is unknown, or that GPU is not there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise FlowclasError(f"device '{name}' is unknown: use auto, cpu, cuda or cuda:<n>")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise FlowclasError(f"device '{name}': PyTorch sees no CUDA GPU here; use device 'cpu' or 'auto'")
    number = int(index or 0)
    if number >= torch.cuda.device_count():
        raise FlowclasError(f"device '{name}': this machine has {torch.cuda.device_count()} GPU(s), numbered from 0")
    return torch.device("cuda", number)
