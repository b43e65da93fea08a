"""Two replays of one bag, frame by frame: figures of each, pixels and hazards that only one of them found."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.conversion import header_ns, to_rgb
from flowclas_ros.progress import progress_bar
from flowclas_ros.replay.annotated import message_store
from flowclas_ros.replay.frames import messages
from flowclas_ros.replay.one_bag import FORMAT
from flowclas_ros.replay.pages import small
from flowclas_ros.replay.run_bag import METRICS, TABLE

Box = tuple[int, int, int, int]  # x, y, width, height in pixels
SHARED = 0.5  # of the smaller box: hazards whose boxes overlap by so much in a frame are the same thing
SHOWN = 8  # frames that differ most
_APART = 2.0  # seconds between two of them at most


@dataclass(frozen=True, eq=False)
class Run:
    """A finished replay of one camera. rows: of metrics.csv by the frame's index, frames that were searched alone: a
    stamp comes again where time begins anew, or is never set.
    """

    folder: Path
    name: str
    metrics: dict[str, Any]
    rows: dict[int, dict[str, str]]

    @property
    def annotated(self) -> Path:
        """The annotated bag, which may have been taken away since."""
        return (self.folder / self.metrics["annotated"]["file"]).resolve()

    def topic(self, name: str) -> str:
        """That of an output."""
        return str(self.metrics["annotated"]["topics"]) + name


@dataclass
class Hazard:
    """A hazard of one run. shared: whether the other run found it too, in any frame."""

    id: int
    first_ns: int
    last_ns: int
    frames: int = 0
    peak: float = -np.inf
    shared: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class FramePair:
    """A frame in both runs: level, peak (nats per dimension), share, hazards, latency (ms) of each, and the shares of
    the frame's pixels that only one flags, NaN where the masks are not to be had.
    """

    index: int
    stamp_ns: int
    level: tuple[str, str]
    peak: tuple[float, float]
    share: tuple[float, float]
    hazards: tuple[int, int]
    latency_ms: tuple[float, float]
    alone: tuple[float, float] = (float("nan"), float("nan"))

    def row(self) -> list[Any]:
        """In the order of `Comparison.columns`."""
        pairs = (self.level, self.peak, self.share, self.hazards, self.latency_ms, self.alone)
        return [self.index, self.stamp_ns, *(value for pair in pairs for value in pair)]

    @property
    def difference(self) -> tuple[bool, float]:
        """What frames are ranked by: only one lists a hazard, then the share of pixels that only one flags."""
        return bool(self.hazards[0]) != bool(self.hazards[1]), sum(self.alone)


@dataclass(eq=False)
class Comparison:
    """Both runs, their common frames in order, hazards by id, and overlays of the frames that differ most."""

    runs: tuple[Run, Run]
    frames: list[FramePair]
    hazards: tuple[dict[int, Hazard], dict[int, Hazard]] = field(default_factory=lambda: ({}, {}))
    pictures: list[tuple[FramePair, list[npt.NDArray[np.uint8]]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    columns = (
        *("index", "stamp_ns"),
        *(f"{name}_{run}" for name in ("level", "peak", "share", "hazards", "latency_ms", "alone") for run in "ab"),
    )


def load_run(folder: Path) -> Run:
    """The run in `folder`. Raises FlowclasError where its files are not whole, or not of this version."""
    try:
        metrics = json.loads((folder / METRICS).read_text())
        with open(folder / TABLE, newline="") as file:
            rows = {int(row["index"]): row for row in csv.DictReader(file) if row["peak"]}
        if metrics["format"] != FORMAT:
            raise FlowclasError(f"run {folder} was written by another version: replay it again with --overwrite")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FlowclasError(f"run {folder} cannot be read ({error}): replay it again with --overwrite") from error
    return Run(folder, f"{metrics['model']['name']} ({metrics['model']['sha256'][:12]})", metrics, rows)


def compare_frames(first: Run, second: Run) -> Comparison:
    """Raises FlowclasError for runs of different bags or topics, and for runs without a common frame."""
    bags = [run.metrics["bag"] for run in (first, second)]
    if any(bags[0][name] != bags[1][name] for name in ("sha256_of_ends", "topic")):
        raise FlowclasError(
            f"runs {first.folder} and {second.folder} are of different bags ({bags[0]['path']} {bags[0]['topic']}, "
            f"{bags[1]['path']} {bags[1]['topic']}): replay both checkpoints on the same one"
        )
    frames = {index: _pair(row, second.rows[index]) for index, row in first.rows.items() if index in second.rows}
    if not frames:
        raise FlowclasError(f"runs {first.folder} and {second.folder} have no searched frame in common")
    comparison = Comparison((first, second), [])
    apart = len(first.rows) + len(second.rows) - 2 * len(frames)
    if apart:
        comparison.notes.append(f"{apart} frame(s) were searched in one run alone")
    missing = [str(run.annotated) for run in comparison.runs if not run.annotated.is_file()]
    times: dict[int, int] = {}
    if missing:
        comparison.notes.append(f"{' and '.join(missing)} is missing: pixels, hazards and pictures are not compared")
    else:
        times = _compare_annotated(comparison, frames)
    comparison.frames = sorted(frames.values(), key=lambda frame: frame.index)
    if times:
        comparison.pictures = _pictures(comparison, times)
    return comparison


def _pair(*rows: dict[str, str]) -> FramePair:
    kinds = (("level", str), ("peak", float), ("share", float), ("hazards", int), ("latency_ms", float))
    index, stamp = int(rows[0]["index"]), int(rows[0]["stamp_ns"])
    return FramePair(index, stamp, **{name: tuple(kind(row[name]) for row in rows) for name, kind in kinds})  # type: ignore[arg-type]


def _compare_annotated(comparison: Comparison, frames: dict[int, FramePair]) -> dict[int, int]:
    """Fill in the frames' `alone` and the hazards, in one pass over both bags; times of recording by index."""
    times: dict[int, int] = {}
    first, second = (contextlib.closing(_frames_of(run)) for run in comparison.runs)
    with first as ones, second as others, progress_bar("compare", len(frames), "frames") as advance:
        other = next(others, None)
        for one in ones:
            while other is not None and other.place < one.place:
                other = next(others, None)
            if other is None or other.place != one.place:
                continue
            alone = (float((one.mask & ~other.mask).mean()), float((other.mask & ~one.mask).mean()))
            frames[one.index] = FramePair(**{**vars(frames[one.index]), "alone": alone})
            times[one.index] = one.bag_ns
            _compare_hazards(comparison, frames[one.index].stamp_ns, one, other)
            advance()
    return times


