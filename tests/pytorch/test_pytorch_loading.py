"""What is refused at load: models the engine would get wrong, weights that don't fit, plans it can't honour."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pytorch_driver import Driver, Sequence, load, make_plan
from pytorch_zoo import build
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from deploykit.checkpoint import read_facts
from deploykit.engine.pytorch import PytorchRunner
from deploykit.engine.pytorch.architectures import ARCHITECTURES, OWN_ATTENTION
from deploykit.engine.pytorch.memory import estimate_memory, supported
from deploykit.errors import DeploykitError


def change_weights(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_the_plan_knows_the_classes_that_transformers_has() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    entries = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    names = {name for entry in entries for name in ((entry,) if isinstance(entry, str) else entry)}
    assert names == ARCHITECTURES


def test_the_plan_knows_the_classes_that_paged_attention_cannot_serve() -> None:
    classes = {name: getattr(transformers, name) for name in ARCHITECTURES}
    modules = {name: sys.modules[c.__module__] for name, c in classes.items()}
    assert {name for name, m in modules.items() if not hasattr(m, "ALL_ATTENTION_FUNCTIONS")} == OWN_ATTENTION


def test_a_class_with_attention_of_its_own_is_refused(tmp_path: Path) -> None:
    sizes = {"vocab_size": 160, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = transformers.FalconForCausalLM(AutoConfig.for_model("falcon", **sizes))
    model.save_pretrained(tmp_path)
    assert "attention code of its own" in str(supported(read_facts(tmp_path)))
    with pytest.raises(DeploykitError, match="attention code of its own"):
        load(tmp_path)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    cases = {
        "missing": (
            lambda t: t.pop("model.layers.1.mlp.up_proj.weight"),
            "model.layers.1.mlp.up_proj.weight",
        ),
        "unexpected": (lambda t: t.update({"model.surprise": torch.zeros(2)}), "model.surprise"),
        "shape": (
            lambda t: t.update({"model.norm.weight": torch.zeros(47)}),
            r"model\.norm\.weight has shape \(47,\), the config asks for \(48,\)",
        ),
    }
    for name, (change, message) in cases.items():
        folder = tmp_path / name
        build("llama", folder)
        change_weights(folder, change)
        with pytest.raises(DeploykitError) as caught:
            load(folder)
        assert caught.match(message) or message in str(caught.value)


def test_a_state_beside_attention_is_refused(tmp_path: Path) -> None:
    """Falcon-H1 runs a recurrence beside attention in every layer: the interface alone would not tell."""
    config = AutoConfig.for_model(
        "falcon_h1",
        vocab_size=160,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_chunk_size=8,
        max_position_embeddings=128,
    )
    config.architectures = ["FalconH1ForCausalLM"]
    torch.manual_seed(0)
    transformers.FalconH1ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(DeploykitError, match="can't run this model"):
        load(tmp_path)


def test_chunked_attention_is_refused(tmp_path: Path) -> None:
    from transformers.masking_utils import (
        bidirectional_mask_function,
        causal_mask_function,
        chunked_causal_mask_function,
        sliding_window_causal_mask_function,
    )

    from deploykit.engine.pytorch.inspect import _classify

    assert _classify(causal_mask_function, None) == 0
    for width in (1, 2, 5, 4096):
        assert _classify(sliding_window_causal_mask_function(width), width) == width
    assert _classify(chunked_causal_mask_function(16, torch.zeros(1, dtype=torch.int64)), 16) is None
    assert _classify(bidirectional_mask_function, None) is None
    assert _classify(sliding_window_causal_mask_function(5), None) is None


def test_facts_alone_tell_what_is_not_supported(tmp_path: Path) -> None:
    build("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert supported(read_facts(tmp_path)) is None
    for change, reason in (
        ({"architectures": ["BertForMaskedLM"]}, "no text generation"),
        ({"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "linear_attention"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        found = supported(read_facts(tmp_path))
        assert found is not None
        assert reason in found


def test_a_kv_dtype_that_is_not_implemented_is_refused(tmp_path: Path) -> None:
    build("llama", tmp_path)
    with pytest.raises(DeploykitError, match="KV cache"):
        load(tmp_path, kv_dtype="int8")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_results_do_not_depend_on_a_small_batch(tmp_path: Path, dtype: str) -> None:
    build("llama", tmp_path)
    runner, capacity = load(tmp_path, dtype=dtype)
    prompts = [[(i * 7 + n) % 150 + 3 for i in range(n)] for n in (3, 9, 20)]
    alone = [Sequence(p, 6) for p in prompts]
    for s in alone:
        Driver(runner, capacity).run([s])
    together = [Sequence(p, 6) for p in prompts]
    Driver(runner, capacity).run(together)
    assert all(s.failure is None and len(s.output) == 6 for s in alone)
    assert [s.output for s in together] == [s.output for s in alone]
    runner.close()


def test_progress_and_what_a_plan_must_count(tmp_path: Path) -> None:
    build("llama-tied-bias", tmp_path)
    stages: list[tuple[str, float]] = []
    runner = PytorchRunner()
    runner.load(make_plan(tmp_path), lambda stage, fraction: stages.append((stage, fraction)))
    assert list(dict.fromkeys(stage for stage, _ in stages)) == ["weights", "engine", "kv", "warmup"]
    assert all(0 <= fraction <= 1 for _, fraction in stages)
    runner.close()
    with pytest.raises(DeploykitError, match="bytes a block"):
        load(tmp_path, block_bytes=12345)

    facts = read_facts(tmp_path)
    items = estimate_memory(
        facts,
        dtype="float32",
        device="cpu",
        max_prefill_tokens=64,
        max_batch_size=8,
        session_len=128,
        kv_bytes=1 << 20,
    )
    assert all(item.bytes > 0 for item in items)
    by_name = {item.name: item.bytes for item in items}
    assert by_name["kv"] == 1 << 20
    assert by_name["weights"] + by_name["embeddings"] >= facts.num_parameters * 4
