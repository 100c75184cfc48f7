"""Every architecture of GGUF files: names, values and config against the model that the file was made from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf_models import MODELS, VOCAB, build, saved_state
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from deploykit.checkpoint import read_facts
from deploykit.checkpoint.gguf_families import FAMILIES
from deploykit.checkpoint.weights import iter_weights
from deploykit.engine.pytorch.model import load_model

# No witness of these: transformers reads ggml's `llama` with experts as a plain one, doesn't know the first Gemma, and
# leaves out StableLM's norms of heads.
NO_WITNESS = {"mixtral", "gemma", "stablelm-parallel"}


def test_every_family_is_tried() -> None:
    tried = {"llama+experts" if m.model_type == "mixtral" else m.gguf_arch for m in MODELS.values()}
    assert tried == set(FAMILIES)


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


def stacked(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Experts as transformers holds them: one tensor for gate and up, one for down."""
    experts: dict[str, dict[str, list[torch.Tensor]]] = {}
    out = {}
    for key, value in state.items():
        prefix, found, rest = key.partition(".experts.")
        if found:
            experts.setdefault(prefix, {}).setdefault(rest.split(".")[1], []).append(value)
        else:
            out[key] = value
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
