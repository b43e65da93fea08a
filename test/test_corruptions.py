"""Weather and camera corruptions: named, graded, repeatable, and where they belong."""

import cv2
import numpy as np
import pytest

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.corruptions import CORRUPTIONS, SEVERITIES, CorruptionConfig, corrupt, maybe_corrupt


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """A textured scene (120, 160, 3) with dark and bright parts."""
    rng = np.random.default_rng(0)
    coarse = cv2.resize(rng.random((8, 10, 3)), (160, 120), interpolation=cv2.INTER_CUBIC)
    return np.uint8(np.clip(160 * coarse + 50 * rng.random((120, 160, 1)), 0, 255))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_repeats_with_its_seed_keeps_the_size_and_grows_with_severity(scene, name):
    distances = []
    for severity in SEVERITIES:
        image = corrupt(scene, name, severity, seed=4)
        assert image.shape == scene.shape
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, corrupt(scene, name, severity, seed=4))
        distances.append(float(np.abs(image.astype(float) - scene).mean()))
    assert distances[0] > 1  # to be seen at all, in grey levels
    assert all(np.diff(distances) > 0), distances
    assert not np.array_equal(corrupt(scene, name, 3, seed=5), corrupt(scene, name, 3, seed=4)) or name == "jpeg"


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(33, 40), (720, 64)])
def test_a_corruption_takes_any_size_and_leaves_its_input_alone(name, shape):
    image = np.full((*shape, 3), 120, np.uint8)
    assert corrupt(image, name, 5).shape == image.shape
    assert (image == 120).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_takes_a_tiny_image_whatever_is_drawn(name):
    for seed in range(20):
        assert corrupt(np.full((8, 12, 3), 120, np.uint8), name, 1, seed).shape == (8, 12, 3)


def test_weather_does_what_its_name_says(scene):
    grey = scene.astype(float)
    changed = {name: corrupt(scene, name, 3, seed=1).astype(float) for name in CORRUPTIONS}
    assert changed["night"].mean() < 0.6 * grey.mean()
    assert changed["fog"].std() < 0.7 * grey.std()  # contrast
    sand = changed["sandstorm"].mean(axis=(0, 1)) - grey.mean(axis=(0, 1))
    assert sand[0] > sand[1] > sand[2]  # ochre: red up, blue down
    detail = {name: np.abs(np.diff(image, axis=1)).mean() for name, image in changed.items()}
    assert detail["blur"] < 0.6 * np.abs(np.diff(grey, axis=1)).mean() < detail["noise"]


def test_the_drawn_share_of_scenes_is_corrupted_by_the_named_ones_alone(scene):
    rng = np.random.default_rng(0)
    config = CorruptionConfig(probability=0.4, names=("night",), severities=(5,))
    results = [maybe_corrupt(scene, config, rng) for _ in range(100)]
    darker = [result.mean() < 0.5 * scene.mean() for result in results]
    assert 0.25 < np.mean(darker) < 0.55  # 3 standard deviations
    assert all(dark or result is scene for dark, result in zip(darker, results, strict=True))


def test_no_random_number_is_drawn_without_corruptions(scene):
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    assert maybe_corrupt(scene, CorruptionConfig(), one) is scene
    assert one.random() == other.random()  # a fit of before repeats bit by bit


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"probability": 1.5}, "probability is 1.5"),
        ({"names": ("hail",)}, "'hail' is unknown; known: rain"),
        ({"severities": (0,)}, "severity 0"),
        ({"severities": ()}, "severities is empty"),
    ],
)
def test_a_bad_setting_is_named(settings, named):
    with pytest.raises(FlowclasError, match=named):
        CorruptionConfig(**settings)
