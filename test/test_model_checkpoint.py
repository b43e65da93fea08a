"""The checkpoint file: bit-equal scores, nothing pickled, and a clear refusal of everything that is not right."""

import json

import pytest
import safetensors
import safetensors.torch
import torch

from flowclas_ros.model import (
    BackboneConfig,
    CheckpointError,
    FlowCLAS,
    FlowCLASConfig,
    FlowConfig,
    load_checkpoint,
    save_checkpoint,
)


def tiny_model(weights: str = "random", seed: int = 0) -> FlowCLAS:
    torch.manual_seed(seed)
    config = FlowCLASConfig(
        BackboneConfig("mobilenetv2_050", weights, layers=(2,), kwargs={"pad_type": "same"}), FlowConfig(steps=2), 8
    )
    model = FlowCLAS(config)
    model.flow.initialise([(model.features(torch.rand(4, 3, 64, 64)), None)])
    return model.eval()


def backbone_tensors(seed: int) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in tiny_model(seed=seed).backbone.model.state_dict().items()}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "site.safetensors"
    model = tiny_model()
    save_checkpoint(path, model, calibration={"a": [1.5]}, provenance={"seed": 3}, embed_backbone=True)
    return path, model


def rewrite_header(path, change):
    with safetensors.safe_open(str(path), framework="pt") as file:
        header, tensors = json.loads(file.metadata()["flowclas"]), {k: file.get_tensor(k) for k in file.keys()}
    change(header)
    safetensors.torch.save_file(tensors, str(path), metadata={"flowclas": json.dumps(header)})


def test_round_trip_gives_bit_equal_scores_and_the_header(saved):
    path, model = saved
    loaded = load_checkpoint(path)
    images = torch.rand(2, 3, 50, 70)
    assert torch.equal(loaded.model(images), model(images))
    assert loaded.model.config == model.config
    assert loaded.header["calibration"] == {"a": [1.5]} and loaded.header["provenance"] == {"seed": 3}
    assert loaded.header["name"] == "site" and len(loaded.header["sha256"]) == 64


def test_weights_published_in_half_precision_are_stored_so_and_load_bit_equal(tmp_path):
    model = tiny_model()
    full = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    sizes = []
    for half in (False, True):
        rounded = {
            name: value.half().float() if half and value.is_floating_point() else value for name, value in full.items()
        }
        model.backbone.load_state_dict(rounded)
        path = tmp_path / f"{half}.safetensors"
        save_checkpoint(path, model, embed_backbone=True)
        sizes.append(path.stat().st_size)
        images = torch.rand(1, 3, 50, 70)
        assert torch.equal(load_checkpoint(path).model(images), model(images))
    backbone_bytes = 4 * sum(value.numel() for value in full.values())
    assert sizes[0] - sizes[1] > 0.4 * backbone_bytes


def test_backbone_from_a_local_file_gives_bit_equal_scores(tmp_path):
    weights = tmp_path / "backbone.safetensors"
    safetensors.torch.save_file(backbone_tensors(0), str(weights))
    model = tiny_model(weights=str(weights), seed=1)
    save_checkpoint(tmp_path / "c.safetensors", model)
    moved = weights.rename(tmp_path / "elsewhere.safetensors")
    loaded = load_checkpoint(tmp_path / "c.safetensors", backbone_weights=moved)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded.model(images), model(images))
    with safetensors.safe_open(str(tmp_path / "c.safetensors"), framework="pt") as file:
        assert not any(name.startswith("backbone.") for name in file.keys())


def test_other_backbone_weights_are_refused(tmp_path):
    weights = tmp_path / "backbone.safetensors"
    safetensors.torch.save_file(backbone_tensors(0), str(weights))
    save_checkpoint(tmp_path / "c.safetensors", tiny_model(weights=str(weights)))
    safetensors.torch.save_file(backbone_tensors(5), str(weights))
    with pytest.raises(CheckpointError, match="fitted on other weights of backbone 'mobilenetv2_050'"):
        load_checkpoint(tmp_path / "c.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 300, 0.5, 0.99])
def test_truncated_file_is_refused(saved, keep):
    path, _ = saved
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"site.safetensors' is truncated or damaged"):
        load_checkpoint(path)


def test_newer_format_is_refused(saved):
    path, _ = saved
    rewrite_header(path, lambda header: header.update(format_version=99))
    with pytest.raises(CheckpointError, match=r"format 99.*reads up to 3: update"):
        load_checkpoint(path)


@pytest.mark.parametrize("version", [1, 2])
def test_a_format_whose_guided_filter_was_another_is_refused_and_read_without_the_filter(saved, version):
    path, _ = saved
    rewrite_header(path, lambda header: header.update(format_version=version))
    load_checkpoint(path)
    rewrite_header(path, lambda header: header["config"].update(guided_radius=5.0))
    with pytest.raises(CheckpointError, match=rf"has format {version}, of another guided filter.*fit it again"):
        load_checkpoint(path)


def test_unknown_setting_is_refused_by_name(saved):
    path, _ = saved
    rewrite_header(path, lambda header: header["config"]["flow"].update(wavelets=2))
    with pytest.raises(CheckpointError, match="does not know: wavelets"):
        load_checkpoint(path)


def test_damaged_header_is_refused(saved):
    path, _ = saved
    rewrite_header(path, lambda header: header.pop("backbone_embedded"))
    with pytest.raises(CheckpointError, match="header lacks 'backbone_embedded'"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header: header.update(format="other"), "is no FlowCLAS checkpoint"),
        (lambda header: header.update(format_version=-4), "has checkpoint format -4"),
        (lambda header: header.update(config=None), "its settings are no table"),
        (lambda header: header["config"].pop("flow"), r"cannot be read \(KeyError\('flow'\)\)"),
        (lambda header: header["config"]["flow"].update(steps="1"), r"cannot be read \(TypeError"),
    ],
)
def test_a_header_that_was_edited_wrongly_is_one_line(saved, change, words):
    path, _ = saved
    rewrite_header(path, change)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)


def test_tensors_of_another_shape_are_refused(saved):
    path, _ = saved
    rewrite_header(path, lambda header: header["config"]["flow"].update(hidden_ratio=0.25))
    with pytest.raises(CheckpointError, match="does not fit its own header"):
        load_checkpoint(path)


def test_someone_elses_safetensors_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2)}, str(path))
    with pytest.raises(CheckpointError, match="no FlowCLAS checkpoint; make one with `flowclas fit`"):
        load_checkpoint(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_random_backbone_must_be_embedded(tmp_path):
    with pytest.raises(CheckpointError, match="must be embedded"):
        save_checkpoint(tmp_path / "c.safetensors", tiny_model())
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_checkpoint_and_no_stray_file(saved, monkeypatch):
    path, model = saved
    before = path.read_bytes()

    def full_disk(*_args, **_kwargs):
        raise safetensors.SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(OSError, match=r"site.safetensors' could not be written: No space left"):
        save_checkpoint(path, model, embed_backbone=True)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["site.safetensors"]
