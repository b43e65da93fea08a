"""Where a public data set keeps its files, said in patterns, and one line on what differs where it does not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowclas_ros.detection.images import files_below
from flowclas_ros.errors import FlowclasError

_FIELD = re.compile(r"\{(\w+)(/?)\}")
_SHOWN = 4  # entries of a folder that an error lists


@dataclass(frozen=True)
class Found:
    """A file below a root, and what the fields of its pattern stand for."""

    path: Path
    fields: dict[str, str]


def find(root: Path, pattern: str) -> list[Found]:
    """Files below `root` that match a pattern such as `train/{path/}normal/{id}.png`, in the order of their paths.

    `{id}` stands for part of a name, `{path/}` for any number of folders, none included. Hidden files are left out:
    archives packed on a Mac hold a `._NAME` beside every file.
    """
    regex, last = "", 0
    for field in _FIELD.finditer(pattern):
        name, folders = field.groups()
        regex += re.escape(pattern[last : field.start()])
        regex += f"(?P<{name}>(?:[^/]+/)*?)" if folders else f"(?P<{name}>[^/]+?)"
        last = field.end()
    matcher = re.compile(regex + re.escape(pattern[last:]))
    found = []
    fixed, _, _ = pattern[: pattern.index("{")].rpartition("/")
    for path in files_below(root / fixed):  # also below linked folders, which glob's ** leaves out
        inner = path.relative_to(root)
        match = matcher.fullmatch(inner.as_posix())
        if match and path.is_file() and not path.name.startswith("."):
            found.append(Found(path, match.groupdict()))
    return sorted(found, key=lambda one: one.path)


def find_any(root: Path, patterns: Sequence[str], what: str) -> tuple[str, list[Found]]:
    """The first of the patterns that any file matches, and the files that do.

    Raises FlowclasError when none does: it says what was expected, and what there is as far as the layout holds.
    """
    if not root.is_dir():
        raise FlowclasError(f"{what}: folder {root} does not exist")
    for pattern in patterns:
        found = find(root, pattern)
        if found:
            return pattern, found
    folder, missing = _follow(root, patterns[0])
    raise FlowclasError(
        f"{what}: {root} should hold {' or '.join(patterns)}; no file fits: {folder} has "
        f"{f'no {missing}, but ' if missing else ''}{_contents(folder)}"
    )


def partner(root: Path, templates: Sequence[str], of: Found, what: str) -> Path:
    """The file that belongs to another. Raises FlowclasError when there is none."""
    found = partner_if_any(root, templates, of)
    if found is None:
        expected = " or ".join(_filled(templates, of))
        raise FlowclasError(f"{what}: {of.path} has no partner: expected {expected} in {root}")
    return found


def partner_if_any(root: Path, templates: Sequence[str], of: Found) -> Path | None:
    """The first file that exists of the templates, filled with the fields of another; None where there is none.

    A template may hold `*` for folders that nothing is known of, and is passed over where it holds a field that the
    other's pattern lacks.
    """
    for name in _filled(templates, of):
        for path in sorted(root.glob(name)) if "*" in name else [root / name]:
            if path.is_file():
                return path
    return None


def _filled(templates: Sequence[str], of: Found) -> list[str]:
    known = [one for one in templates if all(name in of.fields for name, _ in _FIELD.findall(one))]
    return [_FIELD.sub(lambda field: of.fields[field[1]], template) for template in known]


def parallel(path: Path, root: Path, mask_root: Path, *, what: str = "mask") -> Path:
    """The file below ``mask_root`` that bears an image's name and place below ``root``.

    Raises:
        FlowclasError: there is none, or the image does not lie below ``root``.
    """
    if not path.is_relative_to(root):
        raise FlowclasError(f"image '{path}' lies not below '{root}': {what}s go with folders, not with splits")
    base = mask_root / path.relative_to(root)
    for suffix in (base.suffix, ".png", ".bmp", ".tif", ".tiff"):
        if base.with_suffix(suffix).is_file():
            return base.with_suffix(suffix)
    raise FlowclasError(f"image '{path}' has no {what} '{base.with_suffix('.png')}'; {what}s bear their images' names")


def part_of_name(path: Path, pattern: str, option: str) -> str:
    """What the pattern's first group, or all of it, finds in a file's name.

    Raises:
        FlowclasError: nothing, or the option's pattern is no regular expression.
    """
    try:
        found = re.search(pattern, path.name)
    except re.error as error:
        raise FlowclasError(f"{option} '{pattern}' is no regular expression: {error}") from error
    if not found:
        raise FlowclasError(f"{option} '{pattern}' does not match the file name '{path.name}'")
    return found.group(1) if found.groups() else found.group(0)


def _follow(root: Path, pattern: str) -> tuple[Path, str]:
    """As far down the pattern's own folders as they exist: the folder, and the name that it lacks."""
    folder = root
    for part in pattern.split("/")[:-1]:
        if "{" in part:
            return folder, ""
        if not (folder / part).is_dir():
            return folder, f"folder '{part}'"
        folder = folder / part
    return folder, ""


def _contents(folder: Path) -> str:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    if not names:
        return "nothing"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
