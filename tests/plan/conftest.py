"""The described machines are importable by name, whichever test folder runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a tiny real checkpoint."""
    from plan_machines import write_checkpoint

    return write_checkpoint(tmp_path / "tiny")
