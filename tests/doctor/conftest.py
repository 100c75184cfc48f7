"""A healthy machine, and a context whose files are all made up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploykit.doctor import Context

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "plan")]


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    """`context(machine=…, environ=…)`; its root is an empty folder."""
    import plan_machines

    def make(**changes: Any) -> Context:
        fields: dict[str, Any] = {
            "machine": plan_machines.machine(),
            "cache": tmp_path / "cache",
            "state": tmp_path / "state",
            "root": tmp_path / "root",
            "environ": {},
        }
        return Context(**(fields | changes))

    return make


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a tiny real checkpoint."""
    from plan_machines import write_checkpoint

    return write_checkpoint(tmp_path / "tiny")
