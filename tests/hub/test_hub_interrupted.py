"""A full disk at 200 random bytes and SIGKILL at 100 random moments: nothing half visible, the next fetch is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_fakes import FakeHub, Fault

PROGRAM = Path(__file__).parent / "fetcher.py"


@pytest.fixture
def memory() -> Iterator[Path]:
    """A cache in memory where there is such a file system: hundreds of fetches flush thousands of times."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder) / "cache"


def run(what: str, hub: FakeHub, cache: Path, rounds: int) -> dict[str, Any]:
    command = [sys.executable, str(PROGRAM), what, hub.endpoint, str(cache), str(rounds), "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def small_model(hub: FakeHub) -> None:
    hub.files = {
        "config.json": b"{}" * 500,
        "model.safetensors": os.urandom(200_000),
    }


def test_a_disk_that_is_full_at_any_byte(hub: FakeHub, memory: Path) -> None:
    small_model(hub)
    got = run("disk", hub, memory, 200)
    assert got["failed"] == 200


def test_killed_at_any_moment(hub: FakeHub, memory: Path) -> None:
    small_model(hub)
    # The part that takes the time is where most are killed.
    hub.always["model.safetensors"] = Fault(delay=0.002)
    got = run("kill", hub, memory, 100)
    assert got["resumed"] >= 5
