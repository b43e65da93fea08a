"""Colour frames and their depth, paired by stamp; a frame whose depth does not come goes on without it.

message_filters pairs where it is installed, a few lines of our own elsewhere (the PyPI wheels have no message_filters),
behind `pairing`. Subscriptions stay the node's: it hands each message to `image`, `depth` or `camera_info`.
"""

from __future__ import annotations

import importlib.util
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.conversion import header_ns

MOST_QUEUED = 5  # messages per stream; more only adds to the delay, and message_filters tries all combinations
SILENT = 1.0  # seconds without any depth after which no frame waits for it
BACKWARD_TOLERANCE = 500_000_000  # nanoseconds; a larger step back is a bag that starts again, not a late message

Matched = Callable[[Any, Any], None]


@dataclass(frozen=True, eq=False)
class SyncedFrame:
    """A colour frame with its depth and camera info, each None where missing; `reason` then says why in one line."""

    image: Any
    depth: Any | None
    camera_info: Any | None
    reason: str = ""


class Pairing(Protocol):
    """Calls `matched(image, depth)` for two messages less than slop apart, within the add() that completes them."""

    def add(self, stream: int, message: Any) -> None:
        """A message of stream 0 (image) or 1 (depth)."""
        ...


class NearestStamp:
    """The stand-in for message_filters: a message takes the nearest waiting one of the other stream."""

    def __init__(self, matched: Matched, queue: int, slop: float) -> None:
        self._matched, self._queue, self._slop = matched, queue, slop * 1e9
        self._waiting: tuple[dict[int, Any], dict[int, Any]] = ({}, {})

    def add(self, stream: int, message: Any) -> None:
        own, other = self._waiting[stream], self._waiting[1 - stream]
        stamp = header_ns(message)
        own[stamp] = message
        while len(own) > self._queue:
            del own[min(own)]
        nearest = min(other, key=lambda candidate: abs(candidate - stamp), default=None)
        if nearest is not None and abs(nearest - stamp) < self._slop and stamp in own:
            pair = (own.pop(stamp), other.pop(nearest))
            self._matched(*(pair if stream == 0 else pair[::-1]))


class MessageFilters:
    """message_filters.ApproximateTimeSynchronizer, fed by hand."""

    def __init__(self, matched: Matched, queue: int, slop: float) -> None:
        from message_filters import ApproximateTimeSynchronizer, SimpleFilter

        self._filters = [SimpleFilter(), SimpleFilter()]
        self._synchroniser = ApproximateTimeSynchronizer(self._filters, queue, slop)
        # it calls back under a lock that an exception would leave locked: `matched` must only hand over
        self._synchroniser.registerCallback(matched)

    def add(self, stream: int, message: Any) -> None:
        if header_ns(message) >= 0:  # else it raises, and the node would end over one stamp before 1970
            self._filters[stream].signalMessage(message)


def pairing(matched: Matched, queue: int, slop: float) -> Pairing:
    """message_filters' where it is installed, else our own."""
    installed = importlib.util.find_spec("message_filters") is not None
    return (MessageFilters if installed else NearestStamp)(matched, queue, slop)


