"""Hazards over time: the same number for the same thing, confirmed before it is listed, held when it is missed.

In doubt a hazard stays. A confirmed one that is not seen in a frame is listed on as it was last seen ("coasting",
`missed` says for how many frames) until it was missed `forget_frames` frames in a row; likewise a place that depth
does not give in this frame. Nothing is extrapolated: the place is the last measured one, in the camera's frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.geometry import Location
from flowclas_ros.detection.regions import Region
from flowclas_ros.errors import FlowclasError

# Frames that arrive out of order step back by a frame or two; a bag that starts again or a clock that is set steps
# back by more. Taking the first for the second would throw confirmed hazards away.
BACKWARD_TOLERANCE = 500_000_000  # nanoseconds
MIN_IOU, MAX_DISTANCE = 0.2, 1.0  # of the boxes; metres
MOST = 500  # regions, and tracks; more than this are a threshold gone wrong, and the strongest are kept


@dataclass(frozen=True, eq=False)
class TrackedHazard:
    """A confirmed hazard. id: from 1 on, never used twice by one tracker. seen: frames in which it was seen.

    missed: frames in a row, this one included, in which it was not seen; 0 when `region` is of this frame.
    location: where depth last placed it, None when it never did or longer ago than forget_frames.
    location_missed: frames in a row, this one included, without a place from depth; 0 when it is of this frame.
    """

    id: int
    region: Region
    location: Location | None
    seen: int
    missed: int
    location_missed: int


class HazardTracker:
    """Numbers the regions of frame after frame. One tracker per camera, one thread.

    confirm_frames: frames in which a hazard must be seen before it is listed, 1: at once. They need not be in a row
    (no gap of forget_frames): a far hazard that flickers must be confirmed as well. forget_frames: missed frames in a
    row at which it leaves, 1: with the first. MIN_IOU of the boxes, or MAX_DISTANCE between the positions where both
    have one: either makes a region of this frame the continuation of a hazard, so that a fast one is kept by its place
    and one with noisy depth by its box; among several the nearest in both takes it.

    `pending` is the number of regions of this frame that are not confirmed yet. `notice` says in one line that the
    last update began anew, and why; empty otherwise. Raises FlowclasError for a setting out of range.
    """

    def __init__(self, confirm_frames: int = 1, forget_frames: int = 3) -> None:
        if confirm_frames < 1:
            raise FlowclasError(f"confirm_frames {confirm_frames} is below 1: 1 lists a hazard in its first frame")
        if forget_frames < 1:
            raise FlowclasError(f"forget_frames {forget_frames} is below 1: 1 drops a hazard in its first missed frame")
        self.confirm_frames, self.forget_frames = confirm_frames, forget_frames
        self.pending = 0
        self.notice = ""
        self._tracks: list[TrackedHazard] = []  # the unconfirmed as well
        self._next_id = 1
        self._stamps: deque[int] = deque(maxlen=2)  # of the last frames, nanoseconds

    def reset(self) -> None:
        """Forget every hazard. Ids go on from where they were."""
        self._tracks, self.pending = [], 0
        self._stamps.clear()

    def update(
        self, regions: Sequence[Region], locations: Sequence[Location | None] | None, stamp: int | None
    ) -> list[TrackedHazard]:
        """The confirmed hazards after a frame, seen or held, highest peak first.

        regions: of `find_regions`. locations: their places, one each, or None without depth. stamp: of the frame,
        nanoseconds, None or 0 when it has none; a step back by more than half a second behind the last two frames
        begins anew.
        """
        self._look_at_the_clock(stamp or None)
        regions = regions[:MOST]
        places = list(locations)[: len(regions)] if locations is not None else [None] * len(regions)
        if len(places) != len(regions):
            raise ValueError(f"{len(regions)} regions but {len(places)} locations")
        match = self._associate(regions, places)
        tracks = [
            self._missed(track) if index is None else self._seen(track, regions[index], places[index])
            for track, index in zip(self._tracks, match, strict=True)
        ]
        taken = {index for index in match if index is not None}
        for index, (region, place) in enumerate(zip(regions, places, strict=True)):
            if index not in taken:
                tracks.append(TrackedHazard(self._next_id, region, place, 1, 0, 0 if place else 1))
                self._next_id += 1
        tracks = [track for track in tracks if track.missed < self.forget_frames]
        if len(tracks) > MOST:
            # confirmed before not, seen before held: what flickers all over must not crowd out what stays
            tracks.sort(key=lambda track: (track.seen < self.confirm_frames, track.missed, -track.region.peak))
        self._tracks = tracks[:MOST]
        confirmed = [track for track in self._tracks if track.seen >= self.confirm_frames]
        self.pending = sum(track.seen < self.confirm_frames and not track.missed for track in self._tracks)
        return sorted(confirmed, key=lambda hazard: -hazard.region.peak)

    def _look_at_the_clock(self, stamp: int | None) -> None:
        self.notice = ""
        if stamp is None:
            return
        # of two, so that a single stamp from the future does not make the next frame a step back
        if min(self._stamps, default=stamp) - stamp > BACKWARD_TOLERANCE:
            back = self._stamps[-1] - stamp
            self.notice = f"time stepped back by {back * 1e-9:.2f} s: hazards are tracked anew"
            self.reset()
        self._stamps.append(stamp)

    def _seen(self, track: TrackedHazard, region: Region, place: Location | None) -> TrackedHazard:
        if place is not None:
            return replace(track, region=region, location=place, seen=track.seen + 1, missed=0, location_missed=0)
        return replace(self._without_place(track), region=region, seen=track.seen + 1, missed=0)

    def _missed(self, track: TrackedHazard) -> TrackedHazard:
        return replace(self._without_place(track), missed=track.missed + 1)

    def _without_place(self, track: TrackedHazard) -> TrackedHazard:
        age = track.location_missed + 1
        return replace(track, location=track.location if age < self.forget_frames else None, location_missed=age)

    def _associate(self, regions: Sequence[Region], places: Sequence[Location | None]) -> list[int | None]:
        """For each track the index of its region, best pairs first, each region once."""
        match: list[int | None] = [None] * len(self._tracks)
        if not self._tracks or not regions:
            return match
        overlap = iou([track.region.bbox for track in self._tracks], [region.bbox for region in regions])
        distance = _distances([track.location for track in self._tracks], places)
        near = 1.0 - distance / MAX_DISTANCE  # 0 or more within it, -inf where a position is missing
        allowed = (overlap >= MIN_IOU) | (near >= 0)
        affinity = overlap + np.maximum(near, 0.0)
        free = np.ones(len(regions), dtype=bool)
        rows, columns = np.nonzero(allowed)
        for pair in np.argsort(-affinity[rows, columns], kind="stable"):
            row, column = int(rows[pair]), int(columns[pair])
            if match[row] is None and free[column]:
                match[row] = column
                free[column] = False
        return match


def iou(first: Sequence[tuple[int, int, int, int]], second: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    """Intersection over union, (N, M), of boxes (x, y, width, height)."""
    a, b = np.asarray(first, dtype=np.float64)[:, None], np.asarray(second, dtype=np.float64)[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0.0).prod(axis=-1)
    return shared / (a[..., 2:].prod(axis=-1) + b[..., 2:].prod(axis=-1) - shared)


def _distances(first: Sequence[Location | None], second: Sequence[Location | None]) -> npt.NDArray[np.float64]:
    """Metres, (N, M); infinite where either has no position."""
    a, b = (
        np.asarray([place.position if place else (np.nan,) * 3 for place in places], dtype=np.float64)
        for places in (first, second)
    )
    distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return np.where(np.isnan(distance), np.inf, distance)
