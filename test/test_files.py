"""Files are written whole or not at all, through links, and never in a device's or a folder's place."""

from __future__ import annotations

import os

import pytest

from flowclas_ros.errors import FlowclasError
from flowclas_ros.files import replacing, require_writable


def test_a_link_is_followed_and_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    for text in ("first", "second"):
        with replacing(tmp_path / "link") as temporary:
            temporary.write_text(text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "file").read_text() == text
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["file"]


def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a device, not a file"), replacing(tmp_path / "pipe"):
        raise AssertionError("nothing is written")
    assert not (tmp_path / "pipe").is_file()


def test_a_place_is_tried_and_left_as_it_was(tmp_path):
    require_writable(tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("kept")
    require_writable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(FlowclasError, match="cannot write /proc/nowhere/file: "):
        require_writable(type(tmp_path)("/proc/nowhere/file"))
