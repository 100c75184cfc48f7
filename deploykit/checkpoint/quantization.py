"""How a checkpoint's weights are quantized, told from its configuration: recognised and described, nothing decoded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.files import exists, member, read_json

MAX_IGNORED = 100_000
_FLOATS = {4: "float4", 8: "float8"}


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """`method` is the configuration's own name. What it doesn't say is None."""

    method: str  # awq | gptq | compressed-tensors | fp8 | mxfp4 | bitsandbytes | …
    bits: int | None = None  # of a weight
    type: str | None = None  # int4, int8, float8_e4m3, float4_e2m1, nf4, …
    layout: str | None = None  # gemm, gptq_v2, pack-quantized, …: how it is packed
    group_size: int | None = None  # inputs that share a scale; None where it is another unit
    block: tuple[int, int] | None = None  # (outputs, inputs) that share a scale
    per: str | None = None  # group | block | channel | tensor: what a scale is for
    zero_points: bool | None = None
    symmetric: bool | None = None
    desc_act: bool = False  # columns were quantized in the order of their activations
    activations: str | None = None  # None = not quantized; "float8, dynamic"
    kv_cache: str | None = None  # None = as the engine likes; "float8"
    kv_scales: bool = False  # the checkpoint brings scales of keys and values
    mixed: bool = False  # not all quantized modules alike; the figures are the first ones'
    ignored: tuple[str, ...] = ()  # modules that stay plain, as the configuration writes them

    def describe(self) -> str:
        """`awq (int4, groups of 128, zero points, gemm)`."""
        parts = [self.type or (f"{self.bits} bits" if self.bits else "")]
        if self.group_size is not None:
            parts.append(f"groups of {self.group_size}")
        elif self.block is not None:
            parts.append("blocks of {} x {}".format(*self.block))
        elif self.per:
            parts.append(f"a scale a {self.per}")
        if self.zero_points:
            parts.append("zero points")
        if self.desc_act:
            parts.append("in activation order")
        if self.layout:
            parts.append(self.layout)
        if self.activations:
            parts.append(f"activations {self.activations}")
        if self.kv_cache or self.kv_scales:
            parts.append(f"KV memory {self.kv_cache or 'with scales'}")
        if self.mixed:
            parts.append("differing by module")
        text = ", ".join(p for p in parts if p)
        return f"{self.method} ({text})" if text else self.method


def read_quantization(
    folder: Path, config: dict[str, Any], text: dict[str, Any]
) -> tuple[Quantization | None, dict[str, Any] | None]:
    """(what it says, its section as engines read it: `quant_method` is always in it), or (None, None).

    It stands in config.json, or in a file of its own beside it. Raises CheckpointError that names file and key.
    """
    section, file = _find(folder, config, text)
    if section is None:
        return None, None
    if not isinstance(section, dict) or not section:
        raise CheckpointError(f"{file.name}: quantization_config has no quant_method", file=file)
    method = section.get("quant_method") or _guess(section)
    if not isinstance(method, str) or not method:
        raise CheckpointError(f"{file.name}: quantization_config has no quant_method", file=file)
    method = printable(method, 40).lower().replace("compressed_tensors", "compressed-tensors")
    found = _PARSERS.get(method, _other)(_Section(section, file), method)
    return found, {**section, "quant_method": method}


def _find(folder: Path, config: dict[str, Any], text: dict[str, Any]) -> tuple[Any, Path]:
    for source in (config, text):
        for key in ("quantization_config", "compression_config"):
            if source.get(key) is not None:
                return source[key], folder / "config.json"
    for name, method in (("quantize_config.json", "gptq"), ("quant_config.json", "awq")):
        if exists(folder, name):
            own = read_json(member(folder, name))
            return {"quant_method": method, **own}, folder / name
    if exists(folder, "hf_quant_config.json"):
        own = read_json(member(folder, "hf_quant_config.json"))
        section = own.get("quantization")
        if isinstance(section, dict):
            return {"quant_method": "modelopt", **section}, folder / "hf_quant_config.json"
    return None, folder / "config.json"


def _guess(section: dict[str, Any]) -> str | None:
    """bitsandbytes and compressed-tensors as they were written before the key existed."""
    if section.get("load_in_4bit") or section.get("load_in_8bit"):
        return "bitsandbytes"
    return "compressed-tensors" if "config_groups" in section else None


class _Section:
    """A quantization section, whose wrong values are errors that name their key."""

    def __init__(self, values: dict[str, Any], file: Path, prefix: str = "") -> None:
        self.values, self.file, self.prefix = values, file, prefix

    def bad(self, key: str, need: str) -> CheckpointError:
        what = f"{self.file.name}: {self.prefix}{key} is missing or wrong"
        why = f"{need} is needed, not {printable(repr(self.values.get(key)))}"
        return CheckpointError(what, file=self.file, why=why)

    def integer(self, *keys: str, low: int = 1, high: int = 1 << 20) -> int | None:
        key = next((k for k in keys if self.values.get(k) is not None), None)
        if key is None:
            return None
        value = self.values[key]
        if type(value) is not int or not low <= value <= high:
            raise self.bad(key, f"an integer in {low}..{high}")
        return value

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is not None and type(value) is not bool:
            raise self.bad(key, "true or false")
        return value

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.bad(key, "text")
        return None if value is None else printable(value, 40)

    def section(self, key: str) -> _Section | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.bad(key, "an object")
        return None if value is None else _Section(value, self.file, f"{self.prefix}{key}.")

    def names(self, *keys: str) -> tuple[str, ...]:
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value[:MAX_IGNORED]):
                raise self.bad(key, "a list of names")
            return tuple(value[:MAX_IGNORED])
        return ()


def _awq(s: _Section, method: str) -> Quantization:
    bits, group = _bits(s, "bits", "w_bit"), s.integer("group_size", "q_group_size", low=-1)
    zero = s.flag("zero_point")
    return Quantization(
        method=method,
        bits=bits,
        type=f"int{bits}",
        layout=(s.text("version") or "gemm").lower(),
        group_size=group if group and group > 0 else None,
        per="group" if group and group > 0 else "channel",
        zero_points=zero is not False,
        symmetric=zero is False,
        ignored=s.names("modules_to_not_convert"),
    )


def _gptq(s: _Section, method: str) -> Quantization:
    bits, group = _bits(s, "bits"), s.integer("group_size", low=-1)
    symmetric = s.flag("sym")
    layout = s.text("checkpoint_format") or ("marlin" if s.flag("is_marlin_format") else "gptq")
    return Quantization(
        method=method,
        bits=bits,
        type=f"int{bits}",
        layout=layout,
        group_size=group if group and group > 0 else None,
        per="group" if group and group > 0 else "channel",
        zero_points=None if symmetric is None else not symmetric,
        symmetric=symmetric,
        desc_act=bool(s.flag("desc_act")),
        mixed=bool(s.values.get("dynamic")),
        ignored=s.names("modules_to_not_convert"),
    )


def _compressed(s: _Section, method: str) -> Quantization:
    groups = s.section("config_groups")
    schemes = [g for key in (groups.values if groups else ()) if groups and (g := groups.section(key))]
    weights = schemes[0].section("weights") if schemes else None
    inputs = schemes[0].section("input_activations") if schemes else None
    kv = s.section("kv_cache_scheme")
    blocks = weights.values.get("block_structure") if weights else None
    bits = weights.integer("num_bits", high=64) if weights else None
    symmetric = weights.flag("symmetric") if weights else None
    group = weights.integer("group_size", low=-1) if weights else None
    return Quantization(
        method=method,
        bits=bits,
        type=_kind(weights),
        layout=s.text("format"),
        group_size=group if group and group > 0 else None,
        block=_pair(weights, "block_structure") if weights and isinstance(blocks, list) else None,
        per=weights.text("strategy") if weights else None,
        zero_points=None if symmetric is None else not symmetric,
        symmetric=symmetric,
        desc_act=bool(weights and weights.values.get("actorder")),
        activations=_activations(inputs),
        kv_cache=_kind(kv),
        mixed=len({repr(g.values.get("weights")) for g in schemes}) > 1,
        ignored=s.names("ignore"),
    )


def _kind(scheme: _Section | None) -> str | None:
    """int4, float8 of a scheme of compressed-tensors."""
    if scheme is None:
        return None
    bits = scheme.integer("num_bits", high=64)
    kind = scheme.text("type") or "int"
    return None if bits is None else _FLOATS.get(bits, f"float{bits}") if kind == "float" else f"{kind}{bits}"


def _activations(scheme: _Section | None) -> str | None:
    kind = _kind(scheme)
    if scheme is None or kind is None:
        return None
    dynamic = scheme.values.get("dynamic")
    return f"{kind}, {'static' if dynamic is False or dynamic is None else 'dynamic'}"


def _fp8(s: _Section, method: str) -> Quantization:
    block = _pair(s, "weight_block_size") if s.values.get("weight_block_size") is not None else None
    kind = f"float8_{(s.text('fmt') or 'e4m3').removeprefix('float8_')}"
    return Quantization(
        method=method,
        bits=8,
        type=kind,
        block=block,
        per="block" if block else ("channel" if method == "fbgemm_fp8" else "tensor"),
        symmetric=True,
        activations=f"float8, {s.text('activation_scheme') or 'dynamic'}",
        kv_cache=s.text("kv_cache_scheme") if isinstance(s.values.get("kv_cache_scheme"), str) else None,
        ignored=s.names("modules_to_not_convert", "ignored_layers"),
    )


def _mxfp4(s: _Section, method: str) -> Quantization:
    return Quantization(
        method=method,
        bits=4,
        type="float4_e2m1",
        group_size=32,
        per="group",
        symmetric=True,
        ignored=s.names("modules_to_not_convert"),
    )


def _bitsandbytes(s: _Section, method: str) -> Quantization:
    four = s.flag("load_in_4bit") or s.flag("_load_in_4bit")
    kind = (s.text("bnb_4bit_quant_type") or "fp4") if four else "int8"
    return Quantization(
        method=method,
        bits=4 if four else 8,
        type=kind,
        layout="double quantized" if four and s.flag("bnb_4bit_use_double_quant") else None,
        group_size=64 if four else None,
        per="group" if four else "channel",
        symmetric=True,
        ignored=s.names("llm_int8_skip_modules"),
    )


def _modelopt(s: _Section, method: str) -> Quantization:
    algorithm = s.text("quant_algo")
    return Quantization(
        method=method,
        layout=algorithm,
        group_size=s.integer("group_size"),
        kv_cache=s.text("kv_cache_quant_algo"),
        ignored=s.names("exclude_modules", "ignore"),
    )


def _other(s: _Section, method: str) -> Quantization:
    """A method that is known by its name alone."""
    bits = s.values.get("bits")
    return Quantization(method=method, bits=bits if type(bits) is int and 0 < bits <= 64 else None)


def _bits(s: _Section, *keys: str) -> int:
    bits = s.integer(*keys, high=64)
    if bits is None:
        raise s.bad(keys[0], "a number of bits")
    return bits


def _pair(s: _Section, key: str) -> tuple[int, int]:
    value = s.values.get(key)
    if not isinstance(value, list) or len(value) != 2 or not all(type(v) is int and v > 0 for v in value):
        raise s.bad(key, "a pair of sizes")
    return value[0], value[1]


_PARSERS: dict[str, Callable[[_Section, str], Quantization]] = {
    "awq": _awq,
    "gptq": _gptq,
    "gptqmodel": _gptq,
    "compressed-tensors": _compressed,
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp4": _mxfp4,
    "bitsandbytes": _bitsandbytes,
    "modelopt": _modelopt,
}
