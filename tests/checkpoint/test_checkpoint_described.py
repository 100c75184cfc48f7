"""Descriptions of checkpoints: what is written from headers reads back as the same facts, and mistakes have a place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import pack

from deploykit.checkpoint import CheckpointError, Facts, TensorInfo, read_facts
from deploykit.checkpoint.describe import compact, describe, main, to_json
from deploykit.checkpoint.described import read_described

LLAMA: dict[str, Any] = {
    "model": "owner/name",
    "config": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "max_position_embeddings": 512,
    },
    "chat_template": None,
    "tensors": {
        "model.embed_tokens.weight": [[100, 64], "bfloat16"],
        "model.layers.{0-2}.mlp.{gate_proj,up_proj}.weight": [[128, 64], "bfloat16"],
    },
}


def _same(one: Facts, other: Facts) -> None:
    apart = ("path", "tensors", "chat_template", "origin", "chat_template_from")
    for field in one.__struct_fields__:
        if field not in apart:
            assert getattr(one, field) == getattr(other, field), field
    assert _rows(one.tensors) == _rows(other.tensors)


def _rows(tensors: tuple[TensorInfo, ...]) -> list[tuple[Any, ...]]:
    return sorted((t.name, t.shape, t.dtype, t.nbytes, t.layout) for t in tensors)


def _write(tmp_path: Path, changes: dict[str, Any]) -> Path:
    data = {**LLAMA, **changes}
    file = tmp_path / "facts.json"
    file.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))
    return file


def test_the_real_file_is_described_to_the_byte(smollm2: Path, tmp_path: Path) -> None:
    out = tmp_path / "smollm2.json"
    assert main([str(smollm2), "--model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--write", str(out)]) == 0
    real, described = read_facts(smollm2), read_described(out)
    _same(real, described)
    assert described.origin == "described"
    assert described.chat_template_from == "tokenizer.chat_template"
    assert len(out.read_text().splitlines()) < 50


def test_a_pattern_stands_for_every_combination(tmp_path: Path) -> None:
    tensors = {
        "a.{0-2,7}.{w1,w3}.x": [[2, 3], "float32"],
        "b": [[], "float16"],
        "model.embed_tokens.weight": [[8], "int32"],
    }
    facts = read_described(_write(tmp_path, {"tensors": tensors}))
    names = [t.name for t in facts.tensors]
    assert names[:3] == ["a.0.w1.x", "a.0.w3.x", "a.1.w1.x"]
    assert len(names) == 10
    assert facts.tensors[0].nbytes == 24
    assert facts.stored_bytes == 8 * 24 + 2 + 32


def test_any_list_of_names_survives_being_made_compact(tmp_path: Path) -> None:
    """Ragged layers, experts in some of them, numbers that mean nothing, names of one part."""
    names = [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(30) for p in "qkvo"]
    names += [
        f"model.layers.{i}.mlp.experts.{e}.w{w}.weight"
        for i in (1, 2, 5, 6, 7)
        for e in range(9)
        for w in (1, 3)
    ]
    names += [f"model.layers.{i}.mlp.up_proj.weight" for i in (0, 3, 4)]
    names += ["lm_head.weight", "x", "transformer.h.3.ln_1.bias", "a.1.b.2.c", "a.2.b.1.c", "a.1.b.1.c"]
    tensors = tuple(TensorInfo(name, (len(name), 4), "bfloat16", len(name) * 8, "", 0) for name in names)
    table = compact(tensors)
    assert len(table) < 20
    facts = read_described(_write(tmp_path, {"tensors": table}))
    assert _rows(facts.tensors) == _rows(tensors)


def test_quantized_weights_are_recognised(tmp_path: Path) -> None:
    config = {**LLAMA["config"], "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32}}
    tensors = {
        "model.layers.0.mlp.up_proj.qweight": [[64, 16], "int32"],
        "model.layers.0.mlp.up_proj.qzeros": [[2, 16], "int32"],
        "model.layers.0.mlp.up_proj.scales": [[2, 128], "float16"],
        "model.norm.weight": [[64], "float16"],
    }
    facts = read_described(_write(tmp_path, {"config": config, "tensors": tensors}), "awq")
    assert facts.layout == "awq"
    assert facts.num_parameters == 64 * 128 + 64
    with pytest.raises(CheckpointError, match="asks for gptq"):
        read_described(_write(tmp_path, {"config": config, "tensors": tensors}), "gptq")


def test_a_folder_is_described_with_the_file_that_holds_its_template(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA["config"]))
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    weights = {f"model.layers.{i}.self_attn.k_proj.weight": ("BF16", [2, 8], b"\0" * 32) for i in range(3)}
    (folder / "model.safetensors").write_bytes(pack(weights))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    real = read_facts(folder)
    file = tmp_path / "facts.json"
    file.write_text(to_json(describe(real, "owner/name")))
    described = read_described(file)
    _same(real, described)
    assert described.chat_template_from == "chat_template.jinja"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chat_template": ...}, "has no `chat_template`"),
        ({"weights": {}}, "unknown key 'weights'"),
        ({"model": ""}, "`model` is wrong"),
        ({"config": []}, "`config` is wrong"),
        ({"tensors": {}}, "`tensors` is wrong"),
        ({"chat_template": "template.txt"}, "`chat_template` is wrong"),
        ({"format": "pickle"}, "`format` is wrong"),
        ({"config": {"architectures": ["X"], "model_type": "x"}}, "num_attention_heads is missing"),
        ({"tensors": {"a": [[2], "bf16"]}}, "unknown dtype 'bf16'"),
        ({"tensors": {"a": [2, "bfloat16"]}}, "a shape is a list"),
        ({"tensors": {"a": [[-1], "bfloat16"]}}, "a size is an integer"),
        ({"tensors": {"a": [[2.0], "bfloat16"]}}, "a size is an integer"),
        ({"tensors": {"a": [[2]]}}, r"a tensor is \[shape, dtype\]"),
        ({"tensors": {"a": [[2], "bfloat16", "rows"]}}, "unknown layout 'rows'"),
        ({"tensors": {"a": [[33], "q4_0"]}}, r"\[33\] can't be stored as q4_0"),
        ({"tensors": {"a.{3-1}": [[2], "bfloat16"]}}, "counts backwards"),
        ({"tensors": {"a.{}": [[2], "bfloat16"]}}, "neither a range nor a list"),
        ({"tensors": {"a.{1": [[2], "bfloat16"]}}, "a name is letters"),
        ({"tensors": {"a b": [[2], "bfloat16"]}}, "a name is letters"),
        ({"tensors": {"a.{1-2}": [[2], "bfloat16"], "a.2": [[2], "bfloat16"]}}, "a.2 is described twice"),
        ({"tensors": {"{0-99999}.{0-99999}.{0-99999}": [[2], "bfloat16"]}}, "the limit is"),
    ],
)
def test_a_mistake_is_told_with_its_place(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        read_described(_write(tmp_path, changes))
    assert "facts.json" in str(caught.value.where)


def test_keys_that_name_code_are_dropped(tmp_path: Path) -> None:
    config = {**LLAMA["config"], "auto_map": {"AutoModel": "x.Y"}}
    assert "auto_map" not in read_described(_write(tmp_path, {"config": config})).config
