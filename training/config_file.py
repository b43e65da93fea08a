"""YAML plus command-line overrides to a tree of options: every key known, every value typed, every path expanded."""

from __future__ import annotations

import difflib
import os
import re
import types
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.config import FitConfig

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

C = TypeVar("C")


def parse_command(arguments: Sequence[str], cls: type[C], flags: Sequence[str] = ()) -> tuple[C | None, set[str]]:
    """A command line ``[--config FILE] [FLAG ...] [--KEY VALUE ...]``: the configuration and the flags given.

    The configuration is None after ``--help``, which is printed here. Raises FlowclasError as ``load_config`` does.
    """
    rest: list[str] = []
    given: set[str] = set()
    path: str | None = None
    queue = list(arguments)
    while queue:
        item = queue.pop(0)
        if item in ("-h", "--help"):
            print(help_text(cls))
            return None, given
        if item in flags:
            given.add(item)
        elif item == "--config" or item.startswith("--config="):
            path = item.partition("=")[2] or (queue.pop(0) if queue else "")
            if not path:
                raise FlowclasError("option --config lacks its file")
        else:
            rest.append(item)
    return load_config(path, rest, cls), given


def load_config(path: str | Path | None, overrides: Sequence[str] = (), cls: type[C] = FitConfig) -> C:  # type: ignore[assignment]
    """The configuration of a YAML file with overrides such as ``["--loss.alpha", "3", "--seed=1"]`` on top.

    ``${NAME}`` in any text value is an environment variable, ``~`` at its start the home folder. Relative paths
    are relative to the working directory. ``cls`` is the command's tree of options: a dataclass with
    USAGE and SUMMARY for its help.

    Raises:
        FlowclasError: no such file, not YAML, an unknown key (the nearest known one is named), a value of the wrong
            type or out of range, an environment variable that is not set.
    """
    tree = _read_yaml(Path(path)) if path is not None else {}
    origin = str(path) if path is not None else "command line"
    known = flat_keys(cls)
    _check_keys(tree, cls, known, origin)
    for key, value in _parse_overrides(overrides, known):
        _set(tree, key, value, known)
    return _build(_expand(tree, ""), cls)


def flat_keys(cls: type = FitConfig, prefix: str = "") -> dict[str, Any]:
    """Every option's dotted name and its type, groups included: ``{"loss": LossConfig, "loss.alpha": float, ...}``."""
    keys: dict[str, Any] = {}
    hints = get_type_hints(cls)
    for item in fields(cls):  # type: ignore[arg-type]
        keys[prefix + item.name] = hints[item.name]
        if is_dataclass(hints[item.name]):
            keys |= flat_keys(hints[item.name], f"{prefix}{item.name}.")
    return keys