class DepthSync:
    """Pairs one camera's frames with its depth and hands each frame over exactly once, in the order it came.

    deliver: takes a SyncedFrame; called on the caller's thread, outside of any lock. slop: seconds that the stamps of
    a pair may differ, below half a frame. queue: messages kept per stream, 1 to 5. wait: seconds by the steady clock
    that a frame is held back for its depth at most; it is not held at all while no depth has come for a second.
    The newest camera info counts whatever its stamp: intrinsics change with the camera's setting, not with its frames,
    and a driver may send them once. All methods on one thread. Raises FlowclasError for a value out of range.
    """

    def __init__(
        self,
        deliver: Callable[[SyncedFrame], None],
        *,
        slop: float = 0.02,
        queue: int = MOST_QUEUED,
        wait: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
        make_pairing: Callable[[Matched, int, float], Pairing] = pairing,
    ) -> None:
        if not slop > 0:
            raise FlowclasError(f"depth slop {slop:g} s is not above 0: take less than half the time between frames")
        if not 1 <= queue <= MOST_QUEUED:
            raise FlowclasError(f"depth queue {queue} is not in 1..{MOST_QUEUED}: more messages only add delay")
        if not wait >= 0:
            raise FlowclasError(f"depth wait {wait:g} s is below 0: 0 waits for no depth")
        self.slop, self.queue, self.wait = slop, queue, wait
        self._deliver, self._clock, self._make_pairing = deliver, clock, make_pairing
        self._held: OrderedDict[int, tuple[Any, float]] = OrderedDict()  # by id(): frame, time of receipt
        self._pairs: deque[tuple[Any, Any]] = deque()
        self._info: Any | None = None
        self._heard: float | None = None  # when depth last came
        self._depth_stamps: deque[int] = deque(maxlen=2 * MOST_QUEUED)
        self._newest = [0, 0]
        self._pairing = make_pairing(self._matched, queue, slop)

    @property
    def period(self) -> float:
        """Seconds between two calls of `poll` with which a frame is held for 1.25 `wait` at most."""
        return max(self.wait / 4, 0.005)

    def camera_info(self, message: Any) -> None:
        """A CameraInfo."""
        self._info = message

    def image(self, message: Any) -> None:
        """A colour frame."""
        now = self._clock()
        self._follow_time(0, message)
        self._held[id(message)] = (message, now)
        self._pairing.add(0, message)
        self._hand_over()
        if id(message) in self._held and (self._heard is None or now - self._heard > SILENT):
            while id(message) in self._held:
                self._release_oldest()
        while len(self._held) > self.queue:
            self._release_oldest()
        self.poll()

    def depth(self, message: Any) -> None:
        """A depth image."""
        self._follow_time(1, message)
        self._heard = self._clock()
        self._depth_stamps.append(header_ns(message))
        self._pairing.add(1, message)
        self._hand_over()
        self.poll()

    def poll(self) -> None:
        """Let go the frames that have waited long enough. From a timer on the steady clock, every `period` seconds."""
        now = self._clock()
        while self._held and now - next(iter(self._held.values()))[1] >= self.wait:
            self._release_oldest()

    def flush(self) -> None:
        """Let go all that is held, as at the end of a recording: no depth comes any more."""
        while self._held:
            self._release_oldest()

    def clear(self) -> int:
        """Forget what is held, as at deactivation; how many frames that were."""
        count = len(self._held)
        self._held.clear()
        self._restart()
        return count

    def _matched(self, image: Any, depth: Any) -> None:
        self._pairs.append((image, depth))

    def _hand_over(self) -> None:
        while self._pairs:
            image, depth = self._pairs.popleft()
            if id(image) not in self._held:
                continue  # went on without: its depth came too late
            while next(iter(self._held)) != id(image):
                self._release_oldest()
            del self._held[id(image)]
            reason = "" if self._info is not None else "depth, but no camera info yet: set camera_info_topic"
            self._deliver(SyncedFrame(image, depth, self._info, reason))

    def _release_oldest(self) -> None:
        _, (image, _) = self._held.popitem(last=False)
        self._deliver(SyncedFrame(image, None, self._info, self._why(header_ns(image))))

    def _why(self, stamp: int) -> str:
        if self._heard is None:
            return "no depth yet"
        silent = self._clock() - self._heard
        if silent > SILENT:
            return f"no depth for {silent:.1f} s"
        text = f"no depth within {self.slop * 1e3:g} ms of the frame's stamp in time"
        if not self._depth_stamps:
            return text
        off = min((other - stamp for other in self._depth_stamps), key=abs) * 1e-6
        return f"{text}, the nearest is {abs(off):.0f} ms {'before' if off < 0 else 'after'} it"

    def _follow_time(self, stream: int, message: Any) -> None:
        """Begin anew when time steps back: a queue full of later stamps would push every new message out."""
        stamp = header_ns(message)
        if stamp and self._newest[stream] - stamp > BACKWARD_TOLERANCE:
            self.flush()
            self._restart()
        self._newest[stream] = stamp

    def _restart(self) -> None:
        self._pairing = self._make_pairing(self._matched, self.queue, self.slop)
        self._pairs.clear()
        self._depth_stamps.clear()
        self._newest = [0, 0]
