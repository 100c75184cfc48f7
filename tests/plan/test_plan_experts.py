"""Mixtures of experts on a GPU: what the plan counts and what it refuses."""

from __future__ import annotations

import msgspec
import pytest
from plan_models import MODELS, stored

from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.engine.native.cuda import memory_on_cuda, supported_on_cuda

MIXTRAL = MODELS["mixtral"]
GIB = 1 << 30
HOPPER = (9, 0)


def item(facts: Facts, name: str, tokens: int) -> int:
    table = memory_on_cuda(facts, "bfloat16")(tokens, 16, 4096, 0)
    return next(found.bytes for found in table if found.name == name)


def test_every_expert_is_counted_as_it_is_stored() -> None:
    plain = sum(
        2 * t.num_elements for t in MIXTRAL.tensors if "embed" not in t.name and "lm_head" not in t.name
    )
    router_rows = 2 * 2 * (16 - 8) * 4096  # two layers' routers, whole tiles of 16 rows
    assert item(MIXTRAL, "weights", 512) == plain + router_rows
    packed = item(stored(MIXTRAL, "awq"), "weights", 512)
    assert packed == pytest.approx(plain * (0.5 + 4 / 128) / 2, rel=0.001)


def test_slots_of_a_long_step_stay_below_their_limit() -> None:
    token = 2 * 2 * (14336 + 4096)  # two experts, gate-up's row and down's
    dense = item(MODELS["llama"], "activations", 8192) - item(MODELS["llama"], "activations", 4096)
    routed = item(MIXTRAL, "activations", 8192) - item(MIXTRAL, "activations", 4096)
    no_mlp = dense - 4096 * 2 * 3 * 14336
    assert routed - no_mlp == pytest.approx(4096 * token, rel=0.01)
    beyond = item(MIXTRAL, "activations", 32768) - item(MIXTRAL, "activations", 16384)
    assert beyond == pytest.approx(
        16384 * no_mlp / 4096, rel=0.01
    )  # 1 GiB of slots is reached at 14,336 tokens


def with_config(**changes: int) -> Facts:
    return msgspec.structs.replace(MIXTRAL, config=MIXTRAL.config | changes)


def test_what_a_gpu_does_not_route_is_refused_by_name() -> None:
    assert supported_on_cuda(MIXTRAL, HOPPER) is None
    assert supported_on_cuda(stored(MIXTRAL, "gptq"), HOPPER) is None
    many = supported_on_cuda(with_config(num_local_experts=600), HOPPER) or ""
    assert many == "2 of 600 experts a token (layer 0): on a GPU up to 32 of 512 are implemented"
    # Quantizers leave routers alone; one that didn't:
    packed = stored(MIXTRAL, "awq")
    kept = [t for t in packed.tensors if "block_sparse_moe.gate" not in t.name]
    shapes = {"qweight": (4096, 1, "int32"), "qzeros": (32, 1, "int32"), "scales": (32, 8, "float16")}
    for layer in range(2):
        for leaf, (rows, cols, dtype) in shapes.items():
            name = f"model.layers.{layer}.block_sparse_moe.gate.{leaf}"
            size = rows * cols * (4 if dtype == "int32" else 2)
            kept.append(TensorInfo(name, (rows, cols), dtype, size, "m.safetensors", 0))
    refusal = supported_on_cuda(msgspec.structs.replace(packed, tensors=tuple(kept)), HOPPER)
    assert refusal == "layers.0.router.weight has 4 bits: on a GPU a router has 16"
