"""The log: bounded, readable while it is written, and never a reason to fail."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from supervised import wait_until

from deploykit.supervise.log import BoundedLog, follow, previous_of, tail


def texts(lines: list[str]) -> list[str]:
    return [line.split(" | ", 1)[1] for line in lines]


def test_a_run_begins_a_new_log_and_keeps_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for run in ("one", "two", "three"):
        log = BoundedLog(path)
        log.write("engine", run)
        log.close()
    assert texts(tail(path, 10)) == ["three"]
    assert texts(tail(previous_of(path), 10)) == ["two"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_never_takes_more_than_two_files(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "log", max_bytes=1000)
    for i in range(500):
        log.write("engine", f"line {i}")
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 2000
    assert len(list(tmp_path.iterdir())) == 2
    assert texts(tail(tmp_path / "log", 1)) == ["line 499"]


@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_tail(tmp_path: Path, count: int) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"%d %s\n" % (i, b"x" * 5000) for i in range(50)))
    assert [line.split()[0] for line in tail(path, count)] == [str(i) for i in range(50)][
        50 - min(count, 50) :
    ]
    assert tail(tmp_path / "none", 5) == []


def test_follow_shows_every_line_once_over_rotations(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = BoundedLog(path, max_bytes=5000)
    log.write("engine", "before")
    seen: list[str] = []
    running = threading.Event()
    running.set()
    thread = threading.Thread(
        target=lambda: seen.extend(follow(path, 10, running.is_set, interval=0.001)), daemon=True
    )
    thread.start()
    wait_until(lambda: len(seen) == 1, "the line that was there")
    for i in range(300):
        # Two rotations between two looks would be one too many: it keeps up.
        wait_until(lambda i=i: len(seen) >= i - 20, "the follower")
        log.write("engine", f"line {i}")
    running.clear()
    thread.join(10)
    assert texts(seen) == ["before", *(f"line {i}" for i in range(300))]


def test_follow_ends_with_the_deployment_and_shows_its_last_words(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = BoundedLog(path)
    log.write("engine", "last words")
    assert texts(list(follow(path, 5, lambda: False))) == ["last words"]
    assert list(follow(tmp_path / "none", 5, lambda: True)) == []


def test_a_folder_that_is_gone_costs_lines_only(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    log = BoundedLog(folder / "log")
    log.write("engine", "lost")
    log.close()
