"""The memory of normal cells: what it remembers, how it measures, and its part in score and checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fit_support import in_this_process, write_tiny_kit

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model import BackboneConfig, FlowCLAS, FlowCLASConfig, FlowConfig, load_checkpoint, memory
from flowclas_ros.model.backbone import Section
from flowclas_ros.model.memory import NormalMemory

SECTIONS = [Section(2), Section(3), Section(1)]


@pytest.fixture(autouse=True)
def few_cells(monkeypatch):
    monkeypatch.setattr(memory, "CELLS", 40)


def batches() -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(2, 6, 8, 9, generator=generator) * 3, None) for _ in range(4)]


def remembered(layers: tuple[int, ...] = (0, 2), seed: int = 0) -> NormalMemory:
    module = NormalMemory(SECTIONS, layers)
    module.fit(batches(), 4, torch.Generator().manual_seed(seed))
    return module


def test_the_distance_is_that_of_the_mean_around_to_the_nearest_remembered_cell():
    module, features = remembered(), torch.randn(1, 6, 8, 9)
    chosen = features[0, [0, 1, 5]].double().numpy()
    expected = np.empty((8, 9))
    for y in range(8):
        for x in range(9):
            around = chosen[:, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].mean(axis=(1, 2))
            apart = around / module.scale.numpy() - module.cells.numpy()
            expected[y, x] = np.sqrt((apart**2).sum(axis=1)).min()
    np.testing.assert_allclose(module.distance(features)[0], expected, rtol=1e-4, atol=1e-4)


def test_chunks_of_cells_change_nothing(monkeypatch):
    module, features = remembered(), torch.randn(2, 6, 8, 9)
    whole = module.distance(features)
    monkeypatch.setattr(memory, "CHUNK", 7)
    torch.testing.assert_close(module.distance(features), whole)


def test_what_is_remembered_is_of_every_batch_of_unit_deviation_and_at_no_distance():
    module = remembered()
    torch.testing.assert_close(module.cells.float().std(dim=0), torch.ones(3), rtol=1e-3, atol=1e-3)
    surroundings = [module.surroundings(features).flatten(0, 2) / module.scale for features, _ in batches()]
    places = [torch.cdist(rows, module.cells.float()).amin(dim=0) < 1e-2 for rows in surroundings]
    assert [int(place.sum()) for place in places] == [10, 10, 10, 10]


def test_the_same_seed_remembers_the_same_cells_and_another_others():
    assert torch.equal(remembered().cells, remembered().cells)
    assert not torch.equal(remembered().cells, remembered(seed=1).cells)


def test_padding_is_not_remembered():
    features, mask = torch.randn(1, 6, 20, 20), torch.zeros(1, 20, 20)
    features[..., 10:] = 1e3
    mask[..., :8] = 1  # the means around reach two cells further
    module = NormalMemory(SECTIONS, (1,))
    module.fit([(features, mask)], 1, torch.Generator())
    assert float(module.scale.max()) < 10


def test_a_short_batch_is_made_up_for_by_the_others():
    short = [*batches()[:3], (torch.randn(1, 6, 2, 2), None)]
    module = NormalMemory(SECTIONS, (0, 2))
    module.fit(short, 4, torch.Generator().manual_seed(0))
    surroundings = [module.surroundings(features).flatten(0, 2) / module.scale for features, _ in short]
    places = [torch.cdist(rows, module.cells.float()).amin(dim=0) < 1e-2 for rows in surroundings]
    counts = [int(place.sum()) for place in places]
    assert sum(counts) == 40 and counts[3] == 4 and min(counts[:3]) >= 11


@pytest.mark.parametrize("value", [0.3, -40.0, 0.0])
def test_a_channel_that_never_moves_tells_nothing_and_spoils_nothing(value):
    constant = [(features.clone(), None) for features, _ in batches()]
    for features, _ in constant:
        features[:, 1] = value
    module, without = NormalMemory(SECTIONS, (0,)), NormalMemory([Section(1)], (0,))
    module.fit(constant, 4, torch.Generator().manual_seed(0))
    without.fit([(features[:, :1], None) for features, _ in constant], 4, torch.Generator().manual_seed(0))
    features = 3 * constant[0][0]
    features[:, 1] = value
    torch.testing.assert_close(module.distance(features), without.distance(features[:, :1]), rtol=0, atol=0.1)


def test_a_channel_that_moves_for_the_first_time_is_of_the_others_scale():
    """As one of a ReLU that no remembered frame excites."""
    still = [(features.clone(), None) for features, _ in batches()]
    for features, _ in still:
        features[:, 1] = 0.0
    module = NormalMemory(SECTIONS, (0,))
    module.fit(still, 4, torch.Generator().manual_seed(0))
    moved = still[0][0].clone()
    moved[:, 1] = moved[:, 0].std()
    assert module.distance(moved).max() < 10


def test_too_few_cells_are_refused_and_layers_that_are_not_there():
    module = NormalMemory(SECTIONS, (0,))
    with pytest.raises(FlowclasError, match=r"takes 40, these images gave 9; give more.*memory_weight 0"):
        module.fit([(torch.rand(1, 6, 3, 3), None)], 1, torch.Generator())
    with pytest.raises(FlowclasError, match="memory_layers names layer 3; the features have 0 to 2"):
        NormalMemory(SECTIONS, (1, 3))
    with pytest.raises(FlowclasError, match="memory_layers is empty"):
        NormalMemory(SECTIONS, ())


def test_its_part_in_the_score_is_the_weighted_asinh_of_the_distance_in_spreads():
    backbone = BackboneConfig("mobilenetv2_100", "random", layers=(2, 3), stride=16)
    config = FlowCLASConfig(backbone, FlowConfig(1, hidden_ratio=0.1), 8, margin_weight=1.0)
    model = FlowCLAS(replace(config, memory_weight=1.5, memory_layers=(1,))).eval()
    torch.manual_seed(0)
    features = model.features(torch.rand(3, 3, 160, 160))
    labels = torch.zeros(3, 10, 10, dtype=torch.uint8)
    labels[:, :3], features[:, :60, :3] = 1, features[:, :60, :3] + 3 * features.std()
    model.flow.initialise([(features, labels == 0)])
    model.memory.fit([(features[:1], None)], 1, torch.Generator().manual_seed(0))
    model.fit_margin([(features, labels)])
    plain = FlowCLAS(config).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("memory.")})
    with torch.no_grad():
        distance = model.memory.distance(features)
        centre = distance[labels == 0].median()
        spread = 2 * (distance[labels == 0] - centre).abs().median()
        part = (model.grid_score(features) - plain.grid_score(features)) / model.fusion.spread
    torch.testing.assert_close(part, 1.5 * torch.asinh((distance - centre) / spread), rtol=1e-3, atol=1e-3)


def test_a_fit_with_a_memory_stores_it_and_scores_the_same_again(tmp_path):
    write_tiny_kit(tmp_path)
    switches = ["--model.margin_weight", "1", "--model.memory_weight", "2", "--model.memory_layers", "[0]"]
    fit = ["fit", "--config", str(tmp_path / "fit.yaml"), *switches, "--output", str(tmp_path / "run")]
    in_this_process(fit, tmp_path)
    model = load_checkpoint(tmp_path / "run" / "model.safetensors").model
    again = load_checkpoint(tmp_path / "run" / "model.safetensors").model
    assert float(model.memory.cells.abs().sum()) > 0
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(model(image), again(image))
        without = model.fusion(model.nll(f := model.features(image)), model.project(model.latent(f)[0]), f)
        assert not torch.allclose(model.grid_score(f), without)
