"""Arguments of the launch files, which arrive as text. Importing this needs no ROS."""

from __future__ import annotations


def is_true(name: str, value: str) -> bool:
    """The argument's value as a bool. Raises RuntimeError for any other word."""
    if value.lower() not in ("true", "false", "1", "0"):
        raise RuntimeError(f"{name}:={value} is neither true nor false")
    return value.lower() in ("true", "1")
