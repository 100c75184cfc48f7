"""The native engine on GGUF files of every architecture that it runs, read as they are stored."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from native_driver import check_logits, load

sys.path.insert(0, str(Path(__file__).parent.parent / "checkpoint"))

import gguf_models

from deploykit.checkpoint import read_facts
from deploykit.engine.native.families import FAMILIES
from deploykit.engine.native.memory import supported

pytestmark = pytest.mark.usefixtures("native_library")
TOKENS = [i * 7 % 150 + 3 for i in range(60)]


@pytest.mark.parametrize("name", gguf_models.MODELS)
def test_logits_are_the_models(name: str, tmp_path: Path) -> None:
    reference = gguf_models.build(name, tmp_path / "m.gguf")
    facts = read_facts(tmp_path / "m.gguf")
    if facts.architecture not in FAMILIES:
        assert "is not among" in (supported(facts) or "")
        return
    runner, capacity = load(tmp_path / "m.gguf", session_len=64)  # Phi-3: the shorter of its two ropes
    assert check_logits(runner, capacity, reference, TOKENS) < 2e-4
    runner.close()
