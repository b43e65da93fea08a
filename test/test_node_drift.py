"""The running detector in a world that changes: its state and diagnostics say so, its level does not, over real DDS."""

from __future__ import annotations

import math

import pytest
from node_running import health
from node_support import detector_graph, image_message, make_checkpoint, options, picture

pytestmark = pytest.mark.alone

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.msg", reason="needs the generated messages (make, or colcon build)")

OK, WARN = b"\x00", b"\x01"


@pytest.fixture
def graph(tmp_path):
    """A detector that starts itself, with a window far shorter than the time between two frames, and a peer."""
    arguments = options(
        checkpoint=make_checkpoint(tmp_path / "small.safetensors", drift=True),
        device="cpu",
        autostart=True,
        max_age=0.0,
        drift_window=0.01,
        threshold=1e6,  # the highest score of all: no pixel of a picture is above it, so the level is CLEAR throughout
        stale_after=60.0,
    )
    with detector_graph(tmp_path, *arguments, listened=("state", "/diagnostics")) as found:
        yield found.peer


def test_the_state_and_diagnostics_tell_drift_and_its_end_and_the_level_stays_the_scenes(graph):
    from flowclas_ros.training.corruptions import corrupt

    def state_of(pixels):
        return graph.exchange(image_message(pixels, stamp=graph.now()), "state")["state"]

    def says(level, words):
        graph.got["/diagnostics"].clear()
        return health(graph, words).level == level

    normal = state_of(picture(100))
    assert 0 <= normal.drift < 1
    assert not normal.drifted
    assert says(OK, "in time")
    foggy = state_of(corrupt(picture(100), "fog", 5))
    assert foggy.drifted
    assert foggy.drift > normal.drift
    assert foggy.level == normal.level == foggy.CLEAR
    assert "drifted" in foggy.message
    assert says(WARN, "the scores have drifted")
    cleared = state_of(picture(100))
    assert not cleared.drifted
    assert cleared.drift == pytest.approx(normal.drift, abs=0.01)  # threads may sum in other orders
    assert graph.set("drift_window", 0.0).successful
    unknown = state_of(corrupt(picture(100), "fog", 5))
    assert math.isnan(unknown.drift)
    assert not unknown.drifted
