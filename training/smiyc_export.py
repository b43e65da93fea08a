"""Scores as the SegmentMeIfYouCan toolkit (road-anomaly-benchmark) reads them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.images import write_bytes
from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.benchmarks import Pair
from flowclas_ros.training.data_sets import Benchmark


class SmiycExport:
    """Writes `anomaly_p/<method>/<data set>/<frame>.hdf5` below a folder: variable `value`, (H,W) float32.

    That is the layout of the toolkit's `DIR_OUTPUTS`; its own writer stores float16, its reader takes either, and
    float16 would change AUPRC in the second digit. Without a folder nothing is written.

    Raises:
        FlowclasError: the benchmark is none of the toolkit's.
    """

    def __init__(self, folder: Path | None, benchmark: Benchmark, name: str | None, *, method: str) -> None:
        if folder is not None and benchmark.export is None:
            raise FlowclasError(
                f"--export is for smiyc_anomaly, smiyc_obstacle and lost_and_found, not for {name or 'own folders'}: "
                "`flowclas predict` writes scores of any images"
            )
        self._folder = folder / "anomaly_p" / method if folder is not None else None
        self._names = benchmark.export

    def add(self, pair: Pair, score: npt.NDArray[np.float32]) -> None:
        """Write a frame's score map. Raises FlowclasError when it cannot be written."""
        if self._folder is None or self._names is None:
            return
        everything, _, labelled = self._names
        frame = pair.image.stem.removesuffix("_leftImg8bit")
        for name in (everything, labelled if pair.mask is not None else None):
            if name is not None:
                _write(self._folder / name / f"{frame}.hdf5", score)


def _write(path: Path, score: npt.NDArray[np.float32]) -> None:
    import h5py

    whole = io.BytesIO()  # HDF5 crashes the process where it cannot write to the disk itself
    with h5py.File(whole, "w") as file:
        file.create_dataset("value", data=score.astype(np.float32, copy=False), compression="gzip")
    write_bytes(path, whole.getvalue())
