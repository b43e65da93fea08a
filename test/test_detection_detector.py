"""The detector: frame in, detection out, with a small random-weight model."""

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.detector import Detector
from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.backbone import BackboneConfig
from flowclas_ros.model.checkpoint import save_checkpoint
from flowclas_ros.model.config import FlowCLASConfig
from flowclas_ros.model.flow import FlowConfig
from flowclas_ros.model.flowclas import FlowCLAS

H, W = 64, 96


@pytest.fixture(scope="module")
def model() -> FlowCLAS:
    torch.manual_seed(0)
    backbone = BackboneConfig(name="mobilenetv2_100", weights="random", layers=(2,), stride=8)
    return FlowCLAS(FlowCLASConfig(backbone, FlowConfig(steps=1, whitening=False), projection_dim=0)).eval()


def frames(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, 256, (H, W, 3), dtype=np.uint8) for _ in range(count)]


def raw_score(model: FlowCLAS, image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].numpy()


@pytest.fixture(scope="module")
def checkpoint(model: FlowCLAS, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    table = Calibration.fit(raw_score(model, image) for image in frames(12)).to_dict()
    save_checkpoint(path, model, calibration=table, provenance={}, embed_backbone=True)
    return path


@pytest.fixture(scope="module")
def uncalibrated(model: FlowCLAS, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "uncalibrated.safetensors"
    save_checkpoint(path, model, calibration=None, provenance={}, embed_backbone=True)
    return path


def test_a_frame_gives_the_models_own_score_and_mask_regions_and_heat_that_follow_from_it(checkpoint, model):
    detector = Detector(checkpoint, device="cpu", false_alarm_rate=0.2, min_area=4)
    image = frames(1)[0]
    detection = detector.detect(image)
    np.testing.assert_allclose(detection.score, raw_score(model, image), atol=1e-5)
    assert detection.score.dtype == np.float32
    assert detection.score.shape == (H, W)
    np.testing.assert_array_equal(detection.mask, detection.score > np.float32(detector.threshold))
    assert detection.threshold == detector.threshold
    assert 0 < detection.mask.sum() < H * W
    assert detection.regions
    assert all(region.area >= 4 for region in detection.regions)
    detector.min_area = H * W
    assert detector.detect(image).regions == []
    assert detection.heat.dtype == np.float32
    assert detection.heat.min() >= 0
    assert detection.heat.max() <= 1
    assert detection.heat[detection.mask].min() >= detection.heat[~detection.mask].max()
    stages = {"preprocess", "infer", "download", "postprocess", "regions"}
    assert set(detection.timings) == stages | {"total"}
    assert detection.timings["total"] == pytest.approx(sum(detection.timings[stage] for stage in stages))


def test_a_frame_scores_the_same_alone_and_in_a_batch_of_several_cameras(checkpoint):
    detector = Detector(checkpoint, device="cpu", false_alarm_rate=0.2)
    images = frames(3)
    together = detector.detect_batch(images)
    assert len(together) == 3
    for image, detection in zip(images, together, strict=True):
        np.testing.assert_allclose(detection.score, detector.detect(image).score, atol=1e-5)


def test_a_frames_time_is_its_equal_share_of_its_batchs(checkpoint, monkeypatch):
    detector = Detector(checkpoint, device="cpu")
    measured = (np.zeros((2, H, W), np.float32), {"infer": 0.5})
    monkeypatch.setattr(detector._scorer, "score_batch", lambda images: measured)
    assert [one.timings["infer"] for one in detector.detect_batch(frames(2))] == [0.25, 0.25]


def test_a_detection_keeps_its_score_when_the_next_frame_comes(checkpoint):
    detector = Detector(checkpoint, device="cpu", false_alarm_rate=0.2)
    first, second = frames(2)
    detection = detector.detect(first)
    before = detection.score.copy()
    detector.detect(second)
    np.testing.assert_array_equal(detection.score, before)


def test_a_view_that_is_not_contiguous_scores_like_its_copy(checkpoint):
    detector = Detector(checkpoint, device="cpu", false_alarm_rate=0.2)
    view = frames(1)[0][:, ::-1, ::-1]  # a mirrored BGR view
    expected = detector.detect(np.ascontiguousarray(view)).score
    np.testing.assert_array_equal(detector.detect(view).score, expected)
    view.flags.writeable = False  # what a received message gives
    np.testing.assert_array_equal(detector.detect(view).score, expected)


def test_frame_sizes_may_change_from_call_to_call(checkpoint):
    detector = Detector(checkpoint, device="cpu", false_alarm_rate=0.2)
    detector.warm_up(H, W)
    for height, width in ((33, 47), (64, 96), (100, 50)):
        assert detector.detect(np.zeros((height, width, 3), np.uint8)).score.shape == (height, width)


def test_a_size_is_warmed_up_once_and_again_after_a_move(checkpoint, monkeypatch):
    detector = Detector(checkpoint, device="cpu", false_alarm_rate=0.2)
    sizes = []
    monkeypatch.setattr(detector, "detect_batch", lambda images: sizes.append((len(images), *images[0].shape[:2])))
    for batch in (1, 1, 2, 1):
        detector.warm_up(H, W, batch)
    assert sizes == [(1, H, W), (2, H, W)]
    detector.move("cpu", "bf16")
    detector.warm_up(H, W)
    assert sizes[2:] == [(1, H, W)]


def test_everything_may_run_on_a_worker_thread(checkpoint):
    masks = []

    def work() -> None:
        detector = Detector(checkpoint, device="cpu", false_alarm_rate=0.2)
        detector.warm_up(H, W)
        masks.append(detector.detect(frames(1)[0]).mask)
        detector.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=60)
    np.testing.assert_array_equal(
        masks[0], Detector(checkpoint, false_alarm_rate=0.2, device="cpu").detect(frames(1)[0]).mask
    )


def test_bf16_keeps_a_float32_score_close_to_fp32(checkpoint):
    image = frames(1)[0]
    exact = Detector(checkpoint, device="cpu").detect(image).score
    half = Detector(checkpoint, device="cpu", precision="bf16").detect(image).score
    assert half.dtype == np.float32 and (half != exact).any()
    moved = Detector(checkpoint, device="cpu")
    moved.move("cpu", "bf16")
    np.testing.assert_array_equal(moved.detect(image).score, half)
    np.testing.assert_allclose(half, exact, atol=0.05 * np.ptp(exact) + 0.05)


def test_an_uncalibrated_checkpoint_needs_a_threshold_and_works_with_one(uncalibrated):
    with pytest.raises(FlowclasError, match=r"uncalibrated.safetensors carries no calibration.*threshold"):
        Detector(uncalibrated, device="cpu")
    detector = Detector(uncalibrated, device="cpu", threshold=0.5)
    detection = detector.detect(frames(1)[0])
    np.testing.assert_array_equal(detection.mask, detection.score > np.float32(0.5))
    assert not detector.guaranteed
    assert 0 <= detection.heat.min() <= detection.heat.max() <= 1
    far_below, just_there, far_above = detector.heat(np.float32([-1e9, 0.5, 1e9]))
    assert far_below < 0.01 and just_there == 0.5 and far_above > 0.99
    with pytest.raises(FlowclasError, match="calibrated"):
        detector.set_false_alarm_rate(0.1)


def test_a_rate_below_what_the_scenes_support_is_warned_about(checkpoint, caplog):
    with caplog.at_level(logging.WARNING):
        detector = Detector(checkpoint, device="cpu", false_alarm_rate=1e-3)
    assert not detector.guaranteed
    assert "12 calibration scenes" in caplog.text
    caplog.clear()
    assert Detector(checkpoint, device="cpu", false_alarm_rate=0.2).guaranteed
    assert not caplog.records


def test_a_threshold_that_is_set_by_hand_takes_the_guarantee_away_until_a_rate_is_asked_for(checkpoint):
    detector = Detector(checkpoint, device="cpu", false_alarm_rate=0.2)
    by_rate = detector.threshold
    detector.set_threshold(by_rate)
    assert (detector.guaranteed, detector.false_alarm_rate) == (False, None)
    detector.set_threshold(None, 0.2)
    assert (detector.guaranteed, detector.false_alarm_rate, detector.threshold) == (True, 0.2, by_rate)


def test_a_score_that_is_not_finite_is_an_error_and_never_a_clear_mask(checkpoint, monkeypatch):
    detector = Detector(checkpoint, device="cpu")
    monkeypatch.setattr(detector._scorer, "_model", lambda batch: torch.full((1, H, W), torch.nan))
    with pytest.raises(FlowclasError, match="not finite"):
        detector.detect(frames(1)[0])


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),  # the driver, as when another process holds the GPU
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("failure", OUT_OF_MEMORY, ids=lambda failure: str(failure)[:30])
def test_a_device_out_of_memory_says_the_size_and_the_way_out(checkpoint, monkeypatch, failure):
    detector = Detector(checkpoint, device="cpu")

    def explode(batch: torch.Tensor) -> torch.Tensor:
        raise failure

    monkeypatch.setattr(detector._scorer, "_model", explode)
    with pytest.raises(FlowclasError, match=rf"out of memory for 1 frame\(s\) of {W}x{H}: use smaller"):
        detector.detect(frames(1)[0])


