"""What is fitted on and what is held out have nothing in common: else a checkpoint is chosen by what it has seen, and
its thresholds are of scenes that it knows by heart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.data_config import DataConfig, OutlierConfig
from flowclas_ros.training.outliers import CocoObjects, OutlierSource


def require_apart(data: DataConfig, train: Sequence[Path], val: Sequence[Path]) -> None:
    """Raise FlowclasError where a frame of ``val`` is one of ``train`` too, a frame of either lies in data.exposed or
    data.exposed_val, or data.outliers_val or data.exposed_val names what data.outliers or data.exposed does.
    """
    real = {of: list(zip(frames, _resolved(frames), strict=True)) for of, frames in (("train", train), ("val", val))}
    seen = {there for _, there in real["train"]}
    both = [path for path, there in real["val"] if there in seen]
    if both:
        raise FlowclasError(
            f"{len(both)} of {len(val)} validation frames are training frames as well, such as '{both[0]}'; give "
            "data.train and data.val folders that share nothing (each is searched with all that is below it)"
        )
    for name, scenes in (("exposed", data.exposed), ("exposed_val", data.exposed_val)):
        folder = None if scenes is None else (Path(scenes) / "images").resolve()
        for of, frames in real.items():
            below = [path for path, there in frames if folder is not None and there.is_relative_to(folder)]
            if below:
                raise FlowclasError(
                    f"data.{of} holds '{below[0]}', which is of data.{name}, whose scenes hold outliers: "
                    f"give data.{of} other folders (each is searched with all that is below it)"
                )
    pairs = {"outliers": _same_objects(data.outliers, data.outliers_val)}
    if data.exposed is not None and data.exposed_val is not None:
        pairs["exposed"] = _overlap(Path(data.exposed) / "images", Path(data.exposed_val) / "images")
    for name, shared in pairs.items():
        if shared:
            raise FlowclasError(
                f"data.{name} and data.{name}_val both hold '{shared}': give {name}_val others, or leave it out"
            )


def require_other_photos(ours: OutlierSource, theirs: OutlierSource) -> None:
    """Raise FlowclasError where two COCO files name the same photos of one folder."""
    if not (isinstance(ours, CocoObjects) and isinstance(theirs, CocoObjects)):
        return
    if ours.root.resolve() != theirs.root.resolve():
        return
    shared = sorted({ours.origin(i) for i in range(len(ours))} & {theirs.origin(i) for i in range(len(theirs))})
    if shared:
        raise FlowclasError(
            f"'{ours.json}' and '{theirs.json}' share {len(shared)} photos of '{ours.root}', such as '{shared[0]}': "
            "give outliers_val others, or leave it out"
        )


def _resolved(paths: Sequence[Path]) -> list[Path]:
    """Without links; each folder is followed once, since following it for every file takes seconds."""
    folders = {folder: folder.resolve() for folder in {path.parent for path in paths}}
    return [path.resolve() if path.is_symlink() else folders[path.parent] / path.name for path in paths]


def _same_objects(ours: OutlierConfig, theirs: OutlierConfig) -> Path | None:
    """The folder, or the COCO json, whose objects both have; photos may be of one folder where two jsons part them."""
    for kind in ("cutouts", "masks", "coco_json"):
        if getattr(ours, kind) is not None and getattr(theirs, kind) is not None:
            where = "images" if kind == "masks" else kind
            return _overlap(Path(getattr(ours, where)), Path(getattr(theirs, where)))
    return None


def _overlap(one: Path, other: Path) -> Path | None:
    """The inner of two folders of which one lies in the other, or is it."""
    if one.resolve().is_relative_to(other.resolve()):
        return one
    return other if other.resolve().is_relative_to(one.resolve()) else None
