"""The flow's mathematics, in float64: exact inverses, exact log-determinants, and the papers' sizes."""

import itertools

import pytest
import torch
from torch import nn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.coupling import AffineCoupling
from flowclas_ros.model.density import DiagonalGaussian
from flowclas_ros.model.flow import FlowConfig, NormalizingFlow
from flowclas_ros.model.whitening import Whitening

INVERSE_TOLERANCE = 1e-10
LOG_DET_TOLERANCE = 1e-8


def flow_off_its_start(config: FlowConfig, channels: int) -> NormalizingFlow:
    """A float64 flow whose zero-initialised layers were moved, so that every part of the mathematics acts."""
    torch.manual_seed(1)
    flow = NormalizingFlow(channels, config).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.15)
    if flow.whitening is not None:
        flow.whitening.fit([(torch.randn(4, channels, 5, 6).double() * 3 + 1, None)])
    return flow


CONFIGS = [
    FlowConfig(steps=3, coupling=coupling, subnet=subnet, clamp=2.0, whitening=whitening)
    for coupling, subnet, whitening in itertools.product(("one_sided", "two_sided"), ("plain", "residual"), (0, 1))
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.coupling}-{c.subnet}-{c.whitening}")
@pytest.mark.parametrize("channels", [6, 7])
def test_inverse_of_forward_is_the_input(config, channels):
    flow = flow_off_its_start(config, channels)
    x = torch.randn(2, channels, 4, 5).double()
    with torch.no_grad():
        z, _ = flow(x)
        assert (z - x).abs().max() > 0.1  # not the identity
        assert (flow.inverse(z) - x).abs().max() < INVERSE_TOLERANCE


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.coupling}-{c.subnet}-{c.whitening}")
def test_log_det_is_the_autograd_jacobians(config):
    flow = flow_off_its_start(config, 4)
    x = torch.randn(1, 4, 2, 3).double()
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v)[0], x).view(x.numel(), x.numel())
    _, expected = torch.linalg.slogdet(jacobian)
    _, log_det = flow(x)
    assert log_det.shape == (1, 2, 3)
    assert (log_det.sum() - expected).abs() < LOG_DET_TOLERANCE


def test_log_scale_never_exceeds_the_clamp():
    coupling = AffineCoupling(4, 4, sides="two_sided", subnet="plain", kernel=1, clamp=2.0)
    for parameter in coupling.parameters():
        nn.init.normal_(parameter, std=50.0)
    x = torch.randn(1, 4, 3, 3) * 100
    _, log_det = coupling(x)
    assert log_det.abs().max() <= 4 * 2.0 + 1e-4


# method.md, "Parameters of the v1 flow": in millions, projection head P = 256 included.
@pytest.mark.parametrize(
    ("channels", "steps", "millions"),
    [(1024, 2, 16.0), (1024, 4, 31.7), (1024, 8, 63.2), (1024, 16, 126.2)]
    + [(768, 2, 9.1), (768, 4, 17.9), (768, 8, 35.6), (768, 16, 71.0)],
)
def test_v1_flow_has_the_published_number_of_parameters(channels, steps, millions):
    with torch.device("meta"):
        parts = nn.ModuleList(
            [
                NormalizingFlow(channels, FlowConfig(steps=0, whitening=True)),
                *(
                    AffineCoupling(channels, channels // 2, sides="two_sided", subnet="plain", kernel=k, clamp=3.0)
                    for k in itertools.islice(itertools.cycle((3, 1)), steps)
                ),
                nn.Conv2d(channels, 256, 1),
                DiagonalGaussian(channels),
            ]
        )
    actnorm = 2 * channels * steps
    count = sum(p.numel() for p in parts.parameters()) + actnorm
    assert round(count / 1e6, 1) == millions


def test_flow_itself_has_the_v1_number_of_parameters():
    flow = NormalizingFlow(768, FlowConfig(steps=2, whitening=False))
    projection_and_base = 768 * 256 + 256 + 2 * 768
    assert round((sum(p.numel() for p in flow.parameters()) + projection_and_base) / 1e6, 1) == 9.1


def test_whitened_features_have_identity_covariance_and_zero_mean():
    torch.manual_seed(0)
    mixing = torch.randn(6, 6).double()
    x = torch.einsum("ij,bjhw->bihw", mixing, torch.randn(8, 6, 20, 20).double()) + 5
    whitening = Whitening(6).double()
    whitening.fit([(part, None) for part in x.split(2)], shrinkage=0.0)
    rows = whitening(x)[0].movedim(1, -1).reshape(-1, 6)
    assert rows.mean(dim=0).abs().max() < 1e-9
    assert (torch.cov(rows.T, correction=0) - torch.eye(6)).abs().max() < 1e-9


def test_whitening_alone_is_the_full_covariance_gaussian():
    torch.manual_seed(0)
    mixing = torch.randn(5, 5).double()
    x = torch.einsum("ij,bjhw->bihw", mixing, torch.randn(4, 5, 16, 16).double()) - 2
    flow = NormalizingFlow(5, FlowConfig(steps=0)).double()
    flow.whitening.fit([(x, None)], shrinkage=0.0)
    base = DiagonalGaussian(5).double()
    z, log_det = flow(x)
    rows = x.movedim(1, -1).reshape(-1, 5)
    gaussian = torch.distributions.MultivariateNormal(rows.mean(dim=0), torch.cov(rows.T, correction=0))
    expected = gaussian.log_prob(x.movedim(1, -1))
    assert torch.allclose(base.log_prob(z) + log_det, expected, atol=1e-8)


def test_whitening_counts_only_the_masked_pixels():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8).double()
    spoiled = x.clone()
    mask = torch.ones(2, 8, 8, dtype=torch.bool)
    mask[:, 3:5] = False
    spoiled[:, :, 3:5] = torch.inf
    clean, masked = Whitening(3).double(), Whitening(3).double()
    clean.fit([(x[:, :, [0, 1, 2, 5, 6, 7]], None)])
    masked.fit([(spoiled, mask)])
    assert torch.allclose(clean.weight, masked.weight) and torch.allclose(clean.mean, masked.mean)