@dataclass(frozen=True, eq=False)
class _Frame:
    index: int
    bag_ns: int
    mask: npt.NDArray[np.bool_]
    hazards: list[Any]  # messages

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in the bag; several frames may have been recorded at one time."""
        return self.bag_ns, self.index


def _frames_of(run: Run) -> Generator[_Frame, None, None]:
    """Masks and hazards of the run's annotated bag, frame by frame."""
    wanted = {run.topic(name): name for name in ("mask", "hazards")}
    indices: dict[int, list[int]] = {}  # by stamp, the last first
    for index in sorted(run.rows, reverse=True):
        indices.setdefault(int(run.rows[index]["stamp_ns"]), []).append(index)
    waiting: dict[str, Any] = {}
    with _open(run.annotated) as reader:
        connections = [connection for connection in reader.connections if connection.topic in wanted]
        missing = wanted.keys() - {connection.topic for connection in connections}
        if missing:
            raise _of_another(run, f"no {' and no '.join(sorted(missing))}")
        for connection, bag_ns, raw in messages(reader, run.annotated, connections):
            waiting[wanted[connection.topic]] = reader.deserialize(raw, connection.msgtype)
            if len({header_ns(message) for message in waiting.values()}) == 1 and len(waiting) == 2:
                mask = to_rgb(waiting["mask"])[..., 0] > 0
                stamp_ns = header_ns(waiting["mask"]) or bag_ns
                if not indices.get(stamp_ns):
                    raise _of_another(run, f"a frame at {stamp_ns} that {TABLE} has not")
                yield _Frame(indices[stamp_ns].pop(), bag_ns, mask, waiting["hazards"].hazards)
                waiting = {}


