"""flowclas demo: ends by itself with table and pictures, and leaves no process behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from node_support import LOAD_TIMEOUT, START_TIMEOUT

from flowclas_ros.node.demo_processes import processes

pytestmark = pytest.mark.alone

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.msg", reason="needs the generated messages (make, or colcon build)")

DEMO_TIMEOUT = START_TIMEOUT + LOAD_TIMEOUT  # seconds, ends a hung test
SECONDS, RATE = 3, 5


def demo(*arguments):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "flowclas_ros.node.demo",
            "--seconds",
            str(SECONDS),
            "--rate",
            str(RATE),
            "--device",
            "cpu",
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def children_of(folder):
    """Command lines of the processes that a demo with this output folder, or its checkpoint, has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_text().replace("\0", " ")
                mine = f"FLOWCLAS_TEST={folder}" in (entry / "environ").read_text()
            except OSError:
                continue
            if mine and "flowclas_ros.node" in line:
                found.append(line)
    return found


@pytest.fixture
def marked(tmp_path, monkeypatch):
    """A folder whose name every process of the test's demo carries in its environment."""
    monkeypatch.setenv("FLOWCLAS_TEST", str(tmp_path))
    yield tmp_path
    assert children_of(tmp_path) == []


def table_of(out, columns):
    """The printed table as {row: [cell of each column]}."""
    split = (line.split("│") for line in out.splitlines())
    return {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in split if len(cells) == columns + 3}


@pytest.mark.timeout(6 * DEMO_TIMEOUT)
def test_the_demo_plays_both_samples_and_ends_with_a_table_pictures_and_reports(marked):
    process = demo("--output", marked / "out")
    out, err = process.communicate(timeout=6 * DEMO_TIMEOUT)
    assert process.returncode == 0, err
    rows = table_of(out, columns=2)
    assert rows["frames sent"] == [str(SECONDS * RATE)] * 2
    for found in rows["replay: objects found"]:
        some, every = map(int, found.split(" of "))
        assert 0 < some <= every
    for domain in ("orbit", "road"):
        folder = marked / "out" / domain
        sheet = cv2.imread(str(folder / "contact_sheet.png"))
        assert sheet.shape[1] > 4 * 300  # camera, ground truth, heat, overlay
        report = folder / "replay" / "report.html"
        assert report.is_file() and str(report) in out


def test_a_source_of_ones_own_ends_with_a_table_and_pictures(marked, checkpoint):
    (marked / "images").mkdir()
    for i in range(4):
        picture = np.random.default_rng(i).integers(0, 255, (96, 128, 3), dtype=np.uint8)
        cv2.imwrite(str(marked / "images" / f"{i}.png"), picture)
    process = demo("--source", marked / "images", "--checkpoint", checkpoint, "--output", marked / "out")
    out, err = process.communicate(timeout=DEMO_TIMEOUT)
    assert process.returncode == 0, err
    rows = {row: cells[0] for row, cells in table_of(out, columns=1).items()}
    assert rows["frames sent"] == str(SECONDS * RATE)
    assert int(rows["frames processed"]) > 0
    assert rows["latency from stamp to mask, median"].endswith(" ms")
    assert "in" in rows["hazards seen"]
    for name in ("contact_sheet.png", "latency.png"):
        assert cv2.imread(str(marked / "out" / name)).std() > 10


def test_a_checkpoint_that_the_detector_refuses_ends_the_demo_with_one_line(marked, checkpoint):
    damaged = marked / "damaged.safetensors"
    damaged.write_bytes(checkpoint.read_bytes()[:500])
    process = demo("--checkpoint", damaged, "--output", marked / "out")
    _, err = process.communicate(timeout=DEMO_TIMEOUT)
    assert process.returncode == 2
    assert len(err.strip().splitlines()) == 1 and "truncated or damaged" in err and "detector_node.log" in err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--checkpoint", "nowhere.safetensors"], "checkpoint 'nowhere.safetensors' does not exist"),
        (["--source", "nowhere"], "source 'nowhere' does not exist"),
        (["--source", "."], "--source needs --checkpoint"),
    ],
)
def test_what_cannot_be_played_is_refused_at_once(marked, arguments, words):
    process = demo(*arguments, "--output", marked / "out")
    _, err = process.communicate(timeout=DEMO_TIMEOUT)
    assert process.returncode == 2 and words in err and len(err.strip().splitlines()) == 1
    assert not (marked / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_takes_its_processes_with_it(marked, checkpoint, number):
    process = demo("--checkpoint", checkpoint, "--output", marked / "out", "--seconds", 1000)
    end = time.monotonic() + START_TIMEOUT
    while len(children_of(marked)) < 3:  # demo, camera, detector
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(number)
    process.communicate(timeout=DEMO_TIMEOUT)
    assert process.returncode != 0


def test_an_interrupt_while_a_process_is_being_started_loses_none(tmp_path, monkeypatch):
    started = []

    def popen(*arguments, **options):
        started.append(Popen(*arguments, **options))
        os.kill(os.getpid(), signal.SIGINT)  # it has begun, and nobody has it yet
        return started[0]

    Popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(KeyboardInterrupt), processes() as start:
        start("node.camera", "--help", log=tmp_path / "log.txt")
        pytest.fail("the interrupt was forgotten")
    assert started[0].returncode is not None


def test_the_detector_dying_ends_the_demo_with_one_line(marked, checkpoint):
    process = demo("--checkpoint", checkpoint, "--output", marked / "out", "--seconds", 1000)
    log = marked / "out" / "orbit" / "detector_node.log"
    end = time.monotonic() + DEMO_TIMEOUT
    while not (log.exists() and "active" in log.read_text()):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    subprocess.run(["kill", "-9", *detector_pids(marked)], check=True)
    _, err = process.communicate(timeout=DEMO_TIMEOUT)
    assert process.returncode == 2
    assert "the detector ended with status -9" in err and len(err.strip().splitlines()) == 1


def detector_pids(folder):
    return [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
        and "detector_node" in (entry / "cmdline").read_text()
        and f"FLOWCLAS_TEST={folder}" in (entry / "environ").read_text()
    ]
