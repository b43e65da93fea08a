"""The multi-scale flows, in float64: exact inverses and log-determinants on grids of any size, pixel by pixel."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model import (
    FLOW_TYPES,
    BackboneConfig,
    FlowCLAS,
    FlowCLASConfig,
    FlowConfig,
    NormalizingFlow,
    build_flow,
    load_checkpoint,
    save_checkpoint,
)
from flowclas_ros.model.backbone import Section
from flowclas_ros.model.coupling import AffineCoupling
from flowclas_ros.training.losses import LossConfig, flowclas_loss

INVERSE_TOLERANCE = 1e-10
LOG_DET_TOLERANCE = 1e-8
LAYERS = {
    "fine-to-coarse": [Section(2), Section(3, 2)],
    "three-scales": [Section(2), Section(2, 2), Section(3, 4)],
    "coarse-first": [Section(3, 2), Section(2)],
    "one-layer": [Section(5)],
}
CASES = list(itertools.product(("fastflow", "uflow"), LAYERS))


def flow_off_its_start(kind: str, layers: list[Section], **settings) -> NormalizingFlow:
    """A float64 flow whose zero-initialised layers were moved, so that every part of the mathematics acts."""
    torch.manual_seed(1)
    channels = sum(section.channels for section in layers)
    flow = build_flow(channels, FlowConfig(type=kind, clamp=2.0, **settings), layers).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.15)
    if flow.whitening is not None:
        flow.whitening.fit([(torch.randn(4, channels, 5, 6).double() * 3 + 1, None)])
    return flow


@pytest.mark.parametrize(("kind", "layers"), CASES)
@pytest.mark.parametrize("grid", [(4, 8), (5, 7)])  # whole blocks of every factor, and not
@pytest.mark.parametrize("coupling", ["one_sided", "two_sided"])
def test_inverse_of_forward_is_the_input(kind, layers, grid, coupling):
    flow = flow_off_its_start(kind, LAYERS[layers], steps=3, coupling=coupling)
    x = torch.randn(2, sum(s.channels for s in LAYERS[layers]), *grid).double()
    with torch.no_grad():
        z, _ = flow(x)
        assert z.shape == x.shape
        assert (z - x).abs().max() > 0.1  # not the identity
        assert (flow.inverse(z) - x).abs().max() < INVERSE_TOLERANCE


@pytest.mark.parametrize(("kind", "layers"), CASES)
@pytest.mark.parametrize("grid", [(2, 4), (3, 3)])
def test_log_det_is_the_autograd_jacobians(kind, layers, grid):
    flow = flow_off_its_start(kind, LAYERS[layers], steps=2)
    x = torch.randn(1, sum(s.channels for s in LAYERS[layers]), *grid).double()
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v)[0], x).view(x.numel(), x.numel())
    _, expected = torch.linalg.slogdet(jacobian)
    _, log_det = flow(x)
    assert log_det.shape == (1, *grid)
    assert (log_det.sum() - expected).abs() < LOG_DET_TOLERANCE


@pytest.mark.parametrize("sides", ["one_sided", "two_sided"])
def test_a_coarse_coupling_is_down_sampling_then_coupling_then_up_sampling(sides):
    torch.manual_seed(0)
    coarse = AffineCoupling(4, 6, sides=sides, subnet="plain", kernel=3, clamp=2.0, factor=2).double()
    for parameter in coarse.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 4, 6, 8).double()
    # The same on a map that is down-sampled first: its halves are those of the channels, as blocks stay together.
    plain = AffineCoupling(16, 6, sides=sides, subnet="plain", kernel=3, clamp=2.0).double()
    plain.load_state_dict({name.replace(".subnet.", "."): value for name, value in coarse.state_dict().items()})
    # Raw log-scales and shifts of the coarse form are split after up-sampling: halves of the channels there too.
    y, log_det = plain(F.pixel_unshuffle(x, 2))
    z, fine_log_det = coarse(x)
    assert torch.allclose(F.pixel_shuffle(y, 2), z, atol=1e-12)
    assert torch.allclose(F.avg_pool2d(fine_log_det, 2) * 4, log_det, atol=1e-12)


@pytest.mark.parametrize("kind", ["fastflow", "uflow"])
def test_each_pixels_log_det_is_its_own_volume(kind):
    """With kernels of 1 a block of the coarsest factor is a flow of its own: no volume leaks to its neighbours."""
    flow = flow_off_its_start(kind, LAYERS["fine-to-coarse"], steps=2, kernels=(1,), whitening=False)
    x = torch.randn(1, 5, 4, 4).double()
    _, log_det = flow(x)
    _, alone = flow(x[..., 2:4, 0:2])
    assert torch.allclose(log_det[..., 2:4, 0:2], alone, atol=1e-12)
    assert log_det.std() > 0.01


@pytest.mark.parametrize("kind", ["fastflow", "uflow"])
def test_data_dependent_start_gives_a_standardised_latent(kind):
    torch.manual_seed(0)
    flow = build_flow(7, FlowConfig(steps=3, type=kind), LAYERS["three-scales"])
    batches = [(torch.randn(4, 7, 10, 10) * torch.arange(1, 8).view(1, 7, 1, 1) + 4, None) for _ in range(2)]
    flow.initialise(batches)
    z, _ = flow(batches[0][0])
    assert z.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert (z.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-2


def test_layers_of_a_fastflow_do_not_see_each_other_and_those_of_a_uflow_do():
    for kind, sees in (("fastflow", False), ("uflow", True)):
        flow = flow_off_its_start(kind, [Section(4), Section(4, 2)], steps=2, whitening=False)
        x = torch.randn(1, 8, 4, 4).double()
        moved = x.clone()
        moved[:, 4:] += 1.0  # the coarse layer
        changed = (flow(x)[0] - flow(moved)[0]).abs().amax(dim=(0, 2, 3)) > 1e-9
        assert changed.sum() == (8 if sees else 4)


@pytest.fixture
def model_of():
    def make(kind: str) -> FlowCLAS:
        torch.manual_seed(0)
        backbone = BackboneConfig("mobilenetv2_050", "random", layers=(2, 3, 4), stride=16)
        model = FlowCLAS(FlowCLASConfig(backbone, FlowConfig(steps=2, kernels=(1,), type=kind), projection_dim=8))
        model.flow.initialise([(model.features(torch.rand(4, 3, 256, 272)), None)])
        return model

    return make


def test_a_backbones_layers_are_told_apart_with_their_grids(model_of):
    assert model_of("glow").backbone.sections == [Section(16), Section(48), Section(160, 2)]


@pytest.mark.parametrize("kind", list(FLOW_TYPES))
@pytest.mark.parametrize("contrastive", ["supcon", "none"])
def test_every_flow_type_learns_with_and_without_the_contrastive_term(model_of, kind, contrastive):
    model = model_of(kind).train()
    features = model.features(torch.rand(2, 3, 80, 80))
    labels = torch.zeros(2, 5, 5, dtype=torch.uint8)
    labels[:, :2] = 1
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(12):
        losses.append(flowclas_loss(model, features, labels, None, None, LossConfig(contrastive=contrastive))["loss"])
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("kind", list(FLOW_TYPES))
def test_a_checkpoint_of_every_flow_type_gives_the_same_scores(model_of, kind, tmp_path):
    model = model_of(kind).eval()
    for parameter in model.flow.parameters():
        nn.init.normal_(parameter, std=0.05)
    save_checkpoint(tmp_path / "m.safetensors", model, embed_backbone=True)
    loaded = load_checkpoint(tmp_path / "m.safetensors").model
    images = torch.rand(1, 3, 75, 90)  # a grid of 5 x 6, no multiple of the coarsest factor
    with torch.no_grad():
        assert loaded.config.flow.type == kind
        assert torch.equal(loaded(images), model(images))


def test_a_layer_of_one_channel_and_an_unknown_type_are_refused():
    with pytest.raises(FlowclasError, match="at least 2 channels, got 1"):
        build_flow(5, FlowConfig(steps=1, type="fastflow"), [Section(4), Section(1)])
    with pytest.raises(FlowclasError, match=r"flow\.type is 'realnvp'; it must be one of glow, fastflow, uflow"):
        build_flow(5, FlowConfig(type="realnvp"))