def test_whitening_survives_a_channel_that_never_moves():
    x = torch.randn(4, 3, 8, 8).double()
    x[:, 1] = 2.0
    whitening = Whitening(3).double()
    whitening.fit([(x, None)])
    y, log_det = whitening(x)
    assert torch.isfinite(y).all() and torch.isfinite(log_det).all()
    assert (whitening.inverse(y) - x).abs().max() < INVERSE_TOLERANCE * 1e3


def test_whitening_refuses_fewer_pixels_than_channels():
    with pytest.raises(FlowclasError, match=r"needs more than 8 inlier pixels.*got 6"):
        Whitening(8).fit([(torch.randn(1, 8, 2, 3), None)])


def test_data_dependent_start_gives_a_standardised_latent():
    torch.manual_seed(0)
    flow = NormalizingFlow(6, FlowConfig(steps=3))
    batches = [(torch.randn(4, 6, 10, 10) * torch.arange(1, 7).view(1, 6, 1, 1) + 4, None) for _ in range(2)]
    flow.initialise(batches)
    z, _ = flow(batches[0][0])
    assert z.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert (z.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-2


@pytest.mark.parametrize(("whitening", "farthest"), [(False, 20), (True, 1000)])  # by its shrinkage, whitening has 300
def test_a_channel_that_the_first_batch_does_not_move_takes_the_others_scale(whitening, farthest):
    """As one of a ReLU: a later batch moves it, or nothing does before the robot."""
    torch.manual_seed(0)
    first, second = torch.randn(2, 6, 8, 8), torch.randn(2, 6, 8, 8)
    first[:, :2], second[:, 1] = 0.0, 0.0
    flow = NormalizingFlow(6, FlowConfig(steps=3, whitening=whitening))
    flow.initialise([(first, None), (second, None)])
    second[:, 1] = 3.0
    with torch.no_grad():
        usual, moved = flow(first)[0], flow(second)[0]
    assert (usual.std(dim=(0, 2, 3)) - 1).abs().lt(0.01).sum() >= 4  # the channels that it does move
    assert moved.abs().max() < farthest


def test_noise_acts_in_training_mode_only():
    flow = NormalizingFlow(6, FlowConfig(steps=1, whitening=False, noise=0.5))
    x = torch.zeros(2, 6, 30, 30)
    assert float(flow.train()(x)[0].detach().std()) == pytest.approx(0.5, rel=0.1)
    assert flow.eval()(x)[0].abs().max() == 0


def test_log_det_stays_in_full_precision_under_autocast():
    flow = flow_off_its_start(FlowConfig(steps=2), 8).float()
    x = torch.randn(2, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = flow(x)
    assert z.dtype == torch.float32 and log_det.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": -1}, "steps"),
        ({"steps": 0, "whitening": False}, "whitening"),
        ({"hidden_ratio": 0}, "hidden_ratio"),
        ({"clamp": 0.0}, "clamp"),
    ],
)
def test_impossible_flow_settings_are_refused_by_name(settings, named):
    with pytest.raises(FlowclasError, match=named):
        FlowConfig(**settings)
