"""One detector process for tests that each want parameters of their own: configured anew for each of them."""

from __future__ import annotations

import time
from contextlib import contextmanager

import numpy as np
from node_support import START_TIMEOUT, DetectorProcess, Peer, make_checkpoint, options

# what the tests have in common: nothing is too old, and each frame stands for itself
COMMON = {"device": "cpu", "max_age": 0.0, "forget_frames": 1, "stale_after": 5.0, "use_sim_time": False}
DEFAULTS = {
    "cameras": [""],
    "transport": "raw",
    "self_mask": "",
    "depth": False,
    "depth_wait": 0.1,
    "output_scale": 1.0,
    "confirm_frames": 1,
}


class Bench:
    """The process, unconfigured between two tests, and the checkpoint that it is configured with."""

    def __init__(self, folder):
        self.checkpoint = make_checkpoint(folder / "small.safetensors")
        self.detector = DetectorProcess(folder / "detector.log", *options(checkpoint=self.checkpoint))

    @contextmanager
    def running(self, *listened, **parameters):
        """The detector, active with these parameters, and a peer that listens to the named outputs."""
        peer = Peer()
        try:
            peer.until(lambda: peer.state() == "unconfigured", f"log: {self.detector.log}", START_TIMEOUT)
            result = peer.set_together(**{**COMMON, **DEFAULTS, **parameters})
            assert result.successful, result.reason
            peer.listen(*listened, "/diagnostics")
            assert peer.change("configure") and peer.change("activate"), self.detector.text
            for name in listened:
                peer.until(lambda name=name: peer.node.count_publishers(f"/detector/{name}"), f"a publisher of {name}")
            settle(peer)
            yield peer
        finally:
            for transition, state in (("deactivate", "active"), ("cleanup", "inactive")):
                if peer.state() == state:
                    peer.change(transition)
            peer.close()

    def close(self):
        """End the process."""
        assert self.detector.stop() == 0, self.detector.text


def offer(peer, kind, topic):
    """A publisher that the detector has found."""
    publisher = peer.node.create_publisher(kind, topic, 10)
    peer.until(lambda: publisher.get_subscription_count() > 0, f"the detector subscribing to {topic}")
    settle(peer)
    return publisher


def settle(peer, seconds=0.3):
    """Both sides of a match are not made in the same instant."""
    end = time.monotonic() + seconds
    peer.until(lambda: time.monotonic() > end, "settling")


def answers(peer, stamp, *names):
    """The outputs that carry `stamp`."""

    def arrived():
        found = {name: next((m for m in peer.got[name] if m.header.stamp == stamp), None) for name in names}
        return found if all(found.values()) else None

    return peer.until(arrived, f"{', '.join(names)} of the frame sent")


def health(peer, words, name="/detector: health"):
    """Wait for a health status whose message holds `words`."""

    def found():
        statuses = [status for message in peer.got["/diagnostics"] for status in message.status]
        return next((status for status in statuses if status.name == name and words in status.message), None)

    return peer.until(found, f"'{words}' in the diagnostics")


def pixels_of(message, dtype=np.uint8):
    """(H, W)."""
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)
