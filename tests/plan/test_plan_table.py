"""Which engine, device, dtype and KV memory: one row each for generation x architecture x weights x KV x dtype."""

from __future__ import annotations

import pytest
from plan_machines import recipe
from plan_models import MODELS, stored

from deploykit.hardware import catalog
from deploykit.plan import Plan, PlanError, make_plan

KV_BY_NATIVE = "the dtype it computes in"
LATENT = "latent attention"
# machine, model, weights, KV policy, model.dtype -> "engine device dtype", or words of the refusal
TABLE = [
    # a CPU: native wherever it knows the architecture, in the dtype that the weights ask for
    ("cpu-server", "llama", "bfloat16", "none", "auto", "native cpu bfloat16"),
    ("cpu-server", "llama", "float32", "none", "auto", "native cpu float32"),
    ("cpu-server", "llama", "float16", "none", "auto", "native cpu bfloat16"),
    ("cpu-server", "llama", "q4_1", "none", "auto", "native cpu bfloat16"),
    ("cpu-server", "llama", "awq", "none", "auto", "native cpu bfloat16"),
    ("cpu-server", "llama", "gptq", "int4", "auto", "native cpu bfloat16"),
    ("laptop", "llama", "q4_1", "int8", "float32", "native cpu float32"),
    ("laptop", "qwen3", "q4_1", "k8v4", "auto", "native cpu bfloat16"),
    ("laptop", "mha", "bfloat16", "none", "float16", "native cpu float16"),
    ("laptop", "mistral", "awq", "int8", "auto", "native cpu bfloat16"),
    ("laptop", "gemma2", "bfloat16", "none", "auto", "native cpu bfloat16"),
    ("laptop", "heads112", "bfloat16", "int8", "auto", "native cpu bfloat16"),
    ("arm-server", "llama", "q4_1", "none", "auto", "native cpu bfloat16"),
    ("pi5", "llama", "q4_1", "int4", "auto", "native cpu bfloat16"),
    ("cpu-server", "mixtral", "bfloat16", "none", "auto", "native cpu bfloat16"),
    ("cpu-server", "cohere", "bfloat16", "none", "auto", "pytorch cpu bfloat16"),
    ("laptop", "cohere", "bfloat16", "none", "auto", "pytorch cpu float32"),
    ("pi5", "cohere", "bfloat16", "none", "bfloat16", "pytorch cpu bfloat16"),
    ("laptop", "cohere", "bfloat16", "int8", "auto", KV_BY_NATIVE),
    ("laptop", "llama", "bfloat16", "fp8", "auto", "no fp8"),
    ("laptop", "llama", "fp8", "none", "auto", "fp8"),
    # before 7.5: the CPU beside the GPU
    ("v100", "llama", "bfloat16", "none", "auto", "native cpu bfloat16"),
    ("v100-32", "llama", "awq", "int8", "auto", "native cpu bfloat16"),
    ("p100", "cohere", "bfloat16", "none", "auto", "pytorch cpu float32"),
    # Turing: float16, blocks of 64
    ("t4", "llama", "bfloat16", "none", "auto", "native cuda float16"),
    ("t4", "llama", "awq", "none", "auto", "native cuda float16"),
    ("t4", "llama", "q4_1", "int4", "auto", "native cuda float16"),
    ("t4", "qwen3", "gptq", "k8v4", "float16", "native cuda float16"),
    ("t4", "llama", "bfloat16", "none", "bfloat16", "pytorch cuda bfloat16"),
    ("t4", "llama", "bfloat16", "int8", "bfloat16", KV_BY_NATIVE),
    ("t4", "llama", "awq", "none", "bfloat16", "awq"),
    ("t4", "gemma2", "bfloat16", "none", "auto", "pytorch cuda float16"),
    ("2080ti", "mistral", "float16", "int8", "auto", "native cuda float16"),
    # Ampere
    ("a100-80", "llama", "bfloat16", "none", "auto", "native cuda bfloat16"),
    ("a100-80", "llama", "float16", "none", "auto", "native cuda float16"),
    ("a100-40", "llama", "float32", "none", "auto", "native cuda bfloat16"),
    ("a100-40", "gemma2", "bfloat16", "int8", "auto", "native cuda bfloat16"),
    ("a100-40", "mha", "bfloat16", "int4", "auto", "native cuda bfloat16"),
    ("a30", "mixtral", "bfloat16", "none", "auto", "native cuda bfloat16"),
    ("a30", "mixtral", "bfloat16", "int8", "auto", "native cuda bfloat16"),
    ("a10", "llama", "gptq", "int8", "auto", "native cuda float16"),
    ("a10", "llama", "awq", "k8v4", "bfloat16", "native cuda bfloat16"),
    ("3090", "qwen3", "q4_1", "none", "auto", "native cuda bfloat16"),
    ("3060", "heads112", "bfloat16", "none", "auto", "pytorch cuda bfloat16"),
    ("a40", "llama", "bfloat16", "none", "float32", "pytorch cuda float32"),
    # Ada
    ("l4", "llama", "awq", "int4", "auto", "native cuda float16"),
    ("l40s", "mistral", "bfloat16", "none", "auto", "native cuda bfloat16"),
    ("4090", "qwen3", "bfloat16", "k8v4", "float16", "native cuda float16"),
    ("4090x2", "llama", "bfloat16", "none", "auto", "native cuda bfloat16"),
    ("4060", "llama", "awq", "none", "auto", "native cuda float16"),
    ("4090", "llama", "bfloat16", "fp8", "auto", "native cuda bfloat16"),
    ("a100-80", "llama", "bfloat16", "fp8", "auto", "8.9 and later"),
    ("4090", "llama", "fp8", "none", "auto", "fp8"),
    # Hopper
    ("h100x1", "llama", "bfloat16", "none", "auto", "native cuda bfloat16"),
    ("h100x1", "llama", "bfloat16", "int8", "auto", "native cuda bfloat16"),
    ("h100x1", "llama", "awq", "k8v4", "auto", "native cuda float16"),
    ("h100", "gemma2", "bfloat16", "none", "float16", "native cuda float16"),
    ("h100", "cohere", "q4_1", "none", "auto", "pytorch cuda bfloat16"),
    ("h100", "cohere", "awq", "none", "auto", "awq"),
    ("h100", "llama", "bfloat16", "int8", "float32", KV_BY_NATIVE),
    ("h200", "mixtral", "bfloat16", "none", "auto", "native cuda bfloat16"),
    ("h100x1", "mixtral", "awq", "int8", "auto", "native cuda float16"),
    ("gh200", "llama", "float16", "int4", "bfloat16", "native cuda bfloat16"),
    # Blackwell
    ("b200", "llama", "bfloat16", "none", "auto", "native cuda bfloat16"),
    ("b200", "llama", "bfloat16", "fp8", "auto", "native cuda bfloat16"),
    ("b200", "llama", "awq", "none", "auto", "native cuda float16"),
    ("5090", "llama", "bfloat16", "none", "auto", "native cuda bfloat16"),
    ("5090", "qwen3", "gptq", "int8", "auto", "native cuda float16"),
    ("rtx-pro-6000", "mistral", "float16", "none", "auto", "native cuda float16"),
    # what nothing runs, wherever it is
    ("h100", "bert", "bfloat16", "none", "auto", "no text generation model"),
    ("h100", "deepseek", "bfloat16", "none", "auto", LATENT),
    ("laptop", "deepseek", "q4_1", "none", "auto", LATENT),
    ("h100", "deepseek", "bfloat16", "int8", "auto", LATENT),
    ("4090", "qwen3-next", "bfloat16", "none", "auto", "linear attention"),
    ("h100", "llama4", "bfloat16", "none", "auto", "chunked-local attention"),
    ("laptop", "mamba", "bfloat16", "none", "auto", "state-space layers"),
    ("a10", "jamba", "bfloat16", "none", "auto", "mamba_d_state"),
]