def config_yaml(config: Any) -> str:
    """The whole configuration as YAML that load_config reads back to an equal one."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def help_text(cls: type = FitConfig) -> str:
    """Every option with its type, default and meaning."""
    return _parser(cls).format_help()


def _parser(cls: Any) -> ArgumentParser:
    from jsonargparse import ArgumentParser  # here, so that a FitConfig made in Python is fitted without it

    parser = ArgumentParser(
        prog=cls.USAGE.partition(" --")[0],
        usage=cls.USAGE,
        description=f"{cls.SUMMARY} Give options in the YAML file or as --KEY VALUE.",
        exit_on_error=False,
    )
    parser.add_class_arguments(cls)
    return parser


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FlowclasError(f"configuration '{path}' does not exist; give a YAML file to --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FlowclasError(f"configuration '{path}' cannot be read: {error}") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise FlowclasError(f"configuration '{path}' is not valid YAML: {reason}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise FlowclasError(f"configuration '{path}' holds a {type(tree).__name__}; it must hold keys and values")
    return tree


def _parse_overrides(arguments: Sequence[str], known: dict[str, Any]) -> list[tuple[str, Any]]:
    pairs = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or flag == "--":
            raise FlowclasError(f"argument '{flag}' has no option before it; overrides read --key value")
        key, equals, text = flag[2:].partition("=")
        if not _is_known(key, known):
            raise FlowclasError(_unknown(f"--{key}", key, known, "--"))
        if not equals:
            if not rest:
                raise FlowclasError(f"option --{key} lacks its value")
            text = rest.pop(0)
        pairs.append((key, _value(text, known.get(key))))
    for key, value in pairs:
        if is_dataclass(known.get(key)):
            if not isinstance(value, dict):
                member = next(name for name in known if name.startswith(f"{key}."))
                raise FlowclasError(f"option --{key} is a group; set one of its members, such as --{member}")
            _check_keys(value, known[key], known, f"--{key}", prefix=f"{key}.")
    return pairs


def _value(text: str, hint: Any) -> Any:
    """As YAML reads it; but an option of text takes all but null and what stands in quotes as it is: 2026, on, a: b."""
    wants_text = hint is str or (_admits_none(hint) and set(get_args(hint)) == {str, type(None)})
    if wants_text and text.lower() not in ("", "~", "null") and text[0] not in "'\"":
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _is_known(key: str, known: dict[str, Any]) -> bool:
    """Known itself, or inside an option that holds a free dictionary, such as model.backbone.kwargs.pad_type."""
    parents = [key[: match.start()] for match in re.finditer(r"\.", key)]
    return key in known or any(_is_free(known.get(parent)) for parent in parents)


def _is_free(hint: Any) -> bool:
    return get_origin(hint) is dict


def _unknown(shown: str, key: str, known: dict[str, Any], dash: str = "") -> str:
    # A key right in its last part but in the wrong group is nearer than one that merely looks alike.
    leaf = key.rsplit(".", 1)[-1]
    same_leaf = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
    near_leaf = difflib.get_close_matches(leaf, {k.rsplit(".", 1)[-1] for k in known}, n=1)
    guesses = same_leaf or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    guesses = guesses or [k for k in known if near_leaf and k.rsplit(".", 1)[-1] == near_leaf[0]]
    hint = f"did you mean {dash}{guesses[0]}?" if guesses else "see --help for all options"
    return f"unknown option {shown}; {hint}"


def _check_keys(tree: dict[str, Any], cls: type, known: dict[str, Any], origin: str, prefix: str = "") -> None:
    hints = get_type_hints(cls)
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if name not in known:
            raise FlowclasError(f"{origin}: {_unknown(name, name, known)}")
        if is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise FlowclasError(f"{origin}: {name} is a group of options, but holds {value!r}")
            _check_keys(value, hints[key], known, origin, f"{name}.")  # type: ignore[arg-type]
        elif value is None and not _admits_none(hints[key]):
            raise FlowclasError(f"{origin}: {name} has no value; give one or leave the key out")


def _admits_none(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _set(tree: dict[str, Any], key: str, value: Any, known: dict[str, Any]) -> None:
    *groups, leaf = key.split(".")
    if value is None and key in known and not _admits_none(known[key]):
        raise FlowclasError(f"option --{key} cannot be null")
    for group in groups:
        tree = tree.setdefault(group, {})
    if isinstance(value, dict) and isinstance(tree.get(leaf), dict):
        tree[leaf] = {**tree[leaf], **value}
    else:
        tree[leaf] = value


def _expand(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {k: _expand(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_expand(v, key) for v in value]
    if not isinstance(value, str) or "regex" in key:
        return value

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise FlowclasError(
                f"{key}: the environment variable {name} in '{value}' is not set; export {name}=... or write the path"
            )
        return os.environ[name]

    return os.path.expanduser(re.sub(r"\$\{(\w+)\}", replace, value))


def _build(tree: dict[str, Any], cls: type[C]) -> C:
    parser = _parser(cls)
    # Called instantiate_classes before jsonargparse 4.49, which anomalib does not admit yet.
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    try:
        parsed = instantiate(parser.parse_object(tree))
    except FlowclasError:
        raise
    except Exception as error:  # jsonargparse raises several types; each means: a value does not fit its option
        raise FlowclasError(_one_line(error, flat_keys(cls))) from error
    return cls(**{item.name: getattr(parsed, item.name) for item in fields(cls)})  # type: ignore[arg-type]


def _one_line(error: Exception, known: dict[str, Any]) -> str:
    text = " ".join(str(error).split())
    key = re.search(r'key "([\w.]+)"', text)
    value = re.search(r"(?:Got value|Given value): (.*)$", text)
    if not key:
        return f"configuration: {text}"
    hint = known.get(key.group(1))
    expected = str(getattr(hint, "__name__", hint) if isinstance(hint, type) else hint).replace("typing.", "")
    return f"{key.group(1)} is {value.group(1) if value else 'wrong'}; it must be of type {expected}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def changed_keys(one: Any, other: Any) -> list[str]:
    """Dotted names of the options that differ."""

    def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in tree.items():
            flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return flat

    a, b = flatten(_plain(asdict(one))), flatten(_plain(asdict(other)))
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
