"""Every architecture of GGUF files: names, values and config against the model that the file was made from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from gguf_models import INNER, LAYERS, MODELS, VOCAB, build, saved_state
from gguf_writer import write_gguf
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from deploykit.checkpoint import read_facts
from deploykit.checkpoint.describe import describe
from deploykit.checkpoint.described import read_described
from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.ggml_types import READABLE
from deploykit.checkpoint.gguf_families import FAMILIES, REFUSED
from deploykit.checkpoint.weights import iter_weights
from deploykit.engine.native.describe import describe as describe_native
from deploykit.engine.native.errors import UnsupportedError
from deploykit.engine.pytorch.memory import supported
from deploykit.engine.pytorch.model import load_model
from deploykit.plan.kinds import layers_of

# No witness of these: transformers reads ggml's `llama` with experts as a plain one, doesn't know the first Gemma,
# leaves out StableLM's norms of heads, and looks for GPT-OSS's experts under names that no converter writes.
NO_WITNESS = {"mixtral", "gemma", "stablelm-parallel", "gpt-oss", "gpt-oss-mxfp4"}


def test_every_family_is_tried() -> None:
    tried = {"llama+experts" if m.model_type == "mixtral" else m.gguf_arch for m in MODELS.values()}
    assert tried == set(FAMILIES)


def test_the_page_names_every_architecture() -> None:
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    for name in (*FAMILIES, *REFUSED):
        assert f"`{name.partition('+')[0]}`" in page, name
    for name in READABLE:
        assert name in page


def test_what_transformers_maps_is_read_or_refused_with_a_reason() -> None:
    ours = {name.replace("-", "") for name in (*FAMILIES, *REFUSED)}
    no_ggml_name = {"general", "tokenizer", "mistral"}  # ggml calls Mistral `llama`
    theirs = {name.replace("_", "") for name in set(GGUF_CONFIG_MAPPING) - no_ggml_name}
    assert theirs <= ours
    assert not set(FAMILIES) & set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_a_known_architecture_that_no_engine_runs_is_refused_with_its_reason(
    name: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"general.architecture": name})
    with pytest.raises(CheckpointError) as caught:
        read_facts(path)
    assert f"{name!r} aren't supported" in str(caught.value)
    assert REFUSED[name] in str(caught.value)


@pytest.mark.parametrize("name", ["gpt-oss", "gpt-oss-mxfp4", "minimax-m2"])
def test_a_plan_knows_a_mixture_as_it_is(name: str, tmp_path: Path) -> None:
    """Parameters counted once, bytes as they are stored, windows by layer, and no engine that can't run it."""
    model = build(name, tmp_path / "m.gguf")
    facts = read_facts(tmp_path / "m.gguf")
    assert facts.num_parameters == sum(value.numel() for value in model.state_dict().values())
    packed = name == "gpt-oss-mxfp4"
    assert facts.weight_dtype == "float32"  # at this size the embeddings outweigh the experts
    experts = [
        t for t in facts.tensors if ".experts." in t.name and len(t.shape) > 1 and "bias" not in t.name
    ]
    assert {t.dtype for t in experts} == {"mxfp4" if packed else "float32"}
    assert all(t.nbytes * 8 == t.num_elements * (4.25 if packed else 32) for t in experts)
    kinds = {(layer.kind, layer.count) for layer in layers_of(facts)}
    assert kinds == ({("full", LAYERS)} if name == "minimax-m2" else {("window", 2), ("full", 1)})
    assert supported(facts) is None
    with pytest.raises(UnsupportedError, match="is not among the native engine's architectures"):
        describe_native(facts)

    described = tmp_path / "described.json"
    described.write_text(json.dumps(describe(facts, "owner/name")))
    again = read_described(described)
    assert again.stored_bytes == facts.stored_bytes
    assert {(t.name, t.shape, t.dtype, t.layout) for t in again.tensors} == {
        (t.name, t.shape, t.dtype, t.layout) for t in facts.tensors
    }


