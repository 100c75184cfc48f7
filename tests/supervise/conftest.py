"""Fixtures of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from supervised import Host, gone, wait_until


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    """Starts supervisors; whatever still runs at the end is killed, and must leave no children."""
    hosts: list[Host] = []

    def start(
        *,
        engine: Sequence[str] = (),
        front: Sequence[str] = (),
        owner_fd: int | None = None,
        **limits: Any,
    ) -> Host:
        hosts.append(Host(list(engine), list(front), limits, owner_fd))
        return hosts[-1]

    yield start
    for each in hosts:
        each.process.kill()
        each.end()
        for pid in each.pids():
            wait_until(lambda pid=pid: gone(pid), f"child {pid} gone", 2.0)


@pytest.fixture
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own, also for the processes it starts."""
    monkeypatch.setenv("DEPLOYKIT_STATE", str(tmp_path / "state"))
    return tmp_path / "state"