def test_the_table_is_large_and_has_no_row_twice() -> None:
    assert len(TABLE) >= 60
    assert len({row[:5] for row in TABLE}) == len(TABLE)


ENGINES = ("native ", "pytorch ")
RUN = [row for row in TABLE if row[5].startswith(ENGINES)]
REFUSED = [row for row in TABLE if not row[5].startswith(ENGINES)]


def planned(name: str, model: str, weights: str, policy: str, dtype: str) -> Plan:
    described = catalog.named(name)
    assert described is not None
    wanted = recipe(model={"path": "m", "dtype": dtype}, engine={"cache": {"quant_policy": policy}})
    return make_plan(wanted, stored(MODELS[model], weights), described.machine, name="m")


@pytest.mark.parametrize(("name", "model", "weights", "policy", "dtype", "expected"), RUN)
def test_engine_choice(name: str, model: str, weights: str, policy: str, dtype: str, expected: str) -> None:
    plan = planned(name, model, weights, policy, dtype)
    assert f"{plan.engine} {plan.device} {plan.dtype}" == expected
    assert plan.kv_dtype == (plan.dtype if policy == "none" else policy)
    assert [c.engine for c in plan.candidates if c.accepted] == [plan.engine]
    assert all(c.reason for c in plan.candidates)
    assert plan.device_name.startswith("GPU 0, " if plan.device == "cuda" else "CPU, ")


@pytest.mark.parametrize(("name", "model", "weights", "policy", "dtype", "words"), REFUSED)
def test_refusals_say_why(name: str, model: str, weights: str, policy: str, dtype: str, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        planned(name, model, weights, policy, dtype)
    assert words in str(caught.value.why)
    assert caught.value.exit_code == 3
    assert [(c.engine, c.accepted) for c in caught.value.candidates] == [
        ("native", False),
        ("pytorch", False),
    ]
    assert all(c.reason for c in caught.value.candidates)
