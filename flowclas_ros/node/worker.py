"""One thread that owns the device: everything that touches the model runs here, one thing after the other.

torch.compile on one thread and inference on another fails (ros2/rclpy issue 1288), and a multi-threaded executor
only contends for the interpreter lock (issues 1025, 1452). So the executor parks frames, and this thread works.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Generic, TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class Worker(Generic[Item]):
    """A thread with one slot per key (a camera) for the newest item, and a line of calls that go before them.

    `process(items)` runs on the thread with what lies in the slots, one item a key at most; what it raises goes to
    `failed(items, error)`, and the next items go on.
    """

    def __init__(
        self, process: Callable[[list[Item]], None], failed: Callable[[list[Item], Exception], None], name: str
    ):
        self._process, self._failed = process, failed
        self._condition = threading.Condition()
        self._calls: deque[tuple[Callable[[], Any], Future]] = deque()
        self._answering: Future | None = None  # of the call in hand
        self._slots: dict[str, Item] = {}
        self._stopping = False
        # daemon: a hung driver call must not keep the process from ending
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, item: Item, key: str = "") -> bool:
        """Park `item`; True when it replaced one that had not been taken yet."""
        with self._condition:
            replaced = key in self._slots
            self._slots[key] = item
            self._condition.notify()
        return replaced

    def clear(self) -> list[Item]:
        """Empty the slots; what lay in them."""
        with self._condition:
            held, self._slots = list(self._slots.values()), {}
        return held

    def call(self, function: Callable[[], Result], timeout: float | None = None) -> Result:
        """Run `function` on the thread between two items, wait for it, return its result or raise what it raised.

        Raises TimeoutError after `timeout` seconds (the function may still run later), RuntimeError once stopped.
        """
        future: Future[Result] = Future()
        with self._condition:
            if self._stopping:
                raise RuntimeError(f"worker '{self._thread.name}' has been stopped")
            self._calls.append((function, future))
            self._condition.notify()
        try:
            return future.result(timeout)
        except FutureTimeout:  # a class of its own before Python 3.11
            raise TimeoutError(f"worker '{self._thread.name}' did not answer in {timeout} s") from None
        except CancelledError:
            raise RuntimeError(f"worker '{self._thread.name}' has been stopped") from None

    def stop(self, timeout: float) -> bool:
        """End after what is in hand, dropping the slots; False when the thread still runs after `timeout` seconds.

        Who waits for a call then gets a RuntimeError: a driver that hangs must not keep the process from ending.
        """
        with self._condition:
            self._stopping, self._slots = True, {}
            self._condition.notify()
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return True
        with self._condition:
            waiting = [future for _, future in self._calls] + ([self._answering] if self._answering else [])
            self._calls.clear()
        for future in waiting:
            future.cancel()
        return False

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._calls or self._slots or self._stopping)
                call = self._calls.popleft() if self._calls else None
                self._answering = call and call[1]
                items: list[Item] = []
                if call is None:
                    if self._stopping:
                        return
                    items, self._slots = list(self._slots.values()), {}
            if call is not None:
                self._answer(*call)
                self._answering = None
            else:
                try:
                    self._process(items)
                except Exception as error:
                    self._report(items, error)
            del call, items  # or a frame, or a model inside a closure, would stay alive until the next one comes

    def _report(self, items: list[Item], error: Exception) -> None:
        try:
            self._failed(items, error)
        except Exception:  # as of a publisher while the process shuts down: whoever calls next must not wait in vain
            logger.exception("a failure could not be told: %s", error)

    @staticmethod
    def _answer(function: Callable[[], Any], future: Future) -> None:
        with contextlib.suppress(InvalidStateError):  # `stop` has cancelled it
            try:
                result = function()
            except BaseException as error:  # handed over whole: the caller decides
                future.set_exception(error)
            else:
                future.set_result(result)
