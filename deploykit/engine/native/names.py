"""Which stored tensors make up each weight of a description: Hugging Face's names to the library's roles.

A weight is a piece of one tensor (AWQ and GPTQ: of three); fused projections are cut by rows. Everything here comes
from headers, no data is read.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator

import msgspec

from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.checkpoint.gguf_families import PAIRS, PLUS_ONE
from deploykit.engine.native.describe import family_of
from deploykit.engine.native.description import AttentionSpec, LayerSpec, ModelDescription, QkNorm
from deploykit.engine.native.errors import UnsupportedError
from deploykit.engine.native.families import Family, Fused, Moe
from deploykit.engine.native.quantized import Packing, read_packing

Range = tuple[int, int]  # first row, number of rows


class WeightFormat(enum.Enum):
    """native/include/deploykit/weights.h's formats, by the binding's names."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    INT8 = "int8"
    Q4_0 = "q4_0"
    Q4_1 = "q4_1"
    Q5_0 = "q5_0"
    Q5_1 = "q5_1"
    Q8_0 = "q8_0"
    Q4_K = "q4_k"
    Q5_K = "q5_k"
    Q6_K = "q6_k"
    AWQ = "awq"
    GPTQ = "gptq"


# TensorInfo.dtype -> the library's format; GGUF's formats have the same names
FORMATS = {"float32": WeightFormat.F32, "float16": WeightFormat.F16, "bfloat16": WeightFormat.BF16} | {
    form.value: form for form in WeightFormat if form.value.startswith("q")
}
_PLAIN = (WeightFormat.F32, WeightFormat.F16, WeightFormat.BF16)
# What describe.py makes up for: rows of Q and K in pairs, norms with their 1 added.
_LAYOUTS = ("", PAIRS, PLUS_ONE)
# Buffers that older checkpoints carry and that nothing needs.
_BUFFERS = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|attn\.bias|masked_bias)")


class Required(msgspec.Struct, frozen=True):
    """A weight that a description needs: `layers.3.q.weight` [rows, cols]; a vector has rows = 1."""

    name: str
    rows: int
    cols: int


class Piece(msgspec.Struct, frozen=True):
    """Part of a tensor: `ranges` along `axis` of its last two dimensions' matrix, all of it where there are none."""

    tensor: TensorInfo
    axis: int = 0  # 0 = rows of the matrix, 1 = columns
    ranges: tuple[Range, ...] = ()


class Weight(msgspec.Struct, frozen=True, kw_only=True):
    """One weight of the manifest and where its bytes lie."""

    name: str
    format: WeightFormat
    rows: int
    cols: int
    group: int = 0  # awq, gptq: columns that share a scale
    data: Piece
    scales: Piece | None = None
    zeros: Piece | None = None
    zero_offset: int = 0
    order: TensorInfo | None = None  # gptq's g_idx, which must say that groups are consecutive


class Manifest(msgspec.Struct, frozen=True):
    weights: tuple[Weight, ...]
    zero_biases: tuple[TensorInfo, ...] = ()  # biases that the model doesn't have: they must be all zero


# ---------------------------------------------------------------- what a description needs


def required(model: ModelDescription) -> Iterator[Required]:
    """Every weight of the model in execution order, as the library's required_weights() names them."""
    yield Required("embed.weight", model.vocab, model.hidden)
    for index, layer in enumerate(model.layers):
        for part, rows, cols in _layer_parts(model, layer):
            yield Required(f"layers.{index}.{part}", rows, cols)
    yield from _norm("final_norm", model.hidden, model.norm_bias)
    if not model.tied:
        yield Required("head.weight", model.vocab, model.hidden)
        if model.head_bias:
            yield Required("head.bias", 1, model.vocab)


def _norm(name: str, size: int, bias: bool) -> Iterator[Required]:
    yield Required(f"{name}.weight", 1, size)
    if bias:
        yield Required(f"{name}.bias", 1, size)


def _layer_parts(model: ModelDescription, layer: LayerSpec) -> Iterator[tuple[str, int, int]]:
    a, hidden = layer.attention, model.hidden

    def norm(name: str, present: bool) -> Iterator[tuple[str, int, int]]:
        if present:
            yield from ((r.name, r.rows, r.cols) for r in _norm(name, hidden, model.norm_bias))

    def linear(name: str, rows: int, cols: int, bias: bool) -> Iterator[tuple[str, int, int]]:
        yield f"{name}.weight", rows, cols
        if bias:
            yield f"{name}.bias", 1, rows

    q_rows, kv_rows = a.heads * a.head_dim, a.kv_heads * a.head_dim
    yield from norm("attn_norm", layer.attn_norm)
    yield from linear("q", q_rows, hidden, a.qkv_bias)
    yield from linear("k", kv_rows, hidden, a.qkv_bias)
    yield from linear("v", kv_rows, hidden, a.qkv_bias)
    if a.qk_norm != QkNorm.NONE:
        full = a.qk_norm == QkNorm.FULL
        yield "q_norm.weight", 1, q_rows if full else a.head_dim
        yield "k_norm.weight", 1, kv_rows if full else a.head_dim
    if a.sinks:
        yield "sinks", 1, a.heads
    yield from linear("o", hidden, q_rows, a.o_bias)
    yield from norm("attn_post_norm", layer.attn_post_norm)
    yield from norm("mlp_norm", layer.mlp_norm)
    m = layer.mlp
    experts = m.moe.experts
    if experts:
        yield from linear("router", experts, hidden, False)
    for prefix in [f"experts.{e}." for e in range(experts)] or [""]:
        if m.gated:
            yield from linear(f"{prefix}gate", m.intermediate, hidden, m.bias)
        yield from linear(f"{prefix}up", m.intermediate, hidden, m.bias)
        yield from linear(f"{prefix}down", hidden, m.intermediate, m.bias)
    yield from norm("mlp_post_norm", layer.mlp_post_norm)


