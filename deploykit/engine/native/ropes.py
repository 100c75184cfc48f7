"""Which rotary embedding a config asks for, by transformers' rules for old and new configs."""

from __future__ import annotations

from deploykit.engine.native.config import Config
from deploykit.engine.native.description import Rope
from deploykit.engine.native.errors import UnsupportedError

_SCALED = ("linear", "dynamic", "llama3", "yarn", "longrope")
_KEEPS_ORIGINAL = ("llama3", "yarn", "longrope")


def read_rope(
    config: Config,
    *,
    head_dim: int,
    theta: float,
    interleaved: bool = False,
    partial: float | None = None,
    aliases: dict[str, str] | None = None,
    kind: str | None = None,
) -> Rope:
    """The rope of a config.

    `theta` is the family's default base; `partial` its default share of a head that rotates, None where the family
    rotates all of it; `aliases` are old names of scalings; `kind` picks the section of a layer kind where the config
    has one for each (Gemma 3).
    Raises UnsupportedError for a scaling that isn't implemented and CheckpointError for a wrong value.
    """
    section, own_theta = _section(config, kind)
    name = section.text("rope_type", section.text("type", "default"))
    name = (aliases or {}).get(name, name)
    if name != "default" and name not in _SCALED:
        raise UnsupportedError(f"rope scaling {name!r} is not implemented in the native engine")
    default_theta = config.number("rope_theta", theta) if own_theta else theta
    share = section.number("partial_rotary_factor", config.number("partial_rotary_factor", partial or 1.0))
    if share > 1 or (partial is None and share != 1):
        raise UnsupportedError(f"partial_rotary_factor {share:g} is not implemented for this architecture")
    dims = int(head_dim * share)
    if dims < 2 or dims % 2:
        raise UnsupportedError(f"a head of {head_dim} with {dims} rotated dimensions is not implemented")
    rope = Rope(
        kind=name,
        theta=section.number("rope_theta", default_theta),
        dims=dims,
        interleaved=interleaved,
        max_positions=config.facts.max_position_embeddings,
        original_positions=_original(config, section, name),
        factor=_factor(section, name),
        attention_factor=section.optional("attention_factor"),
        low_freq_factor=section.number("low_freq_factor", 1.0),
        high_freq_factor=section.number("high_freq_factor", 4.0),
        beta_fast=section.number("beta_fast", 32.0),
        beta_slow=section.number("beta_slow", 1.0),
        mscale=section.optional("mscale"),
        mscale_all_dim=section.optional("mscale_all_dim"),
        truncate=section.flag("truncate", True),
        short_factor=_frequencies(section, "short_factor", name, dims),
        long_factor=_frequencies(section, "long_factor", name, dims),
    )
    return _checked(section, rope)


def _section(config: Config, kind: str | None) -> tuple[Config, bool]:
    """The rope parameters, and whether rope_theta of the config itself is their default base."""
    scaling = config.section("rope_scaling")
    parameters = config.section("rope_parameters")
    own = Config(config.facts, {}, "rope_parameters.")
    if kind is None:
        return (scaling if scaling and scaling.values else None) or parameters or own, True
    nested = (parameters.section(kind) if parameters else None) or own
    if kind == "full_attention":
        if scaling:
            nested = Config(config.facts, {**nested.values, **scaling.values}, "rope_scaling.")
        return nested, True
    if "rope_local_base_freq" in config and "rope_theta" not in nested:
        values = {**nested.values, "rope_theta": config.number("rope_local_base_freq")}
        nested = Config(config.facts, values, "rope_parameters.")
    return nested, False


def _original(config: Config, section: Config, kind: str) -> int:
    most = config.facts.max_position_embeddings
    if kind not in _KEEPS_ORIGINAL:
        return most
    if "original_max_position_embeddings" in config:
        return config.integer("original_max_position_embeddings")
    return section.integer("original_max_position_embeddings", most)


def _factor(section: Config, kind: str) -> float | None:
    if kind in ("linear", "dynamic", "llama3"):
        return section.number("factor")
    factor = section.optional("factor")
    if kind == "yarn" and factor is None:
        return section.number("factor")
    return factor


def _frequencies(section: Config, key: str, kind: str, dims: int) -> tuple[float, ...]:
    if kind != "longrope":
        return ()
    values = section.items(key)
    if values is None or len(values) != dims // 2:
        raise section.bad(key, f"a list of {dims // 2} numbers")
    numbers = Config(section.facts, {str(i): v for i, v in enumerate(values)}, f"{key}.")
    return tuple(numbers.number(str(i)) for i in range(len(values)))


def _checked(section: Config, rope: Rope) -> Rope:
    """Values that the formulas divide by or take the logarithm of."""
    if rope.kind == "llama3" and rope.high_freq_factor <= rope.low_freq_factor:
        raise section.bad("high_freq_factor", f"a number above low_freq_factor ({rope.low_freq_factor:g})")
    if rope.kind in ("dynamic", "yarn") and (rope.theta <= 1 or rope.dims <= 2):
        raise section.bad("rope_theta", "a base above 1 and more than two rotated dimensions")
    if rope.kind == "dynamic" and (rope.factor or 0) < 1:
        raise section.bad("factor", "a factor of at least 1")
    if rope.kind == "longrope" and rope.original_positions < 2:
        raise section.bad("original_max_position_embeddings", "at least 2")
    return rope
