"""The samples that ship: whole, small, said to be what they are, and good for what they are shipped for."""

import pytest

from flowclas_ros import samples
from flowclas_ros.detection.detector import Detector
from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.checkpoint import load_checkpoint
from flowclas_ros.replay.cameras import Camera
from flowclas_ros.replay.frames import open_bag
from flowclas_ros.replay.masks import MaskTopic
from flowclas_ros.replay.recording import open_recording
from flowclas_ros.training.metrics import PixelMetrics

pytest.importorskip("rosbags", reason="needs rosbags: pip install 'flowclas_ros[bags]'")

MOST_CHECKPOINT, MOST_BAG = 3e6, 4.5e6  # bytes
LEAST_AUPRC = {"orbit": 0.35, "road": 0.45}  # of a few frames; benchmarks/results/samples.json has the figures
EVERY = 12  # frames


@pytest.fixture(params=samples.DOMAINS)
def sample(request):
    return samples.sample(request.param)


def test_files_are_small(sample):
    assert sample.checkpoint.stat().st_size < MOST_CHECKPOINT
    assert sample.bag.stat().st_size < MOST_BAG


def test_checkpoint_is_whole_with_backbone_calibration_and_provenance(sample):
    header = load_checkpoint(sample.checkpoint).header
    assert header["backbone_embedded"] and header["calibration"]["scenes"] >= 8
    assert header["provenance"]["config"]["model"]["backbone"]["name"] == "mobilenetv2_100"


def test_bag_holds_images_depth_camera_info_transforms_and_a_mask_for_every_frame(sample):
    with open_bag(sample.bag) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
    topics = (samples.IMAGE_TOPIC, "/camera/camera_info", "/camera/depth", samples.MASK_TOPIC, "/tf")
    assert len({counts[topic] for topic in topics}) == 1 and counts[samples.IMAGE_TOPIC] >= 60


def test_checkpoint_tells_what_is_foreign_in_its_bag(sample):
    detector = Detector(sample.checkpoint, device="cpu")
    metrics = PixelMetrics(streaming=True)
    with open_recording(sample.bag, (Camera("", samples.IMAGE_TOPIC),)) as recording, open_bag(sample.bag) as reader:
        masks = MaskTopic(reader, sample.bag, samples.MASK_TOPIC)
        for recorded in recording.read():
            if recorded.index is not None and recorded.index % EVERY == 0:
                metrics.update(detector.score_batch([recorded.image])[0][0], masks.of(recorded))
    assert metrics.compute().auprc > LEAST_AUPRC[sample.domain]


def test_a_domain_that_does_not_ship_and_a_missing_file_are_told(monkeypatch, tmp_path):
    with pytest.raises(FlowclasError, match="there are: orbit, road"):
        samples.sample("sea")
    monkeypatch.setattr(samples, "FOLDER", tmp_path)
    with pytest.raises(FlowclasError, match=r"orbit\.safetensors is missing"):
        samples.sample("orbit")


def test_model_card_names_what_ships():
    card = (samples.FOLDER / "MODEL_CARD.md").read_text()
    for domain in samples.DOMAINS:
        assert f"{domain}.safetensors" in card and f"{domain}.mcap" in card
