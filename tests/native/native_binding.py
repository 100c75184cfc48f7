"""What the tests of the binding share: the module itself, and a small engine over the null device."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from deploykit.engine.types import Admit, SamplingParams, pack
from deploykit.errors import DeploykitError

VOCAB, BLOCK_LEN = 500, 8
OPTIONS: dict[str, Any] = {
    "device": "null",
    "block_len": BLOCK_LEN,
    "num_blocks": 64,
    "max_rows": 8,
    "session_len": 256,
    "max_step_tokens": 128,
}


def open_native() -> ModuleType:
    """The library, or the test is skipped where it is not built."""
    from deploykit.engine.native.library import open_library

    try:
        return open_library()
    except DeploykitError as error:
        pytest.skip(f"the native library is not there: {error}")


def model() -> dict[str, Any]:
    attention = {"heads": 2, "kv_heads": 1, "head_dim": 32, "scale": 0.18, "rope": 0}
    layer = {"attention": attention, "mlp": {"intermediate": 32}}
    return {
        "hidden": 16,
        "vocab": VOCAB,
        "ropes": [{"inv_freq": [1.0, 0.1]}],
        "layers": [layer],
        "tied": True,
    }


def make_engine(native: ModuleType) -> Any:
    engine = native.Engine(model(), [], OPTIONS)
    engine.finish_loading()
    return engine


def admit(row: int, tokens: list[int], *, limit: int = 20, **params: Any) -> Admit:
    sampling = SamplingParams(**{"temperature": 0, **params})
    return Admit(
        row=row,
        epoch=1,
        tokens=pack(tokens),
        prompt_len=len(tokens),
        computed=0,
        limit=limit,
        sampling=sampling,
        seed=7,
    )
