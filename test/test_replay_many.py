"""`flowclas replay` of many bags: over processes, past one that fails, and on from where a run was stopped."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from node_support import picture
from replay_support import RESULTS, SECOND, TOPIC, frames, replay
from test_frames import compressed, record

from flowclas_ros.cli import main

ROOT = Path(__file__).parents[1]
PATIENCE = 240.0  # seconds; ends a hung test, nothing is measured by it
pytestmark = pytest.mark.timeout(
    2 * PATIENCE
)  # each worker imports torch anew, which a busy machine takes its time for


@pytest.fixture
def day(tmp_path):
    """A folder of three short bags."""
    (tmp_path / "day").mkdir()
    for name in ("a", "b", "c"):
        record(tmp_path / "day" / name, {TOPIC: frames()[:2]})
    return tmp_path / "day"


def test_processes_share_the_bags_and_name_one_that_is_broken(day, tmp_path, checkpoint, capsys):
    (day / "bad.mcap").write_bytes(b"\x89MCAP0\r\n nothing")
    assert replay(day, checkpoint, tmp_path / "out", "--workers", "2") == 2
    printed = capsys.readouterr()
    assert "bad.mcap" in printed.err
    for name in ("a", "b", "c"):
        assert {path.name for path in (tmp_path / "out" / name).iterdir()} == RESULTS
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["bags"]
    assert [Path(bag).name for bag in summary] == ["a", "b", "bad.mcap", "c"]
    assert "error" in summary[str(day / "bad.mcap")] and summary[str(day / "a")][TOPIC]["figures"]["frames"] == 2
    (day / "bad.mcap").unlink()
    assert replay(day, checkpoint, tmp_path / "out", "--workers", "2", "--require", "frames>=3") == 1
    printed = capsys.readouterr()
    assert printed.out.count("finished before") == 3 and printed.out.count("FAILED frames>=3") == 6


def test_a_bag_whose_process_is_killed_is_named_and_the_rest_still_run(day, tmp_path, checkpoint, capsys):
    def kill_the_first() -> None:
        end = time.monotonic() + PATIENCE
        while not multiprocessing.active_children() and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    assert replay(day, checkpoint, tmp_path / "out", "--workers", "2") == 2
    killer.join(PATIENCE)
    assert "its process was killed" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["bags"]
    assert sorted("error" in result for result in summary.values()) == [False, False, True]


def test_a_wrong_checkpoint_is_one_error_for_all_bags(day, tmp_path, capsys):
    assert replay(day, tmp_path / "none.safetensors", tmp_path / "out", "--workers", "2") == 2
    assert capsys.readouterr().err.count("error:") == 1


def start(bags: Path, checkpoint: Path, output: Path, workers: str) -> subprocess.Popen[str]:
    """`flowclas replay` in a process group of its own."""
    command = [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"]
    command[-1] += (
        "import sys; from flowclas_ros.cli import main\nif __name__ == '__main__': sys.exit(main(sys.argv[1:]))"
    )
    command += ["replay", str(bags), "--checkpoint", str(checkpoint), "--output", str(output), "--workers", workers]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def importing(group: int) -> bool:
    """Whether a worker of this process group has come as far as NumPy: past Python's start, before its own code."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # one that ended meanwhile
            if os.getpgid(int(process.name)) == group and b"spawn_main" in (process / "cmdline").read_bytes():
                return "_multiarray_umath" in (process / "maps").read_text()
    return False


