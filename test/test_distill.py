"""A small backbone learns a large one's features, and what is written is an ordinary weight file."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fit_support import write_discs, write_noise
from safetensors.torch import load_file

from flowclas_ros.cli import main
from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.backbone import BackboneConfig, FrozenBackbone
from flowclas_ros.training.config_file import load_config
from flowclas_ros.training.data import open_data
from flowclas_ros.training.distill import Distillation, distill
from flowclas_ros.training.distill_config import DistillConfig
from flowclas_ros.training.student_file import check_round_trip

YAML = """
teacher: {name: lcnet_050, weights: random, layers: [2], stride: 8}
student: {name: mobilenetv2_035, weights: random, layers: [1], stride: 8}
data: {train: [FOLDER/images], scene_block: 4, batch_size: 4}
optimiser: {lr: 5e-3, warmup_epochs: 0.5}
trainer: {max_epochs: 6, val_every: 3, device: cpu}
output: FOLDER/student.safetensors
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images of coloured blobs, cut-outs of discs, and a configuration."""
    folder = tmp_path_factory.mktemp("distill")
    rng = np.random.default_rng(0)
    write_noise(folder / "images", 20, rng)
    write_discs(folder / "cut", rng)
    (folder / "distill.yaml").write_text(YAML.replace("FOLDER", str(folder)))
    return folder


def configured(folder: Path, *overrides: str) -> DistillConfig:
    torch.set_num_threads(1)
    return load_config(folder / "distill.yaml", overrides, DistillConfig)


@pytest.fixture(scope="module")
def distilled(folder: Path) -> dict:
    """The sidecar of a distillation with pasted objects."""
    config = configured(
        folder, "--data.outliers.cutouts", str(folder / "cut"), "--output", str(folder / "with.safetensors")
    )
    return json.loads(distill(config).with_suffix(".json").read_text())


def test_student_learns_what_the_teacher_sees(distilled: dict) -> None:
    # The target has variance 1: a loss of 1 is what its mean alone would give.
    assert distilled["held_out_loss"] < 0.6
    assert distilled["held_out_loss"] == min(one["imitation"] for one in distilled["held_out_losses"])
    assert len(distilled["held_out_losses"]) == 2


def test_a_student_that_is_told_outliers_has_features_that_tell_them(distilled: dict, folder: Path) -> None:
    overrides = ["--data.outliers.cutouts", str(folder / "cut"), "--outlier_weight", "10", "--trainer.max_epochs", "12"]
    path = distill(configured(folder, *overrides, "--output", str(folder / "told.safetensors")))
    told = json.loads(path.with_suffix(".json").read_text())["held_out_losses"]
    assert told[-1]["outliers"] < 0.8 * distilled["held_out_losses"][-1]["outliers"]


def test_batch_norm_of_the_student_follows_the_images(distilled: dict) -> None:
    tracked = [v for k, v in load_file(distilled["backbone"]["weights"]).items() if k.endswith("num_batches_tracked")]
    assert tracked and all(int(count) >= 12 for count in tracked)  # steps of the first three epochs, chosen or later


def test_file_is_a_backbone_of_its_own_and_gives_the_trained_features(distilled: dict, folder: Path) -> None:
    backbone = BackboneConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in distilled["backbone"].items()})
    assert backbone.weights == str(folder / "with.safetensors")
    one, two = FrozenBackbone(backbone), FrozenBackbone(backbone)
    # The hash is over the weights that were trained, taken before they were written.
    assert one.content_sha256() == distilled["student_sha256"]
    untrained = FrozenBackbone(replace(backbone, weights="random"))
    image = torch.rand(1, 3, 64, 96)
    assert torch.equal(one(image), two(image))
    assert not torch.allclose(one(image), untrained(image))


def test_half_precision_file_is_half_as_large_and_loads_as_rounded(folder: Path) -> None:
    output = folder / "half.safetensors"
    config = configured(folder, "--dtype", "fp16", "--trainer.max_epochs", "1", "--output", str(output))
    sidecar = json.loads(distill(config).with_suffix(".json").read_text())
    assert {v.dtype for v in load_file(output).values()} == {torch.float16, torch.int64}
    assert FrozenBackbone(replace(config.student, weights=str(output))).content_sha256() == sidecar["student_sha256"]


@pytest.mark.parametrize(("name", "layers"), [("mobilenetv3_small_050", (2,)), ("resnet10t", (1,))])
def test_students_of_other_families_load_back_bit_for_bit(name: str, layers: tuple[int, ...]) -> None:
    check_round_trip(FrozenBackbone(BackboneConfig(name, "random", layers=layers)))


def test_teacher_of_another_stride_is_brought_to_the_students_cells(folder: Path) -> None:
    overrides = ["--teacher", "{name: vit_tiny_patch16_224, weights: random, layers: [0], stride: null}"]
    output = folder / "vit.safetensors"
    path = distill(configured(folder, *overrides, "--trainer.max_epochs", "1", "--output", str(output)))
    assert json.loads(path.with_suffix(".json").read_text())["held_out_loss"] < 2


@pytest.mark.parametrize("size", [(64, 96), (61, 92)])  # in whole cells of 8 pixels, and not
def test_teacher_sees_in_each_cell_what_the_student_sees_there(folder: Path, size: tuple[int, int]) -> None:
    teacher = ["--teacher.layers", "[3]", "--teacher.stride", "16"]
    config = configured(folder, *teacher)
    module = Distillation(config, open_data(config.data, 0))
    seen: list[torch.Tensor] = []
    module.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    cells = torch.randint(0, 255, (1, 3, 8, 12), dtype=torch.uint8)
    image = cells.repeat_interleave(8, -2).repeat_interleave(8, -1)[..., : size[0], : size[1]]
    student, teacher_map = module.features(image)
    assert student.shape[-2:] == teacher_map.shape[-2:] == (8, 12)
    torch.testing.assert_close(seen[0][..., 8::16, 8::16], cells / 255)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--data.train", "[]"], "data.train names no folder"),
        (["--output", "student.pth"], "must end in .safetensors"),
        (["--student.layer", "[1]"], "did you mean --student.layers?"),
        (["--dtype", "int8"], "dtype is int8"),
        (["--loss.alpha", "1"], "unknown option --loss.alpha"),
        (["--trainer.devices", "2"], "one device"),
        (["--outlier_weight", "1"], "0 without data.outliers or data.exposed"),
    ],
)
def test_bad_options_are_told_in_one_line(folder: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(FlowclasError) as raised:
        configured(folder, *overrides)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--data.train", "[/nowhere]"], "/nowhere does not exist"),
        (["--student.name", "mobilenetv99"], "no model 'mobilenetv99'"),
        (["--teacher.weights", "/nowhere/t.safetensors"], "do not exist"),
        (["--output", "/proc/student.safetensors"], "cannot write /proc/student.safetensors"),
    ],
)
def test_command_ends_with_2_and_one_line(
    folder: Path,
    overrides: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Distillation, "prepare", lambda *_: pytest.fail("all of it is known before the work"))
    assert main(["distill", "--config", str(folder / "distill.yaml"), *overrides]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_an_earlier_student_is_not_overwritten(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "student.safetensors").write_bytes(b"kept")
    options = ["--config", str(folder / "distill.yaml"), "--output", str(tmp_path / "student.safetensors")]
    assert main(["distill", *options]) == 2
    assert "student.safetensors' exists: choose another output" in capsys.readouterr().err
    assert (tmp_path / "student.safetensors").read_bytes() == b"kept"


def test_interrupt_leaves_no_file_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Distillation.training_step

    def interrupted(self: Distillation, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if batch_idx == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Distillation, "training_step", interrupted)
    output = str(tmp_path / "student.safetensors")
    assert main(["distill", "--config", str(folder / "distill.yaml"), "--output", output]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_distillation_out_of_memory_says_which_options_to_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(Distillation, "training_step", explode)
    with pytest.raises(FlowclasError, match=r"out of memory for this distillation: use a smaller data\.batch_size"):
        distill(configured(folder, "--output", str(folder / "large.safetensors")))
