"""What is remembered of a replay's frames: a CSV row each, five numbers each, small pictures of the strangest."""

from __future__ import annotations

import csv
import math
import statistics
from array import array
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.interpreter import Finding
from flowclas_ros.replay.pages import small
from flowclas_ros.replay.recording import Recorded

COLUMNS = (
    "index",
    "stamp_ns",
    "level",
    "peak",
    "share",
    "drift",
    "hazards",
    "hazard_ids",
    "nearest_m",
    "latency_ms",
    "error",
)
_SHOWN = 12  # frames on the contact sheet
_APART = 2.0  # seconds between two of them at most, so that one event does not fill the sheet
_NAMED = 100  # broken frames listed one by one


@dataclass(frozen=True, eq=False)
class Shown:
    """A frame for the contact sheet. picture: (h, w, 3) uint8 RGB."""

    index: int
    stamp_ns: int
    peak: float
    hazards: int
    picture: npt.NDArray[np.uint8]


class Tally:
    """Figures of one bag of `seconds`; memory grows by 48 bytes a frame and by nothing else."""

    def __init__(self, file: TextIO, seconds: float):
        self._apart = min(_APART, seconds / (2 * _SHOWN)) * 1e9
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(COLUMNS)
        self.stamps, self.hazards = array("q"), array("q")
        self.peaks, self.shares, self.latencies = array("d"), array("d"), array("d")
        self.drifts = array("d")  # where it is known
        self._drifted_frames = 0
        self.broken: list[dict[str, Any]] = []
        self.broken_count = 0
        self.shown: list[Shown] = []
        self._hazard_frames = self._hazards = 0
        self._listed: set[int] = set()  # ids in the frame before

    def frame(self, recorded: Recorded, finding: Finding, level: str, latency: float, nearest: float) -> None:
        """A frame that was searched. latency: seconds from the message to its finding. nearest: metres, NaN unknown."""
        judged, ids = finding.judged, [hazard.id for hazard in finding.hazards]
        drift = judged.drift.statistic
        values = (f"{judged.peak:.6g}", f"{judged.anomalous_share:.6g}", "" if math.isnan(drift) else f"{drift:.4f}")
        row = (*values, len(ids), " ".join(map(str, ids)))
        near = "" if math.isnan(nearest) else f"{nearest:.3f}"
        self._rows.writerow((recorded.index, recorded.stamp_ns, level, *row, near, f"{latency * 1e3:.3f}", ""))
        self.stamps.append(recorded.stamp_ns)
        self.hazards.append(len(ids))
        self.peaks.append(judged.peak)
        self.shares.append(judged.anomalous_share)
        if not math.isnan(drift):
            self.drifts.append(drift)
            self._drifted_frames += judged.drift.drifted
        self.latencies.append(latency)
        self._hazard_frames += bool(ids)
        # a hazard is listed without a gap and its id never comes back; those never confirmed use up ids as well
        self._hazards += len(set(ids) - self._listed)
        self._listed = set(ids)

    def failed(self, recorded: Recorded, reason: str) -> None:
        """A frame that was not."""
        reason = " ".join(reason.split())
        self._rows.writerow((recorded.index, recorded.stamp_ns, "FAULT", "", "", "", "", "", "", "", reason))
        self.broken_count += 1
        if len(self.broken) < _NAMED:
            self.broken.append({"index": recorded.index, "stamp_ns": recorded.stamp_ns, "error": reason})

    def figures(self) -> dict[str, Any]:
        """Figures by name; at least one frame must have been searched."""
        latencies = np.frombuffer(self.latencies) * 1e3
        percentiles = {f"latency_p{p}_ms": float(np.percentile(latencies, p)) for p in (50, 90, 99)}
        return {
            "frames": len(self.stamps),
            "broken_frames": self.broken_count,
            "hazard_frames": self._hazard_frames,
            "hazards": self._hazards,
            "peak_max": max(self.peaks),
            "anomalous_share_mean": statistics.fmean(self.shares),
            "drift_max": max(self.drifts) if self.drifts else None,
            "drifted_share": self._drifted_frames / len(self.drifts) if self.drifts else None,
            "latency_mean_ms": float(latencies.mean()),
            **percentiles,
            "latency_max_ms": float(latencies.max()),
        }

    def show(self, recorded: Recorded, finding: Finding, picture: npt.NDArray[np.uint8]) -> None:
        """Keep the overlays (H,W,3) RGB of the highest peaks, of frames near each other in time the higher.

        May be called from another thread than the rest.
        """
        peak, stamp = finding.judged.peak, recorded.stamp_ns
        near = [shown for shown in self.shown if abs(shown.stamp_ns - stamp) < self._apart]
        if any(shown.peak >= peak for shown in near):
            return
        rest = [shown for shown in self.shown if shown not in near]
        if len(rest) >= _SHOWN and min(shown.peak for shown in rest) >= peak:
            return
        new = Shown(int(recorded.index or 0), stamp, peak, len(finding.hazards), small(picture))
        self.shown = sorted([*rest, new], key=lambda shown: -shown.peak)[:_SHOWN]
