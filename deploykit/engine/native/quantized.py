"""What a config.json says about 4-bit weights: AWQ and GPTQ as the library takes them, everything else by name."""

from __future__ import annotations

from typing import Literal

import msgspec

from deploykit.checkpoint.facts import Facts
from deploykit.engine.native.config import Config
from deploykit.engine.native.errors import UnsupportedError

GROUPS = (32, 64, 128)


class Packing(msgspec.Struct, frozen=True):
    format: Literal["awq", "gptq"]
    group: int  # columns that share a scale and a zero
    zero_offset: int = 0  # stored zeros are this much too small


def read_packing(facts: Facts) -> Packing | None:
    """The packing of a quantized checkpoint; None for plain weights and GGUF. Raises UnsupportedError."""
    if facts.quant_method in (None, "gguf"):
        return None
    config = Config(facts).section("quantization_config")
    if config is None or facts.quant_method not in ("awq", "gptq"):
        raise UnsupportedError(f"weights quantized with {facts.quantized} are not implemented")
    return _awq(config) if facts.quant_method == "awq" else _gptq(config)


def _awq(config: Config) -> Packing:
    version = config.text("version", "gemm").lower()
    if version != "gemm":
        raise UnsupportedError(f"AWQ of version {version!r} is not implemented; the one that is: gemm")
    if not config.flag("zero_point", True):
        raise UnsupportedError("AWQ without zero points is not implemented")
    _bits("AWQ", config, "w_bit")
    return Packing("awq", _group("AWQ", config, "q_group_size"))


def _gptq(config: Config) -> Packing:
    if config.flag("desc_act", False):
        raise UnsupportedError("GPTQ in activation order (desc_act) is not implemented")
    if config.flag("is_marlin_format", False):
        raise UnsupportedError("GPTQ in Marlin's layout is not implemented")
    if config.values.get("dynamic"):
        raise UnsupportedError("GPTQ with settings that differ by module (dynamic) is not implemented")
    layout = config.text("checkpoint_format", "gptq")
    if layout not in ("gptq", "gptq_v2"):
        raise UnsupportedError(f"GPTQ in the layout {layout!r} is not implemented; known: gptq, gptq_v2")
    _bits("GPTQ", config, "bits")
    return Packing("gptq", _group("GPTQ", config, "group_size"), 1 if layout == "gptq" else 0)


def _bits(method: str, config: Config, other: str) -> None:
    bits = config.integer("bits" if "bits" in config else other)
    if bits != 4:
        raise UnsupportedError(f"{method} of {bits} bits is not implemented; 4 are")


def _group(method: str, config: Config, other: str) -> int:
    group = config.integer("group_size" if "group_size" in config else other, low=-1)
    if group not in GROUPS:
        known = ", ".join(map(str, GROUPS))
        raise UnsupportedError(f"{method} in groups of {group} is not implemented; known: {known}")
    return group
