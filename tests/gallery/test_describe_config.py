"""A description made from a config.json alone is that of the checkpoint which transformers would save."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from describe_config import describe_config, quantized  # type: ignore[import-not-found,unused-ignore]

from deploykit import shipped
from deploykit.checkpoint import read_facts
from deploykit.checkpoint.describe import to_json
from deploykit.checkpoint.described import read_described
from deploykit.checkpoint.facts import Facts

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "max_position_embeddings": 128,
    "torch_dtype": "bfloat16",
}
KINDS = {
    "LlamaForCausalLM": {"model_type": "llama", "tie_word_embeddings": True},
    "Qwen2ForCausalLM": {"model_type": "qwen2"},
    "MixtralForCausalLM": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "Glm4ForCausalLM": {"model_type": "glm4", "head_dim": 16, "pad_token_id": 0, "eos_token_id": 1},
}


def _rows(facts: Facts) -> list[tuple[Any, ...]]:
    return sorted((t.name, t.shape, t.dtype, t.nbytes) for t in facts.tensors)


def _described(data: dict[str, Any], folder: Path) -> Facts:
    file = folder / "described.json"
    file.write_text(to_json(data))
    return read_described(file)


@pytest.mark.parametrize("architecture", KINDS)
def test_it_is_what_transformers_saves(architecture: str, tmp_path: Path) -> None:
    import torch
    import transformers

    config = {**TINY, **KINDS[architecture], "architectures": [architecture]}
    plain = {key: value for key, value in config.items() if key != "torch_dtype"}
    made = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(plain)
    model = getattr(transformers, architecture)(made).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    saved = read_facts(tmp_path / "model")
    described = _described(describe_config(config, model="a/b", template=None), tmp_path)
    assert _rows(described) == _rows(saved)
    assert described.num_layers == saved.num_layers
    assert described.num_kv_heads == saved.num_kv_heads


@pytest.mark.parametrize(
    "name", ["qwen3-0.6b", "llama-3.2-1b", "gemma-3-270m", "qwen1.5-moe-a2.7b", "phi-4-mini"]
)
def test_shipped_descriptions_are_what_their_configs_give(name: str) -> None:
    file = shipped.facts_folder() / f"{name}.json"
    data = json.loads(file.read_text())
    again = describe_config(
        {**data["config"], "torch_dtype": "bfloat16"},
        model=data["model"],
        template=data["chat_template"],
        generation=data.get("generation_config"),
    )
    assert again == data


def test_quantized_weights_take_the_place_of_linear_layers(tmp_path: Path) -> None:
    section = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
    config = {**TINY, **KINDS["Qwen2ForCausalLM"], "architectures": ["Qwen2ForCausalLM"]}
    plain = _described(describe_config(config, model="a/b", template=None), tmp_path)
    packed = quantized(plain.tensors, section)
    names = {t.name: t for t in packed}
    assert names["model.layers.1.mlp.down_proj.qweight"].shape == (12, 64)
    assert names["model.layers.1.mlp.down_proj.qzeros"].shape == (3, 8)
    assert names["model.layers.1.mlp.down_proj.g_idx"].shape == (96,)
    assert names["model.layers.0.self_attn.q_proj.bias"].dtype == "float16"
    for kept in ("model.embed_tokens.weight", "lm_head.weight", "model.layers.0.input_layernorm.weight"):
        assert names[kept].dtype == "float16"
    facts = _described(
        describe_config({**config, "quantization_config": section}, model="a/b", template=None), tmp_path
    )
    assert facts.num_parameters == plain.num_parameters
    assert _rows(facts) == sorted((t.name, t.shape, t.dtype, t.nbytes) for t in packed)


def test_the_command_writes_a_file(tmp_path: Path) -> None:
    source, out = tmp_path / "config.json", tmp_path / "facts.json"
    config = {**TINY, **KINDS["LlamaForCausalLM"], "architectures": ["LlamaForCausalLM"]}
    source.write_text(json.dumps(config))
    tool = Path(__file__).parents[1] / "tools" / "describe_config.py"
    arguments = ["--model", "a/b", "--template", "none", "--write", str(out)]
    done = subprocess.run(
        [sys.executable, str(tool), str(source), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert read_described(out).architecture == "LlamaForCausalLM"
