"""The native engine on a GPU: what it can't run there and what it needs in bytes, from a checkpoint's facts alone.

The formulas are those of native/cuda (model/weights.cpp, model/transformer.cpp, engine/cuda_engine.cpp).
"""

from __future__ import annotations

from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.facts import Facts
from deploykit.engine.native.describe import describe
from deploykit.engine.native.description import ModelDescription
from deploykit.engine.native.errors import UnsupportedError
from deploykit.engine.native.head import cuda_bytes, head_item, int8_head_of, tables_note, without_head
from deploykit.engine.native.memory import Estimate
from deploykit.engine.native.names import Weight, WeightFormat, manifest
from deploykit.engine.native.sizes import KV_TYPES, is_vector
from deploykit.plan.types import MemoryItem

MIB = 1 << 20
# What the kernels are written for: those of wgmma are 9.0's, all others take mma.sync.
GENERATIONS = ((7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1))
RAN = ((9, 0),)  # on a card of their own
PTX_RAN = ((7, 5), (8, 0))  # on a card of 9.0, through their PTX; elsewhere they were compiled alone
_BFLOAT16 = (8, 0)  # the first one that multiplies it
_FP8 = (8, 9)  # the first one that converts it
DTYPES = ("bfloat16", "float16")
# Plan.kv_dtype -> the library's KV type, on a GPU
CUDA_KV_TYPES = {name: kind for name, kind in KV_TYPES.items() if name != "float32"} | {"fp8": "fp8"}
_HEAD_DIMS = (64, 80, 96, 128, 256)
_FOUR_BIT = (WeightFormat.AWQ, WeightFormat.GPTQ)
_RUNTIME = 700 * MIB  # the CUDA context, the library's modules, graphs
_GEMM_WORKSPACE = 64 * MIB
_UNPACKED_TOKENS = 65536  # of one layer's KV memory, where it is quantized
_DECODE_BLOCKS = 4 * 132  # of decode attention: rows are cut until there are so many
_MAX_EXPERTS, _MAX_TOP_K = 512, 32
_SLOT_BYTES = 1 << 30  # of a mixture's results at once; a step with more is routed in parts
_LEAST_ROUTED = 512  # tokens of such a part
_DRAW_SLOTS = 64  # rows at a time whose logits are changed before a draw
_DRAW_ROW = (
    32 * (8 + 8 + 8 + 4) + 1024 * 4 + 32 * 512 * 4
)  # of a row: kRowBytes of native/cuda/kernels/draw.cu


def supported_on_cuda(facts: Facts, compute_capability: tuple[int, int], dtype: str = "auto") -> str | None:
    """Why the engine can't run the checkpoint on this GPU; None where nothing in the headers speaks against it.

    `dtype` is the recipe's: bfloat16 needs a generation that multiplies it.
    """
    if compute_capability not in GENERATIONS:
        known = ", ".join(f"{major}.{minor}" for major, minor in GENERATIONS)
        return f"its GPU kernels are for compute capability {known}"
    if dtype == "bfloat16" and compute_capability < _BFLOAT16:
        return "its kernels compute in float16 on a GPU below compute capability 8.0"
    try:
        model = describe(facts)
        _check(model, compute_capability)
        _check_weights(manifest(facts, model).weights, tied=model.tied)
    except UnsupportedError as error:
        return str(error)
    except CheckpointError as error:
        return "; ".join(part for part in (error.what, error.where, error.why) if part)
    return None


def kv_problem_on_cuda(policy: str, compute_capability: tuple[int, int]) -> str | None:
    """Why KV memory can't be kept so on this GPU; None where it can."""
    if policy == "fp8" and compute_capability < _FP8:
        return "fp8 KV memory is for compute capability 8.9 and later; int8 takes as much memory"
    return None if policy in CUDA_KV_TYPES else f"it has no KV memory of type {policy}"


def _check(model: ModelDescription, compute_capability: tuple[int, int]) -> None:
    for index, layer in enumerate(model.layers):
        moe = layer.mlp.moe
        if moe.experts > _MAX_EXPERTS or moe.top_k > _MAX_TOP_K:
            raise UnsupportedError(
                f"{moe.top_k} of {moe.experts} experts a token (layer {index}): on a GPU up to {_MAX_TOP_K} of "
                f"{_MAX_EXPERTS} are implemented"
            )
        if compute_capability == (7, 5) and layer.attention.head_dim == 256:
            raise UnsupportedError(
                f"heads of 256 dimensions (layer {index}) take more shared memory than 7.5 has"
            )
        if layer.attention.head_dim not in _HEAD_DIMS:
            sizes = ", ".join(map(str, _HEAD_DIMS))
            raise UnsupportedError(
                f"heads of {layer.attention.head_dim} dimensions (layer {index}): on a GPU {sizes} are implemented"
            )


def _check_weights(weights: tuple[Weight, ...] | list[Weight], *, tied: bool) -> None:
    for weight in weights:
        if (
            weight.name == "embed.weight" and not tied
        ):  # look-ups take any shape, the output head's product doesn't
            continue
        router = _is_router(weight)
        if router and weight.format in _FOUR_BIT:
            raise UnsupportedError(f"{weight.name} has 4 bits: on a GPU a router has 16")
        rows = 0 if router else weight.rows
        if not is_vector(weight) and (rows % 16 or weight.cols % 64):
            raise UnsupportedError(
                f"{weight.name} is {weight.rows} x {weight.cols}: on a GPU multiples of 16 and 64 are implemented"
            )


