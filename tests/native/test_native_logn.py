"""Log-n attention scaling on the library, against transformers' own attention with queries scaled in float."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from native_driver import check_logits, load
from native_logn import with_logn
from native_reference import Reference
from native_zoo import build_native
from transformers import PreTrainedModel

from deploykit.checkpoint import read_facts
from deploykit.engine.native.describe import describe

TRAINED = 12
TOKENS = [int(t) for t in np.random.default_rng(3).integers(0, 160, 60)]


@pytest.fixture
def reference(tmp_path: Path) -> PreTrainedModel:
    model = build_native("llama", tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "seq_length": TRAINED}))
    return with_logn(model, TRAINED)


def test_the_description_has_it_where_the_checkpoint_or_the_recipe_says_so(
    reference: PreTrainedModel, tmp_path: Path
) -> None:
    facts = read_facts(tmp_path)
    own = msgspec.structs.replace(facts, config={**facts.config, "use_logn_attn": True})
    for found, expected in (
        (facts, 0),
        (facts.with_logn(True), TRAINED),
        (own, TRAINED),
        (own.with_logn(None), TRAINED),
        (own.with_logn(False), 0),
    ):
        assert {layer.attention.logn_trained_len for layer in describe(found).layers} == {expected}
    with torch.inference_mode():
        logits = reference(torch.tensor([TOKENS])).logits[0].numpy()
    got = Reference(own, session_len=len(TOKENS)).logits(TOKENS)
    assert np.abs(got - logits).max() <= 1e-4 * np.abs(logits).max()


@pytest.mark.usefixtures("native_library")
def test_a_recipes_key_is_what_the_engine_computes(reference: PreTrainedModel, tmp_path: Path) -> None:
    runner, capacity = load(tmp_path, use_logn_attn=True)
    assert check_logits(runner, capacity, reference, TOKENS) <= 1e-4
    runner.close()
    runner, capacity = load(tmp_path)  # it is the key that did it
    assert check_logits(runner, capacity, reference, TOKENS) > 1e-2
    runner.close()