# ---------------------------------------------------------------- where it lies


def manifest(facts: Facts, model: ModelDescription) -> Manifest:
    """Where every weight lies. Raises UnsupportedError for a format that the library doesn't take and
    CheckpointError where tensors are missing, misshapen or left over."""
    # Kept with the facts: a plan asks several times, and a large mixture's headers take a while.
    known: tuple[ModelDescription, Manifest] | None = vars(facts).get("native_manifest")
    if known is None or known[0] != model:
        known = vars(facts)["native_manifest"] = (model, _Resolver(facts, model).run())
    return known[1]


class _Resolver:
    def __init__(self, facts: Facts, model: ModelDescription) -> None:
        self.facts, self.model = facts, model
        self.family: Family = family_of(facts)
        self.tensors = {t.name: t for t in facts.tensors}
        self.used: set[str] = set()
        self.packing: Packing | None = read_packing(facts)

    def run(self) -> Manifest:
        weights = tuple(self.weight(need) for need in required(self.model))
        modules = {w.data.tensor.name.removesuffix(".qweight") for w in weights if w.scales is not None}
        zero_biases = []
        for name, tensor in self.tensors.items():
            if name in self.used or _BUFFERS.fullmatch(name):
                continue
            if name.endswith(".bias") and name.removesuffix(".bias") in modules:
                zero_biases.append(tensor)  # some quantizers write one for every linear layer
                continue
            raise self.bad(tensor, "a tensor belongs to no part of the model", self.facts.architecture)
        return Manifest(weights, tuple(zero_biases))

    def bad(self, tensor: TensorInfo, what: str, why: str) -> CheckpointError:
        return CheckpointError(what, file=self.file_of(tensor), tensor=tensor.name, why=why)

    def file_of(self, tensor: TensorInfo) -> str:
        return str(self.facts.path_of(tensor.file))

    # ---- one weight

    def weight(self, need: Required) -> Weight:
        parts = need.name.split(".")
        layer = expert = 0
        if parts[0] == "layers":
            layer, parts = int(parts[1]), parts[2:]
        role, leaf = parts[0], parts[-1]
        if role == "experts":
            expert, role = int(parts[1]), f"expert_{parts[2]}"
        module, ranges, total = self.module(role, layer, expert, need.rows if leaf == "weight" else need.cols)
        if leaf == "bias":
            return self.vector(need, f"{module}.bias", ranges, total)
        if need.rows == 1 and "norm" in role:
            return self.vector(need, f"{module}.weight", (), need.cols)
        if f"{module}.weight" in self.tensors:
            return self.matrix(need, f"{module}.weight", ranges, (total, need.cols))
        if f"{module}.qweight" in self.tensors:
            return self.packed(need, module, ranges, total)
        if role.startswith("expert_") and self.family.moe is not None:
            return self.stacked(need, self.family.moe, role, layer, expert)
        raise self.missing(f"{module}.weight", need)

    def module(self, role: str, layer: int, expert: int, rows: int) -> tuple[str, tuple[Range, ...], int]:
        """(module's name, its rows that are the role's, rows it must have)."""
        for fused in self.family.fused:
            found = _fused_rows(fused, role, self.model.layers[layer])
            if found is not None:
                ranges, total = found
                return fused.module.format(i=layer), ranges, total
        return self.family.names[role].format(i=layer, e=expert), (), rows

    def take(self, name: str, need: Required) -> TensorInfo:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise self.missing(name, need)
        if tensor.layout not in _LAYOUTS:
            raise UnsupportedError(f"{tensor.name} stored {tensor.layout} is not implemented")
        self.used.add(name)
        return tensor

    def missing(self, name: str, need: Required) -> CheckpointError:
        why = f"it would be {need.name}, {need.rows} x {need.cols}"
        return CheckpointError("a tensor of the model is missing", file=self.facts.path, tensor=name, why=why)

    def expect(self, tensor: TensorInfo, shape: tuple[int, ...]) -> None:
        if tensor.shape != shape:
            why = f"its shape is {list(tensor.shape)}, the config asks for {list(shape)}"
            raise self.bad(tensor, "a tensor has the wrong shape", why)

    def format(self, tensor: TensorInfo) -> WeightFormat:
        found = FORMATS.get(tensor.dtype)
        if found is None:
            raise UnsupportedError(f"weights stored as {tensor.dtype} ({tensor.name}) are not implemented")
        return found

    def vector(self, need: Required, name: str, ranges: tuple[Range, ...], total: int) -> Weight:
        tensor = self.take(name, need)
        self.expect(tensor, (total,))
        form = self.format(tensor)
        if form not in _PLAIN:
            raise UnsupportedError(f"a vector stored as {tensor.dtype} ({tensor.name}) is not implemented")
        piece = Piece(tensor, 0, ranges)
        return Weight(name=need.name, format=form, rows=1, cols=need.cols, data=piece)

    def matrix(self, need: Required, name: str, ranges: tuple[Range, ...], shape: tuple[int, ...]) -> Weight:
        tensor = self.take(name, need)
        self.expect(tensor, shape)
        return Weight(
            name=need.name,
            format=self.format(tensor),
            rows=need.rows,
            cols=need.cols,
            data=Piece(tensor, 0, ranges),
        )

    def stacked(self, need: Required, moe: Moe, role: str, layer: int, expert: int) -> Weight:
        """One expert of a tensor [experts, rows, columns]."""
        mlp = self.model.layers[layer].mlp
        if role == "expert_down":
            name, rows, first = moe.stacked_down, need.rows, 0
        else:
            name, rows, first = moe.stacked_gate_up, 2 * mlp.intermediate, need.rows * (role == "expert_up")
        name = name.format(i=layer)
        if name not in self.tensors:
            raise self.missing(f"{self.family.names[role].format(i=layer, e=expert)}.weight", need)
        ranges = ((expert * rows + first, need.rows),)
        return self.matrix(need, name, ranges, (mlp.moe.experts, rows, need.cols))

    def packed(self, need: Required, module: str, ranges: tuple[Range, ...], total: int) -> Weight:
        """qweight, qzeros and scales of AWQ or GPTQ; rows of the weight are columns of all three."""
        tensor = self.take(f"{module}.qweight", need)
        packing = self.packing
        if packing is None:
            raise self.bad(tensor, "packed weights", "config.json has no quantization_config")
        zeros, scales = self.take(f"{module}.qzeros", need), self.take(f"{module}.scales", need)
        cols, group = need.cols, packing.group
        if cols % group or cols % 8 or total % 8 or any(n % 8 for r in ranges for n in r):
            why = f"{total} x {cols} doesn't divide into groups of {group} and words of 8"
            raise self.bad(tensor, "a tensor has the wrong shape", why)
        awq = packing.format == "awq"
        self.expect(tensor, (cols, total // 8) if awq else (cols // 8, total))
        self.expect(zeros, (cols // group, total // 8))
        self.expect(scales, (cols // group, total))
        for integer in (tensor, zeros):
            if integer.dtype != "int32":
                raise self.bad(
                    integer, "a tensor has the wrong dtype", f"int32 is needed, not {integer.dtype}"
                )
        if FORMATS.get(scales.dtype) not in _PLAIN:
            raise self.bad(scales, "a tensor has the wrong dtype", f"floats are needed, not {scales.dtype}")
        order = None
        if f"{module}.g_idx" in self.tensors:
            order = self.take(f"{module}.g_idx", need)
            self.expect(order, (cols,))
            if order.dtype != "int32":
                raise self.bad(order, "a tensor has the wrong dtype", f"int32 is needed, not {order.dtype}")
        words = tuple((first // 8, count // 8) for first, count in ranges)
        return Weight(
            name=need.name,
            format=WeightFormat.AWQ if awq else WeightFormat.GPTQ,
            rows=need.rows,
            cols=cols,
            group=group,
            data=Piece(tensor, 1, words if awq else ranges),
            scales=Piece(scales, 1, ranges),
            zeros=Piece(zeros, 1, words),
            zero_offset=packing.zero_offset,
            order=order,
        )


def _fused_rows(fused: Fused, role: str, layer: LayerSpec) -> tuple[tuple[Range, ...], int] | None:
    """(rows of the fused module that are the role's, all of its rows), or None where the role isn't in it."""
    a, inner = layer.attention, layer.mlp.intermediate
    if fused.layout == "gate_up":
        if role not in ("gate", "up"):
            return None
        return ((inner * (role == "up"), inner),), 2 * inner
    if role not in ("q", "k", "v"):
        return None
    q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    if fused.layout == "qkv":
        first = {"q": 0, "k": q, "v": q + kv}[role]
        return ((first, q if role == "q" else kv),), q + 2 * kv
    return _grouped_rows(role, a), q + 2 * kv


def _grouped_rows(role: str, a: AttentionSpec) -> tuple[Range, ...]:
    share = a.heads // a.kv_heads  # Q heads of one KV head
    stride = (share + 2) * a.head_dim
    first = {"q": 0, "k": share, "v": share + 1}[role] * a.head_dim
    count = (share if role == "q" else 1) * a.head_dim
    return tuple((group * stride + first, count) for group in range(a.kv_heads))