def block_bytes_on_cuda(facts: Facts, kv_dtype: str, block_len: int) -> int:
    """Bytes of one KV block over all layers, on a GPU."""
    key, value = {"int8": (8, 8), "k8v4": (8, 4), "int4": (4, 4), "fp8": (8, 8)}.get(kv_dtype, (16, 16))
    params = 8 * block_len if key < 16 and kv_dtype != "fp8" else 0  # a scale and a zero, for K and for V
    total = 0
    for layer in describe(facts).layers:
        spec = layer.attention
        head = block_len * spec.head_dim * (key + value) // 8 + params
        total = -(-(total + spec.kv_heads * head) // 16) * 16
    return total


def memory_on_cuda(facts: Facts, kv_dtype: str, *, int8_head: bool = False) -> Estimate:
    """The memory table of a deployment on a GPU, as a function of (max_prefill_tokens, max_batch_size, session_len,
    kv_bytes): bytes of device memory. Raises what `describe` and `manifest` raise.
    """
    model = describe(facts)
    weights = manifest(facts, model).weights
    head = [head_item(cuda_bytes(int8_head_of(weights)))] if int8_head else []
    if int8_head:
        weights = without_head(weights)
    tables = [w for w in weights if w.name in ("embed.weight", "head.weight")]
    body = [w for w in weights if w not in tables]
    dense = [w for w in (*body, *tables) if w.format in _FOUR_BIT and ".experts." not in w.name]
    largest = max((w.rows * w.cols * _fused(w) for w in dense), default=0)
    attention = [layer.attention for layer in model.layers]
    qkv = max((a.heads + 2 * a.kv_heads) * a.head_dim for a in attention)
    inner = max((layer.mlp.intermediate for layer in model.layers if not layer.mlp.moe.experts), default=0)
    key = max(a.kv_heads * a.head_dim for a in attention)
    groups = max(a.kv_heads * -(-a.heads // a.kv_heads // 8) for a in attention)  # of up to 8 heads
    parts = max(8 * a.head_dim + 16 for a in attention)  # floats of a group's share of one part

    def table(tokens: int, rows: int, session_len: int, kv_bytes: int) -> tuple[MemoryItem, ...]:
        batch = max(tokens, rows)
        activations = 2 * batch * (3 * model.hidden + 2 * qkv + 3 * inner)
        activations += _routed_bytes(model, batch)
        activations += 4 * parts * (rows * groups + max(rows * groups, _DECODE_BLOCKS))
        unpacked = 4 * key * max(session_len, _UNPACKED_TOKENS) if kv_dtype not in DTYPES else 0
        return (
            MemoryItem("weights", sum(map(_bytes, body)), f"stored as {facts.weight_dtype}, packed once"),
            MemoryItem("embeddings", sum(map(_bytes, tables)), tables_note(int8_head, "16 bits")),
            *head,
            MemoryItem("kv", kv_bytes, "page pool, all layers"),
            MemoryItem("activations", activations + unpacked, f"one step of {tokens} tokens"),
            MemoryItem("logits", rows * (4 * facts.vocab_size + 2 * model.hidden), f"float32, {rows} rows"),
            MemoryItem(
                "drawing",
                8 * min(rows, _DRAW_SLOTS) * facts.vocab_size + rows * _DRAW_ROW,
                "penalties and biases of 64 rows, likely tokens of every row",
            ),
            MemoryItem("products", 2 * largest + _GEMM_WORKSPACE, "workspaces of matrix products"),
            MemoryItem("token pool", rows * session_len * 5, "token ids and block tables of every row"),
            MemoryItem("runtime", _RUNTIME, "CUDA context, kernels, graphs"),
        )

    return table


def _routed_bytes(model: ModelDescription, tokens: int) -> int:
    """A step's slots (a token and one of its experts), router logits and routes, of the layers that have experts."""
    mixtures = [layer.mlp for layer in model.layers if layer.mlp.moe.experts]
    if not mixtures:
        return 0
    width = max(m.moe.top_k * (m.intermediate + model.hidden) for m in mixtures)
    experts, top_k = max(m.moe.experts for m in mixtures), max(m.moe.top_k for m in mixtures)
    at_once = _SLOT_BYTES // (2 * width) // _LEAST_ROUTED * _LEAST_ROUTED
    tokens = min(tokens, max(at_once, _LEAST_ROUTED))
    return tokens * (2 * width + 4 * _up(experts, 16) + 20 * top_k + experts // 4)


def _is_router(weight: Weight) -> bool:
    return weight.name.endswith("router.weight")


def _up(count: int, to: int) -> int:
    return -(-count // to) * to


def _fused(weight: Weight) -> int:
    """Matrices of about this size that are computed as one: gate and up."""
    return 2 if weight.name.endswith(("gate.weight", "up.weight")) else 1


def _bytes(weight: Weight) -> int:
    if weight.format in _FOUR_BIT:
        return weight.rows * weight.cols // 2 + weight.rows * (weight.cols // weight.group) * 4
    return 2 * (_up(weight.rows, 16) if _is_router(weight) else weight.rows) * weight.cols
