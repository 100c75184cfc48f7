"""Weights as tensors: mapped, cast, dequantized once, Q and K in Hugging Face's order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import HEADS, HIDDEN, KV_HEADS, llama_tensors, metadata
from gguf_writer import write_gguf

from deploykit.checkpoint import CheckpointError, convert, read_facts
from deploykit.checkpoint.convert import converted_file
from deploykit.checkpoint.dequant import dequantize
from deploykit.checkpoint.weights import iter_weights
from deploykit.errors import DeploykitError


def test_a_folder_mapped_and_cast(folder: Path, tmp_path: Path) -> None:
    facts = read_facts(folder)
    weights = dict(iter_weights(facts, "bfloat16", tmp_path))
    assert list(weights) == ["model.embed_tokens.weight", "model.norm.weight"]
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    raw = (folder / "model-00001-of-00002.safetensors").read_bytes()[-32 * 8 * 2 :]
    assert weights["model.embed_tokens.weight"].view(torch.int16).numpy().tobytes() == raw
    wide = dict(iter_weights(facts, "float32", tmp_path))
    assert torch.equal(wide["model.embed_tokens.weight"], weights["model.embed_tokens.weight"].float())
    assert not (tmp_path / "converted").exists()


def test_an_unknown_dtype_and_a_changed_file(folder: Path, tmp_path: Path) -> None:
    facts = read_facts(folder)
    with pytest.raises(CheckpointError, match="int3"):
        next(iter_weights(facts, "int3", tmp_path))
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut short"):
        list(iter_weights(facts, "float32", tmp_path))


def interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """What a converter does to Hugging Face's Q or K for ggml's pairwise rotation."""
    rows = weight.shape[0]
    return weight.view(heads, 2, rows // heads // 2, -1).transpose(1, 2).reshape(weight.shape)


def test_a_gguf_in_hugging_faces_order(tiny_gguf: Path, tmp_path: Path) -> None:
    facts = read_facts(tiny_gguf)
    weights = dict(iter_weights(facts, "float32", tmp_path / "cache"))
    assert {n: tuple(w.shape) for n, w in weights.items()} == {t.name: t.shape for t in facts.tensors}
    stored = {name: (kind, shape, raw) for name, kind, shape, raw in llama_tensors()}

    def plain(name: str) -> torch.Tensor:
        kind, shape, raw = stored[name]
        dtype = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(kind, kind.lower())
        rows = np.frombuffer(raw, np.uint8).reshape(shape[0] if len(shape) > 1 else 1, -1)
        return torch.from_numpy(dequantize(rows, dtype).copy()).view(shape)

    assert torch.equal(weights["model.embed_tokens.weight"], plain("token_embd.weight"))
    for i in range(2):
        layer, block = f"model.layers.{i}", f"blk.{i}"
        assert torch.equal(weights[f"{layer}.mlp.down_proj.weight"], plain(f"{block}.ffn_down.weight"))
        assert torch.equal(weights[f"{layer}.self_attn.v_proj.weight"], plain(f"{block}.attn_v.weight"))
        assert torch.equal(weights[f"{layer}.self_attn.o_proj.weight"], plain(f"{block}.attn_output.weight"))
        q, k = weights[f"{layer}.self_attn.q_proj.weight"], weights[f"{layer}.self_attn.k_proj.weight"]
        assert torch.equal(interleave(q, HEADS), plain(f"{block}.attn_q.weight"))
        assert torch.equal(interleave(k, KV_HEADS), plain(f"{block}.attn_k.weight"))
        assert not torch.equal(q, plain(f"{block}.attn_q.weight"))


def test_q_biases_are_permuted_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = {"q": 64, "k": 32, "v": 32, "output": 64}
    values = {(i, p): rng.standard_normal(n).astype("<f4") for i in range(2) for p, n in sizes.items()}
    biases = [(f"blk.{i}.attn_{p}.bias", "F32", (len(v),), v.tobytes()) for (i, p), v in values.items()]
    facts = read_facts(write_gguf(tmp_path / "m.gguf", metadata(), [*llama_tensors(), *biases]))
    weights = dict(iter_weights(facts, "float32", tmp_path / "cache"))
    q = weights["model.layers.1.self_attn.q_proj.bias"]
    assert torch.equal(interleave(q[:, None], HEADS)[:, 0], torch.from_numpy(values[1, "q"].copy()))
    assert np.array_equal(weights["model.layers.1.self_attn.v_proj.bias"].numpy(), values[1, "v"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_targets(tiny_gguf: Path, tmp_path: Path, dtype: str) -> None:
    facts = read_facts(tiny_gguf)
    exact = dict(iter_weights(facts, "float32", tmp_path / "cache"))
    for name, weight in iter_weights(facts, dtype, tmp_path / "cache"):
        assert torch.equal(weight, exact[name].to(getattr(torch, dtype))), name


def test_chunks_do_not_matter(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = read_facts(tiny_gguf)
    whole = converted_file(facts, "float32", tmp_path / "a").read_bytes()
    monkeypatch.setattr(convert, "_CHUNK_ELEMENTS", 3 * HIDDEN)
    assert converted_file(facts, "float32", tmp_path / "b").read_bytes() == whole


def test_converted_once_and_again_for_another_file(tiny_gguf: Path, tmp_path: Path) -> None:
    facts = read_facts(tiny_gguf)
    first = converted_file(facts, "float32", tmp_path)
    stamp = first.stat().st_mtime_ns
    assert converted_file(facts, "float32", tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    assert converted_file(facts, "bfloat16", tmp_path) != first
    write_gguf(tiny_gguf, metadata(), llama_tensors(seed=9))  # the same header, other weights
    os.utime(tiny_gguf, ns=(1, 1))
    assert converted_file(read_facts(tiny_gguf), "float32", tmp_path) != first


def test_an_interrupted_conversion_leaves_nothing(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = read_facts(tiny_gguf)
    calls = 0

    def stop(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return dequantize(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(convert, "dequantize", stop)
    with pytest.raises(KeyboardInterrupt):
        converted_file(facts, "float32", tmp_path)
    assert list((tmp_path / "converted").iterdir()) == []
    monkeypatch.undo()
    assert len(dict(iter_weights(facts, "float32", tmp_path))) == len(facts.tensors)


def test_a_full_disk_is_said_before_anything_is_written(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploykit.hub.disk.free_bytes", lambda path: 1000)
    with pytest.raises(DeploykitError) as e:
        converted_file(read_facts(tiny_gguf), "float32", tmp_path)
    assert "disk space" in str(e.value)
    assert str(tmp_path) in str(e.value)
    assert not (tmp_path / "converted").exists()


def test_two_processes_convert_once(tiny_gguf: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from deploykit.checkpoint import read_facts;"
        "from deploykit.checkpoint.convert import converted_file;"
        "converted_file(read_facts(sys.argv[1]), 'float32', Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(tiny_gguf), str(tmp_path)]
    workers = [subprocess.Popen(command) for _ in range(2)]
    assert [w.wait() for w in workers] == [0, 0]
    (folder,) = (tmp_path / "converted").iterdir()
    assert [p.name for p in folder.iterdir()] == ["model.safetensors"]


def test_weights_too_large_for_float16_are_named(tmp_path: Path) -> None:
    tensors = llama_tensors()
    index = next(i for i, t in enumerate(tensors) if t[0] == "output_norm.weight")
    tensors[index] = ("output_norm.weight", "F32", (HIDDEN,), np.full(HIDDEN, 1e6, "<f4").tobytes())
    facts = read_facts(write_gguf(tmp_path / "m.gguf", metadata(), tensors))
    with pytest.raises(CheckpointError, match="float16") as e:
        list(iter_weights(facts, "float16", tmp_path / "cache"))
    assert e.value.tensor == "model.norm.weight"


def test_the_real_model(smollm2: Path) -> None:
    """Q4_1 and Q8_0 of the real file, mapped from the shared cache."""
    from deploykit.fsutil import cache_dir

    weights = dict(iter_weights(read_facts(smollm2), "bfloat16", cache_dir()))
    assert sum(w.numel() for w in weights.values()) == 134_515_008
    row = weights["model.embed_tokens.weight"][:1000].float()
    assert bool(row.isfinite().all())
    assert 0.05 < float(row.std()) < 0.5


def test_no_code_of_a_folder_is_run(tmp_path: Path) -> None:
    """Every file that a loader of code would import touches a canary; the weights are loaded without it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from deploykit.engine.pytorch.model import load_model

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=2, architectures=["LlamaForCausalLM"])
    home, canary = tmp_path / "model", tmp_path / "canary"
    LlamaForCausalLM(config).save_pretrained(home)
    for name in ("modeling_evil", "configuration_evil", "tokenization_evil", "quantizer_evil", "__init__"):
        (home / f"{name}.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Evil:\n    pass\n")
    evil = {"AutoConfig": "configuration_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
    for file in ("config.json", "generation_config.json"):
        content = json.loads((home / file).read_text())
        (home / file).write_text(json.dumps({**content, "auto_map": evil, "trust_remote_code": True}))
    facts = read_facts(home)
    loaded = load_model(facts, iter_weights(facts, "float32", tmp_path), torch.float32, lambda fraction: None)
    assert isinstance(loaded, LlamaForCausalLM)
    assert "auto_map" not in json.dumps([facts.config, loaded.config.to_dict(), facts.generation_config])
    assert not canary.exists()
