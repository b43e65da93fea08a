"""What the frames of a recording are worth against the ground truth beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.detector import Detector
from flowclas_ros.detection.interpreter import Finding
from flowclas_ros.detection.regions import find_regions
from flowclas_ros.detection.tracking import HazardTracker
from flowclas_ros.errors import FlowclasError
from flowclas_ros.replay.masks import Mask
from flowclas_ros.replay.recording import Recorded
from flowclas_ros.training.metrics import ComponentMetrics, PixelMetrics

_PIXELS = ("auprc", "auroc", "fpr95", "f1_max")
_SMALLEST = 100  # pixels of a true component that counts, as on SegmentMeIfYouCan's Anomaly track
_IGNORED = np.uint8(255)
_LARGE = 400  # pixels above which an object of the ground truth counts as one to be found


@dataclass
class Seen:
    """An object of the ground truth: the frame (index, stamp in ns) in which it was first seen with more than _LARGE
    pixels, and that in which a hazard first touched it, from then on; `frames` with a mask lie between the two.
    """

    id: int
    visible_frame: int
    visible_ns: int
    visible_number: int  # of the frame with a mask
    largest: int  # pixels
    found_frame: int | None = None
    found_ns: int | None = None
    frames: int | None = None

    def row(self) -> dict[str, Any]:
        """For metrics.json and the report."""
        return {
            "object": self.id,
            "visible_frame": self.visible_frame,
            "visible_ns": self.visible_ns,
            "largest_pixels": self.largest,
            "found_frame": self.found_frame,
            "found_ns": self.found_ns,
            "frames": self.frames,
            "seconds": None if self.found_ns is None else (self.found_ns - self.visible_ns) * 1e-9,
        }


class Judgement:
    """Frames against their masks; memory grows by two numbers a component.

    Components and objects are judged by what the detector flags: at the threshold in use and from min_area on, where
    the benchmark of the component metrics takes the threshold of the best pixel F1.
    """

    def __init__(self, detector: Detector):
        self._detector = detector
        self.pixels = PixelMetrics(streaming=True)
        self._components = ComponentMetrics(0.5, min_predicted=detector.min_area, min_truth=_SMALLEST)
        self.frames = 0
        self._normal = self._flagged = self._episodes = 0
        self._in_episode = False
        self._watched = 0  # nanoseconds; time that begins anew goes on
        self._before: tuple[int, int] | None = None  # index and stamp
        self._tracker = HazardTracker(1, 3)
        self._seen: dict[int, Seen] = {}

    def add(self, mask: Mask, finding: Finding, recorded: Recorded) -> None:
        """A frame's finding against its mask."""
        judged, stamp_ns = finding.judged, recorded.stamp_ns
        # what is not searched, the robot's own arm say, is neither right nor wrong
        self.pixels.update(judged.score, mask if judged.searched is None else np.where(judged.searched, mask, _IGNORED))
        self._components.update(judged.mask.astype(np.float32), mask)
        normal = mask == 0
        if judged.searched is not None:
            normal &= judged.searched
        self._normal += int(np.count_nonzero(normal))
        self._flagged += int(np.count_nonzero(normal & judged.mask))
        false = any(not hazard.missed and _is_false(hazard.region.bbox, finding, mask) for hazard in finding.hazards)
        self._episodes += false and not self._in_episode
        self._in_episode = false
        index = int(recorded.index or 0)
        if self._before is not None and index == self._before[0] + 1:  # else nobody knows what lies between
            self._watched += max(stamp_ns - self._before[1], 0)
        self._before = (index, stamp_ns)
        self._watch(mask, finding, recorded)
        self.frames += 1

    def figures(self) -> dict[str, Any]:
        """Figures by name, None for one that these masks cannot give."""
        found = [seen for seen in self._seen.values() if seen.frames is not None]
        late = found if len(found) == len(self._seen) else []  # no number is high enough for one that was never found
        figures: dict[str, Any] = {
            "labelled_frames": self.frames,
            "false_alarm_rate_asked": self._detector.false_alarm_rate,
            "false_alarm_rate_observed": self._flagged / self._normal if self._normal else None,
            "false_alarm_episodes": self._episodes,
            "false_alarm_episodes_per_minute": None,
            "objects": len(self._seen),
            "objects_missed": len(self._seen) - len(found),
            "detection_frames_max": max((seen.frames or 0 for seen in late), default=None),
            "detection_seconds_max": max((seen.row()["seconds"] for seen in late), default=None),
            **{name: None for name in _PIXELS},
        }
        components = self._components.compute()
        figures.update({name: components[name] for name in ("siou", "ppv", "f1_star")})
        minutes = self._watched / 60e9
        if minutes > 0:
            figures["false_alarm_episodes_per_minute"] = self._episodes / minutes
        try:
            result = self.pixels.compute().to_dict()
        except FlowclasError as error:
            figures["pixels_note"] = str(error)
        else:
            figures.update({name: result[name] for name in (*_PIXELS, "pixels", "anomaly_pixels")})
        return figures

    def objects(self) -> list[dict[str, Any]]:
        """How long each object of the ground truth took to be found."""
        return [seen.row() for seen in self._seen.values()]

    def calibration(self) -> dict[str, Any]:
        """Whether the share of normal pixels that was flagged is within the one asked for; `kept` is None where none
        was (a threshold instead), or where no pixel is normal.
        """
        asked = self._detector.false_alarm_rate
        observed = self._flagged / self._normal if self._normal else None
        kept = None if asked is None or observed is None else observed <= asked
        return {"asked": asked, "observed": observed, "kept": kept, "normal_pixels": self._normal}

    def _watch(self, mask: Mask, finding: Finding, recorded: Recorded) -> None:
        """Objects of the truth from frame to frame by their boxes, and when each is first touched."""
        truth = mask == 1
        regions = find_regions(truth, finding.judged.score, _LARGE + 1) if truth.any() else []
        for track in self._tracker.update(regions, None, recorded.stamp_ns):
            if track.missed:
                continue
            number = int(recorded.index or 0)
            seen = self._seen.setdefault(
                track.id, Seen(track.id, number, recorded.stamp_ns, self.frames, track.region.area)
            )
            seen.largest = max(seen.largest, track.region.area)
            if seen.frames is None and _touched(track.region.bbox, finding, truth):
                seen.found_frame, seen.found_ns = number, recorded.stamp_ns
                seen.frames = self.frames - seen.visible_number


def _is_false(bbox: tuple[int, int, int, int], finding: Finding, mask: Mask) -> bool:
    """Whether none of the flagged pixels in the box is an anomaly or ignored."""
    x, y, width, height = bbox
    box = (slice(y, y + height), slice(x, x + width))
    return not bool((finding.judged.mask[box] & (mask[box] != 0)).any())


def _touched(bbox: tuple[int, int, int, int], finding: Finding, truth: npt.NDArray[np.bool_]) -> bool:
    """Whether a listed hazard of this frame holds a pixel of the object in the box."""
    x, y, width, height = bbox
    own = np.zeros_like(truth)
    box = (slice(y, y + height), slice(x, x + width))
    own[box] = truth[box] & finding.judged.mask[box]
    for hazard in finding.hazards:
        left, top, across, down = hazard.region.bbox
        if not hazard.missed and own[top : top + down, left : left + across].any():
            return True
    return False
