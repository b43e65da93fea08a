"""The services when something goes wrong behind them: they answer, in one line, and leave nothing loaded."""

from __future__ import annotations

import threading

import pytest
from node_support import LOAD_TIMEOUT, Peer, ros_context, spinning

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.srv", reason="needs the generated messages (make, or colcon build)")
from flowclas_ros.detection.detector import Detector  # noqa: E402
from flowclas_ros.errors import FlowclasError  # noqa: E402
from flowclas_ros.node.control import Control  # noqa: E402
from flowclas_ros.node.parameters import Settings  # noqa: E402
from flowclas_ros.srv import LoadCheckpoint  # noqa: E402

pytestmark = pytest.mark.alone


class Owner:
    """A node's part of the services: it swaps a detector as it is told to, or refuses."""

    def __init__(self, detector):
        self.detector, self.settings = detector, Settings(device="cpu")
        self.offered, self.known, self.refuses = [], [], None

    def swapper(self):
        def swap(detector):
            self.offered.append(detector)
            if self.refuses is not None:
                raise self.refuses
            self.detector = detector

        return swap

    def adopted(self, path):
        self.known.append(path)

    def enable(self, wanted):
        if self.refuses is not None:
            raise self.refuses


@pytest.fixture(scope="module")
def served(checkpoint):
    """The services on a node that has no timer and nothing else that would wake its executor; and a peer."""
    owner = Owner(Detector(checkpoint, device="cpu"))
    with ros_context() as context:
        node = rclpy.create_node("detector", context=context)
        Control(node, owner)
        with spinning(node):
            peer = Peer()
            yield owner, peer
            peer.close()


def load(peer, path):
    return peer.call("load_checkpoint", LoadCheckpoint, LoadCheckpoint.Request(path=str(path)), LOAD_TIMEOUT)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FlowclasError("no room on cuda:0"), "no room on cuda:0"),
        (RuntimeError("worker has been stopped"), "RuntimeError: worker has been stopped"),
    ],
    ids=["refused", "broken"],
)
def test_a_checkpoint_that_cannot_be_put_in_place_is_answered_and_its_model_let_go(served, checkpoint, error, words):
    owner, peer = served
    owner.refuses, owner.offered, owner.known = error, [], []
    before = owner.detector
    answer = load(peer, checkpoint)
    assert not answer.success and answer.message == f"{words}; the one in use stays"
    assert owner.detector is before and not owner.known
    assert (answer.name, answer.sha256) == ("small", before.header["sha256"])
    (refused,) = owner.offered
    with pytest.raises(FlowclasError, match="closed"):
        refused.warm_up(8, 8)
    before.warm_up(8, 8)  # and the one in use is not closed
    owner.refuses = None
    answer = load(peer, checkpoint)  # the service goes on
    assert answer.success and answer.message == "checkpoint 'small' is in use" and owner.known == [str(checkpoint)]


@pytest.mark.parametrize(
    "error", [FlowclasError("the node is not active"), TimeoutError("the worker did not answer in 30 s")]
)
def test_what_stands_against_a_pause_is_the_answer_and_the_node_goes_on(served, error):
    owner, peer = served
    owner.refuses = error
    for _ in range(2):
        answer = peer.enable(False)
        assert not answer.success and answer.message == str(error)
    owner.refuses = None
    assert [(one.success, one.message) for one in (peer.enable(False), peer.enable(True))] == [
        (True, "paused"),
        (True, "looking"),
    ]


def test_a_load_that_outlives_its_node_ends_without_a_word_and_the_process_waits_for_it(checkpoint, monkeypatch):
    raised, going, gone = [], threading.Event(), threading.Event()
    monkeypatch.setattr(threading, "excepthook", raised.append)
    owner = Owner(Detector(checkpoint, device="cpu"))
    owner.swapper = lambda: lambda detector: (going.set(), gone.wait(LOAD_TIMEOUT), detector.close())
    with ros_context() as context:
        node = rclpy.create_node("leaving", context=context)
        Control(node, owner)
        peer = Peer("/leaving")
        with spinning(node):
            peer.ask("load_checkpoint", LoadCheckpoint, LoadCheckpoint.Request(path=str(checkpoint)))
            peer.until(going.is_set, "the loader putting its detector in place", LOAD_TIMEOUT)
        peer.close()
        (loader,) = (thread for thread in threading.enumerate() if thread.name == "checkpoint_loader")
        assert not loader.daemon  # a daemon that the interpreter's end tears out of PyTorch aborts the process
        gone.set()
        loader.join(LOAD_TIMEOUT)
        assert not loader.is_alive() and not raised
