"""Facts of folders and of GGUF files, and what is refused with which advice."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from checkpoint_files import CONFIG, HEAD_DIM, VOCAB, llama_tensors, metadata, pack
from gguf_writer import write_gguf
from mutations import mutate

from deploykit.checkpoint import CheckpointError, Facts, read_facts

Edit = Callable[..., None]

# ---------------------------------------------------------------- folders


def test_a_folder(folder: Path) -> None:
    facts = read_facts(folder)
    assert (facts.format, facts.architecture, facts.model_type) == (
        "safetensors",
        "LlamaForCausalLM",
        "llama",
    )
    assert (facts.num_layers, facts.hidden_size, facts.num_heads, facts.num_kv_heads) == (1, 8, 2, 1)
    assert (facts.head_dim, facts.intermediate_size, facts.vocab_size) == (4, 16, 32)
    assert (facts.bos_token_id, facts.eos_token_ids) == (1, (2,))
    assert facts.weight_dtype == "bfloat16"
    assert facts.quant_method is None
    assert facts.num_parameters == 32 * 8 + 8
    assert facts.tie_word_embeddings  # neither said nor contradicted by a tensor
    assert facts.sliding_window is None
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts


def test_keys_that_name_code_are_dropped_at_every_depth(folder: Path, edit: Edit) -> None:
    edit(
        folder / "config.json",
        auto_map={"AutoModelForCausalLM": "modeling.Evil"},
        trust_remote_code=True,
        _attn_implementation="someone/kernel",
        vision={"auto_map": {"a": "b"}, "list": [{"trust_remote_code": True, "kept": 1}]},
    )
    edit(folder / "generation_config.json", trust_remote_code=True, temperature=0.5)
    facts = read_facts(folder)
    assert facts.config["vision"] == {"list": [{"kept": 1}]}
    text = json.dumps([facts.config, facts.generation_config])
    assert not any(word in text for word in ("auto_map", "trust_remote_code", "_attn_implementation"))
    assert facts.generation_config == {"temperature": 0.5}


def test_generation_config_goes_first_for_eos(folder: Path, edit: Edit) -> None:
    edit(folder / "generation_config.json", eos_token_id=[3, 4])
    facts = read_facts(folder)
    assert facts.eos_token_ids == (3, 4)
    assert facts.bos_token_id == 1


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"head_dim": 16}, {"head_dim": 16}),
        ({"sliding_window": 64}, {"sliding_window": 64}),
        ({"sliding_window": 64, "use_sliding_window": False}, {"sliding_window": None}),
        ({"tie_word_embeddings": False}, {"tie_word_embeddings": False}),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, {"quant_method": "awq"}),
        ({"multi_query": True, "num_key_value_heads": None}, {"num_kv_heads": 1}),
        ({"num_key_value_heads": None}, {"num_kv_heads": 2}),
        ({"intermediate_size": None}, {"intermediate_size": 32}),
        ({"eos_token_id": None}, {"eos_token_ids": ()}),
        ({"max_position_embeddings": None, "n_positions": 77}, {"max_position_embeddings": 77}),
    ],
)
def test_sizes_by_their_names(
    folder: Path, edit: Edit, changes: dict[str, Any], wanted: dict[str, Any]
) -> None:
    edit(folder / "config.json", **changes)
    facts = read_facts(folder)
    assert {k: getattr(facts, k) for k in wanted} == wanted


def test_the_language_part_of_a_larger_model(folder: Path) -> None:
    inner = {k: v for k, v in CONFIG.items() if k not in ("architectures", "model_type")}
    outer = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": inner}
    (folder / "config.json").write_text(json.dumps(outer))
    facts = read_facts(folder)
    assert (facts.architecture, facts.num_layers, facts.eos_token_ids) == (
        "LlavaForConditionalGeneration",
        1,
        (2,),
    )


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("Llama", {}),
        ("Mistral", {}),
        ("Qwen2", {}),
        ("Qwen3", {}),
        ("Gemma2", {}),
        ("Gemma3Text", {}),
        ("Phi3", {}),
        ("Olmo2", {}),
        ("Granite", {}),
        ("Cohere", {}),
        ("StableLm", {}),
        ("GPTNeoX", {}),
        ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
        ("Falcon", {}),
        ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    ],
)
def test_configs_as_transformers_writes_them(folder: Path, name: str, sizes: dict[str, Any]) -> None:
    import transformers

    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{name}Config")(**(sizes if "n_embd" in sizes else common | sizes), **ids)
    config.architectures = [f"{name}ForCausalLM"]
    config.save_pretrained(folder)
    facts = read_facts(folder)
    assert (facts.hidden_size, facts.num_layers, facts.num_heads) == (32, 2, 4)
    assert facts.vocab_size == config.vocab_size
    assert facts.max_position_embeddings == config.max_position_embeddings
    assert facts.eos_token_ids == (2,)
    assert facts.head_dim == getattr(config, "head_dim", None) or 8


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": None}, "architecture"),
        ({"architectures": ["os.system('x')"]}, "architecture"),
        ({"architectures": "Llama"}, "architecture"),
        ({"model_type": None}, "model_type"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": -8}, "hidden_size"),
        ({"hidden_size": "8"}, "hidden_size"),
        ({"hidden_size": 8.0}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"vocab_size": 10**30}, "vocab_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
        ({"eos_token_id": 99}, "eos_token_id"),
        ({"eos_token_id": [2, "x"]}, "eos_token_id"),
        ({"bos_token_id": -1}, "bos_token_id"),
        ({"quantization_config": {"bits": 4}}, "quant_method"),
        ({"quantization_config": [1]}, "quant_method"),
        ({"sliding_window": "big"}, "sliding_window"),
    ],
)
def test_a_wrong_config_names_its_key(folder: Path, edit: Edit, changes: dict[str, Any], reason: str) -> None:
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError) as e:
        read_facts(folder)
    assert reason in str(e.value)
    assert "config.json" in str(e.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "[" * 100_000,
        '{"a":' * 100 + "1" + "}" * 100,
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"a": ' + "9" * 5000 + "}",
        '{"a": 1' + "0" * 400 + "}",
        "\x00",
        '{"model_type": NaN}',
    ],
)
def test_json_that_is_none(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError):
        read_facts(folder)


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(CheckpointError, match="UTF-8"):
        read_facts(folder)


def test_chat_template_by_precedence(folder: Path, edit: Edit) -> None:
    assert read_facts(folder).chat_template is None
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    edit(folder / "tokenizer_config.json", chat_template=named)
    assert read_facts(folder).chat_template == "D"
    edit(folder / "tokenizer_config.json", chat_template="C")
    assert read_facts(folder).chat_template == "C"
    edit(folder / "chat_template.json", chat_template="B")
    assert read_facts(folder).chat_template == "B"
    (folder / "chat_template.jinja").write_text("A ü")
    assert read_facts(folder).chat_template == "A ü"


def test_wrong_folders_say_what_to_do(tmp_path: Path, folder: Path) -> None:
    def refused(home: Path) -> str:
        with pytest.raises(CheckpointError) as e:
            read_facts(home)
        return str(e.value)

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no config.json" in refused(empty)
    (empty / "adapter_config.json").write_text("{}")
    assert "LoRA" in refused(empty)
    (empty / "adapter_config.json").unlink()
    (empty / "m-Q8_0.gguf").write_bytes(b"")
    assert "not a GGUF file" in refused(empty)  # the only one is the model
    (empty / "m-Q4_0.gguf").write_bytes(b"")
    (empty / "mmproj-f16.gguf").write_bytes(b"")
    assert f"name the file: {empty / 'm-Q4_0.gguf'}" in refused(empty)

    for shard in folder.glob("model*"):
        shard.unlink()
    assert "no weights" in refused(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    text = refused(folder)
    assert "pickle" in text
    assert f"`deploykit convert {folder}`" in text
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert "incomplete" in refused(folder)


def test_wrong_files_say_what_to_do(tmp_path: Path) -> None:
    single = tmp_path / "model.safetensors"
    single.write_bytes(pack({"a": ("F32", [1], bytes(4))}))
    with pytest.raises(CheckpointError, match=r"single \.safetensors") as e:
        read_facts(single)
    assert str(tmp_path) in str(e.value.fix)
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(CheckpointError, match="isn't a model"):
        read_facts(tmp_path / "readme.md")
    with pytest.raises(CheckpointError, match="missing"):
        read_facts(tmp_path / "nowhere")


@pytest.mark.parametrize("start", range(0, 200, 100))
def test_mutated_configs_never_escape(folder: Path, start: int) -> None:
    path = folder / "config.json"
    sound = path.read_bytes()
    for seed in range(start, start + 100):
        path.write_bytes(mutate(sound, seed, len(sound)))
        with contextlib.suppress(CheckpointError):
            msgspec.json.encode(read_facts(folder))


# ---------------------------------------------------------------- GGUF


def test_a_gguf(tiny_gguf: Path) -> None:
    facts = read_facts(tiny_gguf)
    assert (facts.format, facts.architecture, facts.quant_method) == ("gguf", "LlamaForCausalLM", "gguf")
    assert (facts.num_layers, facts.num_heads, facts.num_kv_heads, facts.head_dim) == (2, 4, 2, 16)
    assert facts.config["rms_norm_eps"] == 1e-5
    assert facts.config["rope_parameters"] == {"rope_type": "default", "rope_theta": 10000.0}
    assert facts.tie_word_embeddings
    assert facts.vocab_size == len(VOCAB)
    assert facts.eos_token_ids == (VOCAB.index("<|im_end|>"),)
    names = {t.name: t for t in facts.tensors}
    assert names["model.layers.1.mlp.down_proj.weight"].dtype == "q8_0"
    assert names["model.layers.0.self_attn.k_proj.weight"].shape == (32, 64)
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts


def test_the_real_model(smollm2: Path) -> None:
    facts = read_facts(smollm2)
    assert facts.num_parameters == 134_515_008
    assert facts.weight_dtype == "q4_1"
    assert facts.config == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    assert facts.chat_template is not None
    assert "<|im_start|>" in facts.chat_template


def test_transformers_takes_the_config(tiny_gguf: Path) -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(**read_facts(tiny_gguf).config)
    assert config.rope_parameters["rope_theta"] == 10000.0
    assert config.tie_word_embeddings is True


def test_eot_ends_too_and_gguf_without_quantized_tensors(tmp_path: Path) -> None:
    tensors = [(n, k, s, d) for n, k, s, d in llama_tensors()]
    path = write_gguf(tmp_path / "m.gguf", metadata(tokenizer__ggml__eot_token_id=5), tensors)
    assert read_facts(path).eos_token_ids == (VOCAB.index("<|im_end|>"), 5)


def with_freqs(path: Path, freqs: list[float], **changes: Any) -> Path:
    data = struct.pack(f"<{len(freqs)}f", *freqs)
    return write_gguf(
        path, metadata(**changes), [*llama_tensors(), ("rope_freqs.weight", "F32", (len(freqs),), data)]
    )


def llama3_freqs(factor: float, theta: float) -> list[float]:
    """As transformers scales them (modeling_rope_utils, llama3), as divisors."""
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(head_dim=HEAD_DIM, hidden_size=64, num_attention_heads=4, rope_parameters=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / theta ** (torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    return [float(x) for x in plain / scaled]


def test_llama3_scaling_is_told_from_its_divisors(tmp_path: Path) -> None:
    changes = {"llama__rope__freq_base": 500000.0, "llama__context_length": 131072}
    path = with_freqs(tmp_path / "m.gguf", llama3_freqs(32.0, 500000.0), **changes)
    facts = read_facts(path)
    rope = facts.config["rope_parameters"]
    assert math.isclose(rope.pop("factor"), 32.0, rel_tol=1e-5)
    assert rope == {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    assert "rope_freqs.weight" not in {t.name for t in facts.tensors}


@pytest.mark.parametrize(
    ("changes", "rope"),
    [
        (
            {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0},
            {"rope_type": "linear"},
        ),
        ({"llama__rope__scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {
                "llama__rope__scaling__type": "yarn",
                "llama__rope__scaling__factor": 4.0,
                "llama__rope__scaling__original_context_length": 64,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        ),
        ({"llama__rope__scaling__type": "none"}, {"rope_type": "default"}),
    ],
)
def test_rope_scaling(tmp_path: Path, changes: dict[str, Any], rope: dict[str, Any]) -> None:
    facts = read_facts(write_gguf(tmp_path / "m.gguf", metadata(**changes), llama_tensors()))
    found = facts.config["rope_parameters"]
    assert {k: found[k] for k in rope} == rope


def test_a_q_bias_is_attention_bias(tmp_path: Path) -> None:
    biases = [
        (f"blk.{i}.attn_{part}.bias", "F32", (n,), bytes(4 * n))
        for i in range(2)
        for part, n in (("q", 64), ("k", 32), ("v", 32), ("output", 64))
    ]
    facts = read_facts(write_gguf(tmp_path / "m.gguf", metadata(), [*llama_tensors(), *biases]))
    assert facts.config["attention_bias"] is True


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"general__architecture": "command-r"}, "'command-r' aren't supported"),
        ({"general__architecture": None}, "None aren't supported"),
        ({"general__architecture": "\x1b[31mx"}, "aren't supported"),
        ({"split__count": 3}, "one of 3 parts"),
        ({"llama__expert_count": 8}, "expert_used_count"),
        ({"llama__attention__scale": 0.5}, "attention.scale"),
        ({"llama__logit_scale": 2.0}, "logit_scale"),
        ({"llama__attention__sliding_window": 128}, "sliding_window"),
        ({"llama__block_count": None}, "block_count"),
        ({"llama__block_count": 3}, "missing"),
        ({"llama__block_count": 1}, "no such tensor"),
        ({"llama__block_count": 2**31}, "block_count"),
        ({"llama__attention__head_count": 0}, "head_count"),
        ({"llama__attention__head_count": 5}, "head"),
        ({"llama__attention__head_count": [4, 4]}, "head_count"),
        ({"llama__attention__head_count_kv": 3}, "evenly"),
        ({"llama__attention__head_count_kv": 8}, "head_count_kv"),
        ({"llama__attention__key_length": 32}, "head size"),
        ({"llama__rope__dimension_count": 8}, "head size"),
        ({"llama__rope__freq_base": 0.0}, "freq_base"),
        ({"llama__rope__freq_base": math.nan}, "freq_base"),
        ({"llama__attention__layer_norm_rms_epsilon": math.inf}, "epsilon"),
        ({"llama__rope__scaling__type": "longrope"}, "longrope"),
        (
            {"llama__rope__scaling__type": "yarn", "llama__rope__scaling__factor": 2.0},
            "original_context_length",
        ),
        ({"llama__feed_forward_length": 100}, "wrong shape"),
        ({"tokenizer__ggml__eos_token_id": 100000}, "eos_token_id"),
        ({"tokenizer__chat_template": 5}, "chat_template"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", metadata(**changes), llama_tensors())
    with pytest.raises(CheckpointError) as e:
        read_facts(path)
    assert reason in str(e.value)
    assert "\x1b" not in str(e.value)


def test_unreadable_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    q4_k = ("output.weight", "Q4_K", (len(VOCAB) * 64 // 256, 256), bytes(len(VOCAB) * 64 // 256 * 144))
    path = write_gguf(tmp_path / "m.gguf", metadata(), [*llama_tensors(), q4_k])
    with pytest.raises(CheckpointError, match="wrong shape"):
        read_facts(path)
    tensors = [t for t in llama_tensors() if t[0] != "blk.0.ffn_down.weight"]
    with pytest.raises(CheckpointError, match="are missing"):
        read_facts(write_gguf(path, metadata(), tensors))
    odd = ("blk.0.ffn_down.weight", "IQ4_NL", (64, 96), bytes(64 * 3 * 18))
    with pytest.raises(CheckpointError, match="IQ4_NL isn't supported") as e:
        read_facts(write_gguf(path, metadata(), [*tensors, odd]))
    assert e.value.tensor == "blk.0.ffn_down.weight"
    stranger = ("blk.0.attn_rot_embd.weight", "F32", (4,), bytes(16))
    with pytest.raises(CheckpointError, match="no such tensor"):
        read_facts(write_gguf(path, metadata(), [*llama_tensors(), stranger]))


def test_foreign_rope_divisors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="rope divisors"):
        read_facts(with_freqs(tmp_path / "m.gguf", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]))
    with pytest.raises(CheckpointError, match="rope divisors"):
        read_facts(with_freqs(tmp_path / "m.gguf", [1.0, 2.0]))