@pytest.mark.parametrize(
    ("name", "metadata", "reason"),
    [
        ("gpt-oss", {"expert_gating_func": 1}, "gpt-oss.expert_gating_func isn't supported"),
        ("gpt-oss", {"expert_feed_forward_length": INNER + 32}, "expert_feed_forward_length"),
        ("gpt-oss", {"attention.sliding_window": 0}, "gpt-oss.attention.sliding_window"),
        ("gpt-oss", {"rope.scaling.type": "longrope"}, "rope scaling"),
        ("minimax-m2", {"expert_gating_func": 1}, "minimax-m2.expert_gating_func isn't supported"),
        ("minimax-m2", {"expert_weights_norm": False}, "minimax-m2.expert_weights_norm isn't supported"),
        ("minimax-m2", {"rope.dimension_count": 31}, "minimax-m2.rope.dimension_count"),
        ("minimax-m2", {"nextn_predict_layers": 3}, "minimax-m2.nextn_predict_layers isn't supported"),
    ],
)
def test_what_a_config_cannot_say_is_refused(
    name: str, metadata: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = MODELS[name]
    monkeypatch.setitem(MODELS, name, replace(spec, metadata={**spec.metadata, **metadata}))
    build(name, tmp_path / "m.gguf")
    with pytest.raises(CheckpointError) as caught:
        read_facts(tmp_path / "m.gguf")
    assert reason in str(caught.value)


def test_the_reasons_hold() -> None:
    for name in ("Bloom", "Falcon", "Mamba", "Mamba2"):
        assert not getattr(transformers, f"{name}ForCausalLM")._supports_attention_backend
    assert "deci" not in transformers.CONFIG_MAPPING
    gemma = transformers.Gemma4TextConfig()
    sizes = {gemma.per_layer_config[i].head_dim for i in range(gemma.num_hidden_layers)}
    assert len(sizes) == 2
    assert "conv" in transformers.Lfm2Config(full_attn_idxs=[2]).layer_types
    for encoder in (transformers.T5Config(), transformers.UMT5Config()):
        assert encoder.is_encoder_decoder


@pytest.mark.parametrize("name", MODELS)
def test_the_model_comes_back(name: str, tmp_path: Path) -> None:
    model = build(name, tmp_path / "m.gguf")
    facts = read_facts(tmp_path / "m.gguf")
    assert facts.architecture == type(model).__name__
    read = dict(iter_weights(facts, "float32", tmp_path / "cache"))
    wanted = saved_state(model)
    assert set(read) == set(wanted)
    for key, value in wanted.items():
        assert torch.equal(read[key], value), key

    ids = torch.arange(40).unsqueeze(0) * 7 % VOCAB
    loaded = load_model(facts, read.items(), torch.float32, lambda fraction: None)
    loaded.set_attn_implementation("eager")
    with torch.inference_mode():
        same = torch.equal(loaded(ids).logits, model(ids).logits)
    assert same


@pytest.mark.parametrize("name", ["gpt-oss-mxfp4", "gpt2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_moved_is_rounded_as_the_rest(name: str, dtype: str, tmp_path: Path) -> None:
    model = build(name, tmp_path / "m.gguf")
    read = dict(iter_weights(read_facts(tmp_path / "m.gguf"), dtype, tmp_path / "cache"))
    for key, value in saved_state(model).items():
        assert torch.equal(read[key], value.to(getattr(torch, dtype))), key


_MIXTRAL = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


def stacked(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Experts as transformers holds them: one tensor for gate and up, one for down."""
    experts: dict[str, dict[str, list[torch.Tensor]]] = {}
    out = {}
    for key, value in state.items():
        prefix, found, rest = key.replace(".block_sparse_moe.", ".mlp.").partition(".experts.")
        if found:
            part = rest.split(".")[1]
            experts.setdefault(prefix, {}).setdefault(_MIXTRAL.get(part, part), []).append(value)
        else:
            out[prefix] = value
    for prefix, parts in experts.items():
        gate, up, down = (torch.stack(parts[f"{name}_proj"]) for name in ("gate", "up", "down"))
        out[f"{prefix}.experts.gate_up_proj"] = torch.cat((gate, up), dim=1)
        out[f"{prefix}.experts.down_proj"] = down
    return out


@pytest.mark.parametrize("name", [n for n in MODELS if n not in NO_WITNESS])
def test_transformers_reads_the_same(name: str, tmp_path: Path) -> None:
    model = build(name, tmp_path / "m.gguf")
    theirs = load_gguf_checkpoint(str(tmp_path / "m.gguf"), return_tensors=True, model_to_load=model)
    ours = read_facts(tmp_path / "m.gguf")
    for key, value in theirs["config"].items():
        if key in ours.config and key not in ("head_dim", "_model_name_or_path"):
            assert ours.config[key] == pytest.approx(value), key
    read = stacked(dict(iter_weights(ours, "float32", tmp_path / "cache")))
    assert set(theirs["tensors"]) == set(read)
    for key, value in theirs["tensors"].items():
        assert torch.equal(read[key], value), key
