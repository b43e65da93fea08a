"""What every benchmark writes beside its figures: machine, versions, date, command, seed."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a plain checkout is enough
RESULTS = ROOT / "benchmarks" / "results"

from flowclas_ros.allocator import keep_freed_memory  # noqa: E402  the path comes first

keep_freed_memory()  # as the command and the nodes do


def kit_folder() -> Path:
    """The kit (README, benchmarks), or exit with a line that says where it was looked for."""
    folder = Path(os.environ.get("FLOWCLAS_KIT") or ROOT.parent / "shared" / "kit")
    if not (folder / "README.md").is_file():
        sys.exit(f"error: no kit at {folder}: set FLOWCLAS_KIT")
    return folder


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def provenance(seed: int | list[int] | None = None) -> dict[str, Any]:
    """Machine, versions, date, command and seed as plain JSON values."""
    import torch

    versions = {"python": platform.python_version()}
    for package in ("torch", "timm", "lightning", "numpy", "opencv-python-headless", "anomalib"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "machine": {
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": versions,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.executable).name, *sys.argv]),
        "seed": seed,
    }


def _commit() -> str | None:
    """The checkout's, with a word where files besides results are not as they were committed; None without git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return (f"{commit}, changed" if changed else commit) or None


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The lines of a table, without one at the end."""
    head, *body = ("| " + " | ".join(cells) + " |" for cells in (columns, *rows))
    return "\n".join([head, "|" + "---|" * len(columns), *body])


def write_result(name: str, figures: dict[str, Any], seed: int | list[int] | None = None) -> Path:
    """Write ``benchmarks/results/<name>.json`` (or into ``$OUT`` where that is set); returns its path."""
    from flowclas_ros.detection.images import write_json

    path = Path(os.environ.get("OUT") or RESULTS) / f"{name}.json"
    write_json(path, {"provenance": provenance(seed), **figures})
    return path
