"""Which device the model runs on, asked for by name, and what is said when its memory does not suffice."""

import contextlib
from collections.abc import Iterator

import torch

from flowclas_ros.errors import DeviceMemoryError, FlowclasError

# PyTorch's own allocators on a GPU and on the CPU, the CUDA driver's, and that of cuBLAS and cuDNN.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")


def resolve_device(name: str = "auto") -> torch.device:
    """The torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``; ``auto`` takes the first GPU if there is one.

    Before a GPU is used, TF32 is switched off in the process, which PyTorch has on in convolutions: what is called fp32
    is fp32, and a threshold that was calibrated on a CPU holds.

    Raises:
        FlowclasError: the name is unknown, or that GPU is not there.
    """
    torch.backends.cudnn.allow_tf32 = False
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


@contextlib.contextmanager
def memory_errors(device: torch.device, what: str, ways: str) -> Iterator[None]:
    """Turn an allocator's failure into a DeviceMemoryError: what it was for, and the ways out."""
    try:
        yield
    except RuntimeError as error:  # of several types, some of them bare
        if not any(text in str(error) for text in _OUT_OF_MEMORY):
            raise
        torch.cuda.empty_cache()  # where there is CUDA
        raise DeviceMemoryError(f"{device} is out of memory for {what}: {ways}") from error
