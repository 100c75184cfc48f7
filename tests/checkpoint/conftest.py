"""Small checkpoints: a llama GGUF with every supported tensor type, and a folder of two shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import CONFIG, llama_tensors, metadata, pack
from gguf_writer import write_gguf


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", metadata(), llama_tensors())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model in Hugging Face's layout, in two shards: bfloat16 and float32."""
    home = tmp_path / "model"
    home.mkdir()
    rng = np.random.default_rng(1)
    embed = (rng.standard_normal(32 * 8).astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    norm = rng.standard_normal(8).astype("<f4").tobytes()
    shards = {
        "model-00001-of-00002.safetensors": {"model.embed_tokens.weight": ("BF16", [32, 8], embed)},
        "model-00002-of-00002.safetensors": {"model.norm.weight": ("F32", [8], norm)},
    }
    for name, tensors in shards.items():
        (home / name).write_bytes(pack(tensors))
    weight_map = {t: name for name, tensors in shards.items() for t in tensors}
    (home / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (home / "config.json").write_text(json.dumps(CONFIG))
    return home


@pytest.fixture
def edit() -> Callable[..., None]:
    """edit(path, key=value, …): change a JSON file; None removes a key."""

    def change(path: Path, **values: Any) -> None:
        content = json.loads(path.read_text()) if path.exists() else {}
        for key, value in values.items():
            if value is None:
                content.pop(key, None)
            else:
                content[key] = value
        path.write_text(json.dumps(content))

    return change
