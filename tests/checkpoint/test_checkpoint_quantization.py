"""Quantized checkpoints as facts, the recipe's format, and the clear refusal of what no engine runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from checkpoint_files import CONFIG, llama_tensors, metadata, pack
from gguf_writer import write_gguf

from deploykit.checkpoint import CheckpointError, Facts, read_facts
from deploykit.engine.native.memory import supported as native_supported
from deploykit.engine.pytorch.memory import supported as pytorch_supported

Edit = Callable[..., None]

W4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
W8F = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
GROUP = {"targets": ["Linear"], "weights": W4}

# name -> (quantization_config as it is published, what is found, in words)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
        {
            "bits": 4,
            "type": "int4",
            "group_size": 128,
            "zero_points": True,
            "symmetric": False,
            "layout": "gemm",
        },
        "awq (int4, groups of 128, zero points, gemm)",
    ),
    "awq-gemv": (
        {"quant_method": "AWQ", "w_bit": 4, "q_group_size": 64, "zero_point": False, "version": "GEMV"},
        {"group_size": 64, "layout": "gemv", "zero_points": False, "symmetric": True, "method": "awq"},
        "awq (int4, groups of 64, gemv)",
    ),
    "gptq": (
        {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 128,
            "desc_act": True,
            "sym": True,
            "damp_percent": 0.1,
        },
        {"desc_act": True, "symmetric": True, "zero_points": False, "layout": "gptq", "per": "group"},
        "gptq (int4, groups of 128, in activation order, gptq)",
    ),
    "gptq-v2": (
        {
            "quant_method": "gptq",
            "bits": 8,
            "group_size": -1,
            "desc_act": False,
            "sym": False,
            "checkpoint_format": "gptq_v2",
            "dynamic": {"-:.*down.*": {}},
            "meta": {"quantizer": ["gptqmodel:2.0.0"]},
        },
        {
            "bits": 8,
            "group_size": None,
            "per": "channel",
            "zero_points": True,
            "layout": "gptq_v2",
            "mixed": True,
        },
        "gptq (int8, a scale a channel, zero points, gptq_v2, differing by module)",
    ),
    "compressed-tensors-w4a16": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": GROUP},
            "ignore": ["lm_head"],
        },
        {"bits": 4, "type": "int4", "group_size": 128, "layout": "pack-quantized", "ignored": ("lm_head",)},
        "compressed-tensors (int4, groups of 128, pack-quantized)",
    ),
    "compressed-tensors-fp8": (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": W8F,
                    "input_activations": {
                        "num_bits": 8,
                        "type": "float",
                        "dynamic": True,
                        "strategy": "token",
                    },
                }
            },
            "kv_cache_scheme": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"},
        },
        {"type": "float8", "per": "channel", "activations": "float8, dynamic", "kv_cache": "float8"},
        "compressed-tensors (float8, a scale a channel, float-quantized, activations float8, dynamic, "
        "KV memory float8)",
    ),
    "compressed-tensors-mixed": (
        {
            "config_groups": {"group_0": GROUP, "group_1": {"targets": ["re:.*down.*"], "weights": W8F}},
            "format": "mixed",
        },
        {"method": "compressed-tensors", "mixed": True},
        "compressed-tensors (int4, groups of 128, mixed, differing by module)",
    ),
    "fp8-blocks": (
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": ["lm_head", "model.embed_tokens"],
        },
        {
            "bits": 8,
            "type": "float8_e4m3",
            "block": (128, 128),
            "per": "block",
            "activations": "float8, dynamic",
        },
        "fp8 (float8_e4m3, blocks of 128 x 128, activations float8, dynamic)",
    ),
    "fp8-tensor": (
        {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
        {"block": None, "per": "tensor", "activations": "float8, static", "ignored": ("lm_head",)},
        "fp8 (float8_e4m3, a scale a tensor, activations float8, static)",
    ),
    "mxfp4": (
        {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
        {"bits": 4, "type": "float4_e2m1", "group_size": 32},
        "mxfp4 (float4_e2m1, groups of 32)",
    ),
    "bitsandbytes-nf4": (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        {"method": "bitsandbytes", "bits": 4, "type": "nf4", "group_size": 64},
        "bitsandbytes (nf4, groups of 64, double quantized)",
    ),
    "bitsandbytes-int8": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": ["lm_head"]},
        {"bits": 8, "type": "int8", "per": "channel", "ignored": ("lm_head",)},
        "bitsandbytes (int8, a scale a channel)",
    ),
    "known-by-name": ({"quant_method": "hqq", "bits": 3}, {"method": "hqq", "bits": 3}, "hqq (3 bits)"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_method_is_recognised_and_described(folder: Path, edit: Edit, name: str) -> None:
    section, wanted, words = CASES[name]
    edit(folder / "config.json", quantization_config=section, head_dim=32)
    facts = read_facts(folder)
    assert facts.quantization is not None
    assert {key: getattr(facts.quantization, key) for key in wanted} == wanted
    assert facts.quantization.describe() == words
    assert facts.quant_method == facts.quantization.method
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts
    assert facts.config["quantization_config"]["quant_method"].lower() == facts.quant_method
    for problem in (
        pytorch_supported(facts),
        native_supported(facts),
    ):  # the model is no whole one: both refuse
        assert problem is not None
        if facts.quant_method not in ("awq", "gptq"):
            assert words in problem


@pytest.mark.parametrize(
    ("file", "content", "method"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128, "desc_act": False, "sym": True}, "gptq"),
        (
            "quant_config.json",
            {"w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM"},
            "awq",
        ),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "NVFP4", "group_size": 16}}, "modelopt"),
    ],
)
def test_it_may_stand_beside_config_json(
    folder: Path, file: str, content: dict[str, Any], method: str
) -> None:
    (folder / file).write_text(json.dumps(content))
    facts = read_facts(folder)
    assert facts.quant_method == method
    assert facts.config["quantization_config"]["quant_method"] == method


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"quant_method": "awq"}, "bits"),
        ({"quant_method": "awq", "bits": "4"}, "bits"),
        ({"quant_method": "awq", "bits": 4, "group_size": 0.5}, "group_size"),
        ({"quant_method": "awq", "bits": 4, "zero_point": 1}, "zero_point"),
        ({"quant_method": "gptq", "bits": 4, "sym": "yes"}, "sym"),
        ({"quant_method": "gptq", "bits": 4, "desc_act": 1}, "desc_act"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
        ({"quant_method": "fp8", "modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
        ({"quant_method": "compressed-tensors", "config_groups": [1]}, "config_groups"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": -4}}}},
            "num_bits",
        ),
        ({"quant_method": 4}, "quant_method"),
        ({"bits": 4}, "quant_method"),
        ([], "quant_method"),
    ],
)
def test_a_wrong_section_names_its_key(folder: Path, edit: Edit, section: Any, key: str) -> None:
    edit(folder / "config.json", quantization_config=section)
    with pytest.raises(CheckpointError, match=key) as e:
        read_facts(folder)
    assert "config.json" in str(e.value)


def quantized(folder: Path, tensors: dict[str, tuple[str, list[int], bytes]], **config: Any) -> Path:
    (folder / "model.safetensors").write_bytes(pack(tensors))
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


def test_packed_weights_that_nothing_explains(tmp_path: Path) -> None:
    word = ("I32", [1], bytes(4))
    home = quantized(tmp_path, {"model.q.qweight": word, "model.q.qzeros": word, "model.q.scales": word})
    with pytest.raises(CheckpointError, match="nothing says how") as e:
        read_facts(home)
    assert e.value.tensor == "model.q.qweight"


def test_scales_of_keys_and_values_are_seen(tmp_path: Path) -> None:
    scale = ("F32", [1], bytes(4))
    section = {"quant_method": "fp8", "activation_scheme": "static"}
    home = quantized(tmp_path, {"model.layers.0.self_attn.k_scale": scale}, quantization_config=section)
    quantization = read_facts(home).quantization
    assert quantization is not None
    assert quantization.kv_scales
    assert "KV memory with scales" in quantization.describe()


# ---------------------------------------------------------------- model.format


def test_auto_finds_the_layout_and_another_one_is_refused(folder: Path, edit: Edit, tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "m.gguf", metadata(), llama_tensors())
    assert read_facts(folder).layout == "hf"
    assert read_facts(gguf, "gguf").layout == "gguf"
    with pytest.raises(CheckpointError, match="asks for awq, and the model is gguf") as e:
        read_facts(gguf, "awq")
    assert "model.format to gguf" in str(e.value)
    edit(folder / "config.json", quantization_config=CASES["gptq-v2"][0])
    assert read_facts(folder, "gptq").layout == "gptq"
    with pytest.raises(CheckpointError, match="asks for hf, and the model is gptq") as e:
        read_facts(folder, "hf")
    assert "gptq_v2" in str(e.value)


def test_a_folder_with_a_gguf_file(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no GGUF file"):
        read_facts(folder, "gguf")
    write_gguf(folder / "m-Q8_0.gguf", metadata(), llama_tensors())
    (folder / "mmproj-model-f16.gguf").write_bytes(b"")
    assert read_facts(folder).format == "safetensors"
    assert read_facts(folder, "gguf").path == str(folder / "m-Q8_0.gguf")
    (folder / "config.json").unlink()
    assert read_facts(folder).path == str(folder / "m-Q8_0.gguf")
    write_gguf(folder / "m-Q4_0.gguf", metadata(), llama_tensors())
    with pytest.raises(CheckpointError, match="several GGUF files"):
        read_facts(folder, "gguf")


TURBOMIND = "model_config:\n  attn_tp_size: 1\n  head_num: 32\n  kv_head_num: 8\n  inter_size: 14336\n"


@pytest.mark.parametrize("config", ["config.yaml", "config.ini"])
def test_turbomind_folders_are_refused_by_name(tmp_path: Path, config: str) -> None:
    weights = tmp_path / "triton_models" / "weights"
    weights.mkdir(parents=True)
    (weights / config).write_text(TURBOMIND)
    (weights / "layers.0.attention.w_qkv.0.qweight").write_bytes(b"\0" * 64)
    for folder in (tmp_path, weights):
        with pytest.raises(CheckpointError, match="TurboMind") as e:
            read_facts(folder)
        assert "the checkpoint that it was converted from" in str(e.value)
    from deploykit.deployment.target import open_target

    with pytest.raises(CheckpointError, match="TurboMind"):
        open_target(str(tmp_path))


@pytest.mark.parametrize("file", ["tf_model.h5", "flax_model.msgpack", "model.onnx"])
def test_other_weights_are_named(folder: Path, file: str) -> None:
    for shard in folder.glob("model*"):
        shard.unlink()
    (folder / file).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no weights that are read") as e:
        read_facts(folder)
    assert file in str(e.value)