def interrupt(running: subprocess.Popen[str]) -> None:
    """Ctrl-C, to all of its processes: it says so, and nothing else."""
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130 and "Traceback" not in err and err.rstrip().endswith("interrupted")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_that_was_stopped_leaves_whole_results_and_goes_on(day, tmp_path, checkpoint, capsys, workers):
    long = [compressed(picture(0), SECOND + index * SECOND // 10) for index in range(1500)]
    for name in ("b", "c"):
        record(day / f"{name}_long", {TOPIC: long})
    running = start(day, checkpoint, tmp_path / "out", workers)
    end = time.monotonic() + PATIENCE
    first = tmp_path / "out" / "a" / "metrics.json"  # of two workers, the other may have begun the long bag before
    while not first.exists() or not list((tmp_path / "out" / "b_long").glob(".unfinished.*/metrics.csv")):
        assert time.monotonic() < end and running.poll() is None, "the long bag was not begun"
        time.sleep(0.02)
    interrupt(running)
    assert not list((tmp_path / "out").rglob(".unfinished.*"))
    done = first.stat().st_mtime_ns
    for name in ("b_long", "c_long"):
        assert not (tmp_path / "out" / name / "metrics.json").exists()
        (day / name).rename(tmp_path / name)
    assert replay(day, checkpoint, tmp_path / "out") == 0
    assert first.stat().st_mtime_ns == done
    assert "finished before" in capsys.readouterr().out


def test_workers_interrupted_while_they_start_say_nothing(day, tmp_path, checkpoint):
    running = start(day, checkpoint, tmp_path / "out", "2")
    end = time.monotonic() + PATIENCE
    while not importing(running.pid):
        assert time.monotonic() < end and running.poll() is None, "no worker was started"
        time.sleep(0.005)
    interrupt(running)


@pytest.mark.parametrize("same_id", [False, True])  # as one killed in a container and begun again often has
def test_what_a_killed_run_left_behind_is_swept_away(day, tmp_path, checkpoint, same_id):
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / "out" / f".unfinished.{os.getpid() if same_id else ended.pid}"
    left.mkdir(parents=True)
    (left / "annotated.mcap").write_bytes(b"half")
    assert replay(day / "a", checkpoint, tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS


def test_folders_that_differ_after_a_dot_have_results_of_their_own(tmp_path, checkpoint):
    for name in ("run_2024.05.01", "run_2024.05.02"):
        record(tmp_path / "day" / name, {TOPIC: frames()[:1]})
    (file,) = record(tmp_path / "more", {TOPIC: frames()[:1]}).glob("*.mcap")
    file.rename(tmp_path / "day" / "run_2024.05.03.mcap")
    assert replay(tmp_path / "day", checkpoint, tmp_path / "out") == 0
    folders = {path.parent.name for path in (tmp_path / "out").glob("*/metrics.json")}
    assert folders == {"run_2024.05.01", "run_2024.05.02", "run_2024.05.03"}


def test_bags_below_linked_folders_are_run_too(day, tmp_path, checkpoint, capsys):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "a").symlink_to(day / "a")
    (linked / "disk").symlink_to(tmp_path / "more")
    record(tmp_path / "more" / "d", {TOPIC: frames()[:1]})
    for number in (1, 2):
        assert replay(linked, checkpoint, tmp_path / f"out{number}") == 0
    assert len(list((tmp_path / "out1").glob("*/metrics.json"))) == 2
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "run").symlink_to(tmp_path / "out2")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "run").symlink_to(tmp_path / "out1")
    assert main(["compare", str(tmp_path / "first"), str(tmp_path / "kept")]) == 0
    assert capsys.readouterr().out.count("A ") >= 2


@pytest.mark.parametrize("topics", [TOPIC, f"{TOPIC},/left/image"])
def test_results_among_the_bags_are_taken_for_none(tmp_path, checkpoint, capsys, topics):
    day = tmp_path / "day"
    bag = record(day / "a", {TOPIC: frames()[:1], "/left/image": frames()[:1]})
    killed = day / "results" / "a" / ".unfinished.1" / "annotated.mcap"
    killed.parent.mkdir(parents=True)
    killed.write_bytes(b"half")
    for _ in range(2):
        assert replay(day, checkpoint, day / "results", "--topic", topics) == 0
        assert list(json.loads((day / "results" / "summary.json").read_text())["bags"]) == [str(bag)]
    assert "finished before" in capsys.readouterr().out
