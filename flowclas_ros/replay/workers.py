"""Many bags over several processes: a bag that fails, or takes its process with it, is named and the rest still run."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from flowclas_ros.allocator import keep_freed_memory
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.search import load
from flowclas_ros.replay.one_bag import Result, replay_bag
from flowclas_ros.replay.run_bag import Job

if TYPE_CHECKING:
    from flowclas_ros.detection.detector import Detector

logger = logging.getLogger(__name__)

INTERRUPT = {signal.SIGINT}
Outcome = list[Result] | FlowclasError
_detector: Detector | None = None  # of this process, when it is a worker


def in_turn(tasks: dict[Path, Path], job: Job) -> Iterator[tuple[Path, Outcome]]:
    """Each bag with its results, or with why there are none, one after the other in this process. tasks: the folder of
    each bag. Raises FlowclasError when there is no detector to be had.
    """
    detector = load(job.settings)
    try:
        for bag, folder in tasks.items():
            yield bag, _outcome(bag, folder, detector, job)
    finally:
        detector.close()


def in_parallel(tasks: dict[Path, Path], job: Job, workers: int) -> Iterator[tuple[Path, Outcome]]:
    """The same over `workers` processes with a detector each, in the order in which they end."""
    load(job.settings).close()  # a wrong checkpoint is one error here, not one for each bag
    idle: queue.SimpleQueue[ProcessPoolExecutor] = queue.SimpleQueue()
    for _ in range(workers):
        idle.put(_worker(job, workers))

    def one(bag: Path, folder: Path) -> Outcome:
        worker = idle.get()
        try:
            return worker.submit(_in_worker, bag, folder, job).result()
        except BrokenProcessPool:  # a pool of one process each, so that it is known whose fault it was
            worker.shutdown()
            worker = _worker(job, workers)
            return FlowclasError(f"bag {bag}: its process was killed, for lack of memory perhaps: use fewer --workers")
        finally:
            idle.put(worker)

    # These threads start the workers, which inherit what is blocked: Ctrl-C waits until they have done with importing.
    with ThreadPoolExecutor(
        workers, initializer=signal.pthread_sigmask, initargs=(signal.SIG_BLOCK, INTERRUPT)
    ) as threads:
        bags: dict[Future[Outcome], Path] = {threads.submit(one, *task): task[0] for task in tasks.items()}
        try:
            for done in as_completed(bags):
                yield bags[done], done.result()
        finally:  # interrupted: what has not begun must not begin
            threads.shutdown(wait=True, cancel_futures=True)
            while not idle.empty():
                idle.get().shutdown()


def _outcome(bag: Path, folder: Path, detector: Detector, job: Job) -> Outcome:
    try:
        return replay_bag(bag, folder, detector, job)
    except FlowclasError as error:
        return error
    except Exception as error:  # a fault of ours, or of the machine: the other bags must not pay for it
        logger.exception("unexpected")
        return FlowclasError(f"{type(error).__name__}: {error}")


def _worker(job: Job, workers: int) -> ProcessPoolExecutor:
    """One process; spawned, since CUDA and threads do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(job, workers))


def _begin(job: Job, workers: int) -> None:
    global _detector
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))  # while it waits there is nothing to tidy up
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPT)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    keep_freed_memory()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    _detector = load(job.settings)


def _end_with_parent() -> None:
    """A parent that was killed tells its workers nothing: they would stay, and their memory with them."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_worker(bag: Path, folder: Path, job: Job) -> Outcome:
    waiting = signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C takes the half-done results away
    try:
        detector = _detector
        assert detector is not None  # made by _begin
        return _outcome(bag, folder, detector, job)
    finally:
        signal.signal(signal.SIGINT, waiting)
