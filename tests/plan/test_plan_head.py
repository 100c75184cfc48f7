"""The output head in int8: what the plan says of it, in bytes and in quality, and where it is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from plan_machines import GIB, H100, QWEN3_8B, SMOLLM2, gpu_machine, machine, recipe
from plan_machines import facts as facts_of
from plan_models import MODELS, stored

from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.engine.native.head import PERPLEXITY
from deploykit.hardware.machine import Machine
from deploykit.plan import Plan, PlanError, make_plan

DOCS = Path(__file__).parent.parent.parent / "docs"
CPU = machine(total=64 * GIB)
CARD = gpu_machine(H100)


def plan_for(facts: Facts, here: Machine, head: str = "int8", **engine: Any) -> Plan:
    wanted = {"lm_head_dtype": head, "session_len": 1024, "max_batch_size": 4, **engine}
    return make_plan(recipe(engine=wanted), facts, here, name="m")


def refused(facts: Facts, here: Machine, head: str = "int8", **engine: Any) -> PlanError:
    with pytest.raises(PlanError) as caught:
        plan_for(facts, here, head, **engine)
    return caught.value


def rows(plan: Plan) -> dict[str, int]:
    return {item.name: item.bytes for item in plan.memory}


def said(plan: Plan) -> str:
    return next(d.reason for d in plan.decisions if d.key == "engine.lm_head_dtype")


def packed_head(facts: Facts, how: str) -> Facts:
    """A quantized checkpoint whose head is quantized, too."""
    head = next(t for t in facts.tensors if t.name == "lm_head.weight")
    n, k = head.shape
    shapes = {
        "qweight": ("int32", (k, n // 8) if how == "awq" else (k // 8, n)),
        "qzeros": ("int32", (k // 128, n // 8)),
        "scales": ("float16", (k // 128, n)),
    }
    parts = [
        TensorInfo(f"lm_head.{leaf}", shape, dtype, 4, head.file, 0)
        for leaf, (dtype, shape) in shapes.items()
    ]
    return msgspec.structs.replace(facts, tensors=(*(t for t in facts.tensors if t is not head), *parts))


@pytest.mark.parametrize(("here", "n", "k"), [(CPU, 151936, 4096), (CARD, 151936, 4096)], ids=["cpu", "cuda"])
def test_a_head_of_its_own_takes_half_and_a_scale_a_row(here: Machine, n: int, k: int) -> None:
    plain, int8 = plan_for(QWEN3_8B, here, "auto"), plan_for(QWEN3_8B, here)
    assert (plain.lm_head_dtype, int8.lm_head_dtype) == ("auto", "int8")
    assert "output head" not in rows(plain)
    assert rows(int8)["output head"] == n * (k + 4)
    assert rows(plain)["embeddings"] == 2 * rows(int8)["embeddings"] == 4 * n * k
    assert rows(int8)["weights"] == rows(plain)["weights"]
    assert "asked for; 594.1 MiB instead of 1.2 GiB; perplexity " in said(int8)
    assert re.search(r"perplexity [+-]\d\.\d\d % on SmolLM2-135M \(docs/native\.md\)$", said(int8))


@pytest.mark.parametrize("here", [CPU, CARD], ids=["cpu", "cuda"])
def test_a_tied_head_is_a_copy_and_the_plan_says_so(here: Machine) -> None:
    plain, int8 = plan_for(SMOLLM2, here, "auto"), plan_for(SMOLLM2, here)
    assert rows(int8)["embeddings"] == rows(plain)["embeddings"]
    assert rows(int8)["output head"] == 49152 * (576 + 4)
    assert "a copy of 27.2 MiB beside the token table" in said(int8)


@pytest.mark.parametrize(("head", "device"), [(f, d) for f in ("awq", "gptq") for d in ("cpu", "cuda")])
def test_four_bits_beside_a_plain_head_are_no_hindrance(head: str, device: str) -> None:
    facts, here = stored(MODELS["llama"], head), CPU if device == "cpu" else CARD
    assert rows(plan_for(facts, here))["output head"] == 32000 * (4096 + 4)
    error = refused(packed_head(facts, head), here)
    assert error.what == "an int8 output head can't be had here"
    assert error.where == "engine.lm_head_dtype: int8"
    assert f"native: the output head (lm_head.qweight) is stored as {head} already" in str(error.why)
    assert "pytorch: " in str(error.why)
    assert error.fixes == ("--set engine.lm_head_dtype=auto",)


def test_blocks_are_computed_as_they_are_on_a_cpu_and_unpacked_on_a_gpu() -> None:
    blocks = stored(MODELS["llama"], "q4_1")
    error = refused(blocks, CPU)
    assert "(lm_head.weight) is stored as q4_1 already, and computed as it is stored" in str(error.why)
    assert error.fixes == ("--set engine.lm_head_dtype=auto",)
    assert rows(plan_for(blocks, CARD))["output head"] == 32000 * (4096 + 4)


def test_a_vocabulary_that_no_product_takes_is_refused() -> None:
    tensors = tuple(
        msgspec.structs.replace(t, shape=(49155, 576)) if "embed" in t.name else t for t in SMOLLM2.tensors
    )
    odd = msgspec.structs.replace(SMOLLM2, vocab_size=49155, tensors=tensors)
    assert rows(plan_for(odd, CPU))["output head"] == 49168 * (576 + 4)  # whole tiles of 16
    # As the head of a tied model it can't be had there in any precision.
    for head in ("int8", "auto"):
        error = refused(odd, CARD, head, backend="native")
        assert "embed.weight is 49155 x 576: on a GPU multiples of 16 and 64" in str(error.why)


def test_a_width_that_no_product_takes_is_refused() -> None:
    odd = facts_of(
        architecture="LlamaForCausalLM",
        model_type="llama",
        num_layers=2,
        hidden_size=560,
        intermediate_size=1536,
        num_heads=7,
        num_kv_heads=7,
        head_dim=80,
        vocab_size=4096,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    assert plan_for(odd, CPU, "auto").engine == "native"
    assert "(lm_head.weight) has 560 columns: in int8 multiples of 32" in str(refused(odd, CPU).why)


def test_it_is_the_native_engines() -> None:
    error = refused(QWEN3_8B, CPU, backend="pytorch")
    assert error.where == "engine.lm_head_dtype: int8"
    assert error.why == "pytorch: it keeps the output head in the dtype it computes in"


def test_a_copy_that_doesnt_fit_can_be_left_out() -> None:
    sizes = {"max_prefill_tokens": 64, "max_batch_size": 1, "cache": {"blocks": 16}}
    limits = range(1 << 30, 3 << 30, 8 << 20)  # what is there: a share of it is left to others
    small = next(m for m in (machine(available=limit) for limit in limits) if fits(m, "auto", sizes))
    assert not fits(small, "int8", sizes)
    changes = [change.flags for change in refused(SMOLLM2, small, **sizes).changes]
    assert "--set engine.lm_head_dtype=auto" in changes


def fits(here: Machine, head: str, sizes: dict[str, Any]) -> bool:
    try:
        plan_for(SMOLLM2, here, head, **sizes)
    except PlanError:
        return False
    return True


def test_the_page_has_the_figures_that_the_plan_says() -> None:
    page = (DOCS / "native.md").read_text()
    found = re.findall(r"^\| (CPU|GPU), .*\| (.*) \| (.*) \| ([+-]\d+\.\d+) % \|$", page, re.MULTILINE)
    devices = {"CPU": "cpu", "GPU": "cuda"}
    assert {devices[name] for name, *_ in found} == set(PERPLEXITY)
    for name, stored_as, int8, off in found:
        measured = float(int8) / float(stored_as) - 1
        assert PERPLEXITY[devices[name]] == pytest.approx(measured, abs=5e-5)
        assert f"{100 * measured:+.2f}" == off
