"""The model on a GPU, told without one: fake tensors have shapes and devices, and compute nothing."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowclas_ros.model import BackboneConfig, FlowCLAS, FlowCLASConfig, FlowConfig

CONV = BackboneConfig("mobilenetv2_050", "random", layers=(2, 3, 4), stride=16, scales=(1.0, 0.5))
EVERYTHING = {
    "margin_weight": 1.0,
    "centred": True,
    "neighbourhood": 3,
    "memory_weight": 0.5,
    "memory_layers": (0, 2),
    "guided_radius": 8.0,
    "mirrored": True,
    "classes": 5,
    "energy_weight": 0.5,
    "short_side": 96,
}


class Crossings(TorchDispatchMode):
    """Notes each operation that has tensors on more than one kind of device."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, torch.Tensor)]
        if len({tensor.device.type for tensor in tensors}) > 1:
            self.noted.append(str(operation))
        return result


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this PyTorch is built without CUDA")
@pytest.mark.parametrize("flow", ["glow", "fastflow", "uflow"])
def test_a_frame_on_the_gpu_stays_there_until_it_has_its_score(flow):
    """A tensor that was left on the CPU is an error there, and one that is fetched or sent makes the CPU wait."""
    config = FlowCLASConfig(CONV, FlowConfig(1, hidden_ratio=0.1, type=flow), projection_dim=8, **EVERYTHING)
    model = FlowCLAS(config).eval()
    model.backbone._fast.append(model.backbone.model)  # whether norms fold is told by values, which there are none of
    tensors = model.state_dict()
    with FakeTensorMode(), torch.no_grad(), Crossings() as crossings:
        on_gpu = {name: torch.empty(one.shape, dtype=one.dtype, device="cuda") for name, one in tensors.items()}
        score = functional_call(model, on_gpu, torch.rand(2, 3, 100, 150, device="cuda"))
    assert score.device.type == "cuda" and score.shape == (2, 100, 150)
    assert not crossings.noted
