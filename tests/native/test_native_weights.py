"""Packed and quantized checkpoints: what their bytes mean, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import native_gguf
import numpy as np
import pytest
import torch
from native_quantize import quantize_checkpoint
from native_reference import Reference
from native_zoo import NATIVE_ZOO, build_native
from pytorch_zoo import VOCAB
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from deploykit.checkpoint import CheckpointError, read_facts
from deploykit.checkpoint.raw import RawReader
from deploykit.engine.native.describe import describe
from deploykit.engine.native.errors import UnsupportedError
from deploykit.engine.native.names import manifest
from deploykit.engine.native.pieces import WeightReader

TOKENS = [int(t) for t in np.random.default_rng(1).integers(0, VOCAB, 24)]
# sizes that groups of 32 divide, and that 128 doesn't everywhere
PACKABLE = {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 32}


@pytest.fixture(autouse=True)
def _packable(monkeypatch: pytest.MonkeyPatch) -> None:
    for base in ("llama", "phi3", "llama-bias"):
        name, changes = NATIVE_ZOO[base]
        monkeypatch.setitem(NATIVE_ZOO, f"{base}-packable", (name, {**changes, **PACKABLE}))


def check(reference: PreTrainedModel, path: Path) -> None:
    with torch.inference_mode():
        expected = reference(torch.tensor([TOKENS])).logits[0].float().numpy()
    got = Reference(read_facts(path), session_len=64).logits(TOKENS)
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("base", "method", "options"),
    [
        ("llama", "awq", {}),
        ("llama", "awq", {"group": 64}),
        ("llama-bias", "awq", {"group": 128}),
        ("phi3", "awq", {}),  # fused projections: rows cut out of packed words
        ("llama", "gptq", {}),
        ("llama", "gptq", {"symmetric": True, "group": 64}),
        ("llama", "gptq", {"v2": True, "group": 128}),
        ("llama", "gptq", {"zero_biases": True}),
        ("phi3", "gptq", {"symmetric": True}),
    ],
)
def test_packed_checkpoints_mean_what_was_packed(
    base: str, method: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    model = build_native(f"{base}-packable", tmp_path)
    check(quantize_checkpoint(tmp_path, model, method, **options), tmp_path)


@pytest.mark.parametrize(
    "kind", ["F32", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
)
@pytest.mark.parametrize("tied", [True, False])
def test_gguf_is_described_with_its_own_row_order(kind: str, tied: bool, tmp_path: Path) -> None:
    path = native_gguf.write(tmp_path / "m.gguf", kind, tied)
    check(native_gguf.reference(path, tmp_path / "cache"), path)


def test_stacked_experts_are_found(tmp_path: Path) -> None:
    reference = build_native("qwen3-moe", tmp_path)
    stored, new = load_file(tmp_path / "model.safetensors"), {}
    for i in range(3):
        experts = f"model.layers.{i}.mlp.experts."
        parts = {
            p: torch.stack([stored.pop(f"{experts}{e}.{p}_proj.weight") for e in range(4)])
            for p in ("gate", "up", "down")
        }
        new[experts + "gate_up_proj"] = torch.cat((parts["gate"], parts["up"]), dim=1)
        new[experts + "down_proj"] = parts["down"]
    save_file({**stored, **new}, tmp_path / "model.safetensors")
    check(reference, tmp_path)


# ---------------------------------------------------------------- refused by name


def change_config(folder: Path, key: str, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[key] = {**config.get(key, {}), **values}
    (folder / "config.json").write_text(json.dumps(config))


def reason(path: Path) -> str:
    def resolve() -> None:
        facts = read_facts(path)
        manifest(facts, describe(facts))

    with pytest.raises((UnsupportedError, CheckpointError)) as caught:
        resolve()
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"desc_act": True}, "desc_act"),
        ({"bits": 8}, "8 bits"),
        ({"group_size": -1}, "groups of -1"),
        ({"group_size": 16}, "groups of 16"),
        ({"checkpoint_format": "marlin"}, "marlin"),
        ({"dynamic": {"-:lm_head": {}}}, "dynamic"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"bits": "4"}, "bits"),
    ],
)
def test_other_packings_are_refused_by_name(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    quantize_checkpoint(tmp_path, build_native("llama-packable", tmp_path), "gptq")
    change_config(tmp_path, "quantization_config", **values)
    assert words in reason(tmp_path)


def test_awq_of_another_version_is_refused(tmp_path: Path) -> None:
    quantize_checkpoint(tmp_path, build_native("llama-packable", tmp_path), "awq")
    change_config(tmp_path, "quantization_config", version="gemv")
    assert "gemv" in reason(tmp_path)


@pytest.mark.parametrize(
    ("base", "config", "words"),
    [
        ("llama", {"rope_parameters": {"rope_type": "ntk", "factor": 2.0}}, "'ntk'"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llama", {"hidden_act": "mish"}, "'mish'"),
        ("llama", {"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("llama", {"rms_norm_eps": "tiny"}, "rms_norm_eps"),
        ("qwen2", {"use_sliding_window": True, "layer_types": ["linear_attention"] * 3}, "linear_attention"),
        ("gemma3", {"use_bidirectional_attention": True}, "causal"),
    ],
)
def test_what_can_not_be_described_is_refused_by_name(
    base: str, config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    build_native(base, tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text()) | config
    (tmp_path / "config.json").write_text(json.dumps(whole))
    assert words in reason(tmp_path)


def test_tensors_that_are_missing_left_over_or_misshapen_are_named(tmp_path: Path) -> None:
    build_native("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in stored.items() if k != name}, file)
    assert name in reason(tmp_path)
    save_file({**stored, "model.layers.1.extra.weight": stored[name].clone()}, file)
    assert "model.layers.1.extra.weight" in reason(tmp_path)
    save_file({**stored, name: stored[name].T.contiguous()}, file)
    message = reason(tmp_path)
    assert name in message
    assert "[128, 80]" in message
    save_file({**stored, name: stored[name].to(torch.float64)}, file)
    assert "float64" in reason(tmp_path)
    save_file(
        {**stored, "model.rotary_emb.inv_freq": torch.ones(16)}, file
    )  # old files have it, nothing needs it
    facts = read_facts(tmp_path)
    manifest(facts, describe(facts))


# ---------------------------------------------------------------- what only the data shows


def read_all(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Reference(read_facts(path), session_len=64)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_scales_that_are_not_finite_are_named(tmp_path: Path) -> None:
    quantize_checkpoint(tmp_path, build_native("llama-packable", tmp_path), "gptq")
    stored = load_file(tmp_path / "model.safetensors")
    stored["model.layers.2.mlp.up_proj.scales"][1, 3] = torch.nan
    save_file(stored, tmp_path / "model.safetensors")
    message = read_all(tmp_path)
    assert "model.layers.2.mlp.up_proj.scales" in message
    assert "not finite" in message


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_block_scales_that_are_not_finite_are_named(kind: str, tmp_path: Path) -> None:
    specs = native_gguf.tensors(kind, True)
    index = next(i for i, spec in enumerate(specs) if spec[0] == "blk.1.ffn_up.weight")
    name, ggml, shape, raw = specs[index]
    size = len(raw) // (shape[0] * shape[1] // 32)
    broken = bytearray(raw)
    broken[5 * size : 5 * size + 2] = b"\x00\x7e"
    specs[index] = (name, ggml, shape, bytes(broken))
    path = native_gguf.gguf_writer.write_gguf(tmp_path / "m.gguf", native_gguf.metadata(kind), specs)
    message = read_all(path)
    assert "model.layers.1.mlp.up_proj.weight" in message
    assert "block 5" in message


def test_scales_in_other_dtypes_are_taken_where_float16_holds_them(tmp_path: Path) -> None:
    model = build_native("llama-packable", tmp_path)
    check(quantize_checkpoint(tmp_path, model, "awq", scale_dtype=torch.float32), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored["model.layers.0.mlp.up_proj.scales"][0, 0] = 0.1
    save_file(stored, tmp_path / "model.safetensors")
    assert "float16 can't hold" in read_all(tmp_path)


def test_gptq_in_activation_order_is_seen_in_the_order_itself(tmp_path: Path) -> None:
    quantize_checkpoint(tmp_path, build_native("llama-packable", tmp_path), "gptq")
    stored = load_file(tmp_path / "model.safetensors")
    stored["model.layers.0.self_attn.q_proj.g_idx"] = (
        stored["model.layers.0.self_attn.q_proj.g_idx"].flip(0).clone()
    )
    save_file(stored, tmp_path / "model.safetensors")
    assert "model.layers.0.self_attn.q_proj.g_idx" in read_all(tmp_path)


def test_a_bias_that_the_model_has_no_place_for_must_be_zero(tmp_path: Path) -> None:
    quantize_checkpoint(tmp_path, build_native("llama-packable", tmp_path), "gptq", zero_biases=True)
    stored = load_file(tmp_path / "model.safetensors")
    stored["model.layers.0.mlp.down_proj.bias"][7] = 1
    save_file(stored, tmp_path / "model.safetensors")
    assert "model.layers.0.mlp.down_proj.bias" in read_all(tmp_path)


def test_a_file_that_is_cut_or_written_to_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    build_native("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    facts = read_facts(tmp_path)
    found = manifest(facts, describe(facts))
    with RawReader(facts) as raw:
        reader = WeightReader(raw)
        reader.read(found.weights[0])
        data = file.read_bytes()
        with open(file, "r+b") as f:
            f.truncate(len(data) // 2)
        with pytest.raises(CheckpointError, match="cut short") as caught:
            [reader.read(weight) for weight in found.weights]
        assert "model.layers" in str(caught.value)
        file.write_bytes(data)
        with pytest.raises(CheckpointError, match="has changed"):
            raw.check_unchanged()