def test_a_device_without_room_for_the_model_says_so(checkpoint, monkeypatch):
    """Not a traceback: configure can then be tried again on another device."""

    def explode(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(FlowCLAS, "to", explode)
    with pytest.raises(FlowclasError, match=r"out of memory for the model of '.*small\.safetensors': use"):
        Detector(checkpoint, device="cpu")


def test_another_runtime_error_is_not_dressed_up_as_memory(checkpoint, monkeypatch):
    detector = Detector(checkpoint, device="cpu")

    def explode(batch: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a bug")

    monkeypatch.setattr(detector._scorer, "_model", explode)
    with pytest.raises(RuntimeError, match="a bug"):
        detector.detect(frames(1)[0])


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((8, 8), np.uint8), r"\(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\)"),
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
    ],
)
def test_a_frame_of_another_kind_is_refused_by_its_shape_or_type(checkpoint, image, words):
    with pytest.raises(FlowclasError, match=words):
        Detector(checkpoint, device="cpu").detect(image)


def test_a_batch_of_unequal_sizes_or_of_none_is_refused(checkpoint):
    detector = Detector(checkpoint, device="cpu")
    with pytest.raises(FlowclasError, match="8x8, 9x8"):
        detector.detect_batch([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)])
    with pytest.raises(FlowclasError, match="0 frames"):
        detector.detect_batch([])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"precision": "int8"}, "int8"),
        ({"precision": "fp16"}, "fp16.*CUDA"),
        ({"min_area": 0}, "min_area 0"),
        ({"threshold": float("nan")}, "threshold nan"),
        ({"threshold": float("inf")}, "threshold inf"),
        ({"false_alarm_rate": 2.0}, "false_alarm_rate 2"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name_and_value(checkpoint, setting, words):
    with pytest.raises(FlowclasError, match=words):
        Detector(checkpoint, device="cpu", **setting)


def test_a_closed_detector_says_so(checkpoint):
    detector = Detector(checkpoint, device="cpu")
    detector.warm_up(H, W)
    detector.close()
    with pytest.raises(FlowclasError, match="closed"):
        detector.detect(frames(1)[0])
    with pytest.raises(FlowclasError, match="closed"):
        detector.warm_up(H, W)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_cuda_agrees_with_the_cpu(checkpoint, precision):
    image = frames(1)[0]
    expected = Detector(checkpoint, device="cpu").detect(image).score
    detector = Detector(checkpoint, device="cuda", precision=precision)
    detector.warm_up(H, W)
    score = detector.detect(image).score
    tolerance = 2e-3 if precision == "fp32" else 0.05
    np.testing.assert_allclose(score, expected, atol=tolerance * np.ptp(expected) + 1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_a_detector_moves_to_the_gpu_to_the_last_of_them_and_back(checkpoint):
    image = frames(1)[0]
    detector = Detector(checkpoint, device="cpu")
    expected = detector.detect(image).score
    for device in ("cuda", f"cuda:{torch.cuda.device_count() - 1}", "cpu"):
        detector.move(device, "fp32")
        assert detector.device == ("cuda:0" if device == "cuda" else device)
        np.testing.assert_allclose(detector.detect(image).score, expected, atol=2e-3 * np.ptp(expected) + 1e-3)
