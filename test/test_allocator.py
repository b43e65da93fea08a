"""Freed memory stays with the process: seen in the page faults of the next allocation."""

import os
import platform
import subprocess
import sys

import pytest

# Blocks of 64 MiB, which glibc left to itself takes from the system, and gives back to it, each time.
# Without huge pages, of which there are more or fewer as other processes leave them: prctl's PR_SET_THP_DISABLE.
_FAULTS = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
import numpy as np
if sys.argv[1] == "kept":
    from flowclas_ros.allocator import keep_freed_memory
    keep_freed_memory()
np.ones(64 << 20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(64 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")


def faults(kind: str, **environment: str) -> int:
    """Page faults of ten blocks, each freed before the next."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", _FAULTS, kind]
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_freed_block_is_used_again_without_page_faults():
    assert faults("kept") < faults("as it comes") / 10


def test_what_the_user_has_set_stays():
    threshold = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # larger blocks come from the system
    assert faults("kept", **threshold) > faults("as it comes", **threshold) / 2