def _of_another(run: Run, what: str) -> FlowclasError:
    return FlowclasError(
        f"annotated bag {run.annotated} has {what}: it is another replay's, so replay {run.folder} again with "
        "--overwrite"
    )


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    from rosbags.highlevel import AnyReader

    try:
        with AnyReader([path], default_typestore=message_store()) as reader:
            yield reader
    except FlowclasError:
        raise
    except Exception as error:  # rosbags' own errors
        raise FlowclasError(
            f"annotated bag {path} cannot be read ({error}): replay it again with --overwrite"
        ) from error


def _compare_hazards(comparison: Comparison, stamp_ns: int, *frames: _Frame) -> None:
    seen = [[hazard for hazard in frame.hazards if not hazard.frames_missed] for frame in frames]
    for known, own, other in zip(comparison.hazards, seen, seen[::-1], strict=True):
        for hazard in own:
            entry = known.setdefault(hazard.id, Hazard(int(hazard.id), stamp_ns, stamp_ns))
            entry.last_ns = stamp_ns
            entry.frames += 1
            entry.peak = max(entry.peak, float(hazard.peak_score))
            entry.shared = entry.shared or any(_overlap(_box(hazard), _box(one)) >= SHARED for one in other)


def _box(hazard: Any) -> Box:
    box = hazard.bbox
    return int(box.x_offset), int(box.y_offset), int(box.width), int(box.height)


def _overlap(a: Box, b: Box) -> float:
    """Shared area of two boxes as a share of the smaller one's."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(across, 0) * max(down, 0) / max(min(a[2] * a[3], b[2] * b[3]), 1)


def _pictures(comparison: Comparison, times: dict[int, int]) -> list[tuple[FramePair, list[npt.NDArray[np.uint8]]]]:
    """Overlays of the frames that differ most, not too near to each other in time."""
    compared = [frame for frame in comparison.frames if frame.index in times]
    apart = min(_APART * 1e9, (max(times.values()) - min(times.values())) / (2 * SHOWN))
    chosen: list[FramePair] = []
    for frame in sorted(compared, key=lambda frame: frame.difference, reverse=True):
        near = any(abs(times[frame.index] - times[other.index]) < apart for other in chosen)
        if frame.difference > (False, 0.0) and not near and len(chosen) < SHOWN:
            chosen.append(frame)
    twins = Counter[tuple[int, int]]()  # frames so far of one time of recording and one stamp
    places: dict[int, tuple[int, int, int]] = {}
    for frame in compared:
        at = (times[frame.index], frame.stamp_ns)
        places[frame.index] = (*at, twins[at])
        twins[at] += 1
    found: dict[int, list[npt.NDArray[np.uint8]]] = {frame.index: [] for frame in chosen}
    for run in comparison.runs:
        with _open(run.annotated) as reader:
            for frame in chosen:
                overlays = _overlays(reader, run.topic("overlay"), *places[frame.index])
                found[frame.index] += [small(to_rgb(message)) for message in overlays]
    return [(frame, found[frame.index]) for frame in chosen if len(found[frame.index]) == 2]


def _overlays(reader: Any, topic: str, bag_ns: int, stamp_ns: int, number: int) -> Iterator[Any]:
    """The one message of this time of recording and stamp, the `number`th from 0 of such; none where there is none."""
    connections = [connection for connection in reader.connections if connection.topic == topic]
    if connections:
        raws = reader.messages(connections=connections, start=bag_ns, stop=bag_ns + 1)
        every = (reader.deserialize(raw, connection.msgtype) for connection, _, raw in raws)
        same = (message for message in every if (header_ns(message) or bag_ns) == stamp_ns)
        yield from itertools.islice(same, number, number + 1)
