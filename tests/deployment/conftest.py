from __future__ import annotations

from pathlib import Path

import pytest
import tiny_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder named Tiny-Llama."""
    return tiny_checkpoint.make(tmp_path_factory.mktemp("models") / "Tiny-Llama")


@pytest.fixture(autouse=True)
def _fake_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_TESTING", "1")
    monkeypatch.setenv("DEPLOYKIT_RUNNER", "fake")
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))
