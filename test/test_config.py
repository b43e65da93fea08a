"""The training configuration: typed, checked, and helpful about a misspelt key."""

from pathlib import Path

import pytest
import yaml

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.config import FitConfig
from flowclas_ros.training.config_file import changed_keys, config_yaml, flat_keys, help_text, load_config
from flowclas_ros.training.distill_config import DistillConfig

CONFIGS = sorted((Path(__file__).parent.parent / "config" / "training").glob("*.yaml"))
NEEDED = ["--data.train", "[a]", "--data.outliers.cutouts", "b"]
LABELLED = ["--model.classes", "3", "--data.labels.train", "[c]", "--loss.segmentation", "1"]


def load(tmp_path: Path, text: str, *overrides: str):
    path = tmp_path / "fit.yaml"
    path.write_text(text)
    return load_config(path, [*NEEDED, *overrides])


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("loss.alfa", "loss.alpha"),
        ("los.alpha", "loss.alpha"),
        ("optimizer.lr", "optimiser.lr"),
        ("data.batchsize", "data.batch_size"),
        ("model.flow.step", "model.flow.steps"),
        ("sed", "seed"),
        ("alpha", "loss.alpha"),
    ],
)
def test_a_misspelt_key_is_an_error_that_names_the_nearest(tmp_path, key, nearest):
    with pytest.raises(FlowclasError, match=f"unknown option --{key}; did you mean --{nearest}\\?"):
        load_config(None, [*NEEDED, f"--{key}", "1"])
    yaml = ""
    for depth, part in enumerate(key.split(".")):
        yaml += "\n" + "  " * depth + part + ":"
    with pytest.raises(FlowclasError, match=rf"fit.yaml: unknown option .*did you mean {nearest.split('.')[0]}"):
        load(tmp_path, yaml + " 1")


def test_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path):
    config = load(tmp_path, "loss: {alpha: 2, temperature: 0.2}\nseed: 4", "--loss.alpha=3")
    assert (config.loss.alpha, config.loss.temperature, config.loss.samples, config.seed) == (3.0, 0.2, 512, 4)


def test_exponents_without_a_dot_are_numbers(tmp_path):
    assert load(tmp_path, "optimiser: {lr: 1e-4}", "--optimiser.weight_decay", "1e-6").optimiser.lr == 1e-4


@pytest.mark.parametrize("text", ["2026-07-01", "2026", "on", "1e3", "12:30", "a: b", "run #3", "[a-z]+_(\\d+)"])
def test_text_on_the_command_line_is_taken_as_it_is(text):
    config = load_config(None, [*NEEDED, "--output", text, f"--data.sequence_regex={text}"])
    assert (config.output, config.data.sequence_regex) == (text, text)


def test_null_is_no_text_and_quotes_are_yamls():
    config = load_config(None, [*NEEDED, "--data.sequence_regex", "null", "--output", "'null'"])
    assert (config.output, config.data.sequence_regex) == ("null", None)
    with pytest.raises(FlowclasError, match="option --output cannot be null"):
        load_config(None, [*NEEDED, "--output", "null"])


def test_free_dictionaries_take_any_key(tmp_path):
    config = load(tmp_path, "model: {backbone: {kwargs: {pad_type: same}}}", "--model.backbone.kwargs.depth", "3")
    assert config.model.backbone.kwargs == {"pad_type": "same", "depth": 3}


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["--optimiser.lr", "fast"], "optimiser.lr is fast; it must be of type float"),
        (["--optimiser.lr", "0"], "optimiser.lr is 0.0; it must be above 0"),
        (["--data.batch_size", "0"], "data.batch_size is 0; it must be 1 or more"),
        (["--data.crop", "[64]"], "data.crop is .*; it must be of type tuple"),
        (["--trainer.precision", "fp8"], "trainer.precision is fp8"),
        (["--trainer.max_minutes", "0"], "trainer.max_minutes is 0.*null for no limit"),
        (["--data.outliers.images", "x"], "images goes with masks or with coco_json"),
        (["--data.outliers.images", "x", "--data.outliers.masks", "y"], "not several"),
        (["--seed", "null"], "option --seed cannot be null"),
        (["--seed"], "option --seed lacks its value"),
        (["--loss", "3"], "option --loss is a group"),
        (["stray"], "argument 'stray' has no option before it"),
        (["--loss.alpha", "0", "--loss.contrastive", "none"], "leaves nothing to fit"),
        (["--model.flow.steps", "0"], "method gaussian"),
        (["--model.projection_dim", "0"], "loss.contrastive infonce .* model.projection_dim is 0"),
        (["--data.train", "[]"], "data.train names no folder"),
        (["--data.crop", "[64, 64]", "--model.short_side", "96"], "cannot go together"),
        ([*LABELLED, "--data.exposed_val", "seen"], "data.exposed_val 'seen' has no class labels"),
    ],
)
def test_a_wrong_value_is_one_line_naming_the_option(overrides, text):
    with pytest.raises(FlowclasError, match=text) as raised:
        load_config(None, [*NEEDED, *overrides])
    assert "\n" not in str(raised.value)


def test_environment_variables_are_expanded_and_an_unset_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWCLAS_TEST_DIR", "/somewhere")
    assert load(tmp_path, "output: ${FLOWCLAS_TEST_DIR}/run").output == "/somewhere/run"
    monkeypatch.delenv("FLOWCLAS_TEST_DIR")
    with pytest.raises(FlowclasError, match=r"output: the environment variable FLOWCLAS_TEST_DIR .* is not set"):
        load(tmp_path, "output: ${FLOWCLAS_TEST_DIR}/run")


def test_the_home_folder_may_be_written_short_in_a_folder_of_images_as_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = load(tmp_path, "output: ~/run", "--data.train", "[~/normal, a~b]")
    assert config.output == "/home/me/run" and config.data.train == ("/home/me/normal", "a~b")


@pytest.mark.parametrize(
    ("content", "text"), [("a: [", "not valid YAML"), ("- 1", "holds a list"), ("loss: 3", "is a group of options")]
)
def test_a_file_that_is_no_configuration_says_so(tmp_path, content, text):
    with pytest.raises(FlowclasError, match=text):
        load(tmp_path, content)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FlowclasError, match="does not exist"):
        load_config(tmp_path / "none.yaml")


def test_written_out_it_reads_back_equal(tmp_path):
    config = load(tmp_path, "data: {crop: [64, 96], val: [c]}")
    (tmp_path / "kept.yaml").write_text(config_yaml(config))
    assert load_config(tmp_path / "kept.yaml") == config
    assert changed_keys(config, load(tmp_path, "data: {crop: [64, 64], val: [c]}")) == ["data.crop"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_shipped_configurations_load(path, monkeypatch):
    for name in ("FLOWCLAS_KIT", "SAMPLES", "DOMAIN", "CITYSCAPES", "COCO", "ALLO"):
        monkeypatch.setenv(name, f"/data/{name}")
    load_config(path, cls=DistillConfig if "student" in yaml.safe_load(path.read_text()) else FitConfig)


def test_the_template_and_the_help_name_every_option():
    template = next(p for p in CONFIGS if p.stem == "folder").read_text()
    text = help_text()
    for key in flat_keys():
        assert f"--{key}" in text
        if not key.startswith("data.outliers_val."):
            assert f"{key.rsplit('.', 1)[-1]}:" in template, key


@pytest.mark.parametrize("options", [FitConfig, DistillConfig])
def test_no_annotation_is_one_that_python_3_10_cannot_read(options):
    assert "ClassVar" not in options.__annotations__.values()  # bare; 3.11 and newer read it
