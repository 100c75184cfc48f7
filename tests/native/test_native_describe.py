"""Descriptions and names against transformers, computed in numpy: no library is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from native_reference import Reference
from native_zoo import NATIVE_ZOO, as_internlm2, as_internlm3, build_native
from pytorch_zoo import VOCAB
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from deploykit.checkpoint import read_facts
from deploykit.engine.native.describe import describe

TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, VOCAB, 40)]


def check(reference: PreTrainedModel, folder: Path) -> None:
    with torch.inference_mode():
        expected = reference(torch.tensor([TOKENS])).logits[0].float().numpy()
    got = Reference(read_facts(folder), session_len=len(TOKENS)).logits(TOKENS)
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", NATIVE_ZOO)
def test_a_description_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    check(build_native(name, tmp_path), tmp_path)


def test_internlm2_is_llama_with_grouped_projections(tmp_path: Path) -> None:
    reference = build_native("llama-bias", tmp_path)
    as_internlm2(tmp_path)
    check(reference, tmp_path)


def test_internlm3_is_llama_with_keys_of_its_own(tmp_path: Path) -> None:
    reference = build_native("llama-tied-bias", tmp_path)
    as_internlm3(tmp_path)
    check(reference, tmp_path)


def test_a_recipes_rope_factor_is_dynamic_scaling_over_the_checkpoints_own(tmp_path: Path) -> None:
    model = build_native("llama", tmp_path)
    facts = read_facts(tmp_path)
    (rope,) = describe(facts.with_rope_factor(4.0)).ropes
    found, attention_factor = rope.table(4 * facts.max_position_embeddings)
    config = model.config
    config.rope_parameters = {**config.rope_parameters, "rope_type": "dynamic", "factor": 4.0}
    length = 4 * facts.max_position_embeddings
    wanted, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, torch.device("cpu"), seq_len=length)
    assert attention_factor == 1.0
    assert np.allclose(found, wanted.numpy(), rtol=1e-6)
    assert not np.allclose(found, describe(facts).ropes[0].table(length)[0])
    assert describe(facts.with_rope_factor(None)) == describe(facts)


def test_a_rope_factor_leaves_windowed_layers_and_both_bases_alone(tmp_path: Path) -> None:
    build_native("gemma3", tmp_path)
    facts = read_facts(tmp_path)
    before, after = describe(facts).ropes, describe(facts.with_rope_factor(2.0)).ropes
    assert [rope.theta for rope in after] == [rope.theta for rope in before]
    assert sorted(rope.kind for rope in after) == ["default", "dynamic"]
