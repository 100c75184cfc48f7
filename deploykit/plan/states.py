"""What layers without keys and values keep of a sequence: a state of constant size, read from config.json.

Shapes are those of the models' reference code; a convolution over `k` tokens keeps its last `k - 1` inputs. Each
function gives (numbers in the dtype of activations, numbers in float32) of one layer and one sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Config = dict[str, Any]
State = tuple[int, int]  # (of convolutions, recurrent)


def first(config: Config, *names: str, default: int | None = None) -> int:
    """The first of the names that is a positive integer. Raises KeyError where none is and nothing stands in."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    if default is None:
        raise KeyError(names[0])
    return default


def mamba(config: Config) -> State:
    """State-space layers: Mamba 2 where the config has groups of heads, else Mamba 1."""
    size = first(config, "mamba_d_state", "ssm_state_size", "state_size", default=16)
    kernel = first(config, "mamba_d_conv", "conv_kernel", "mamba_conv_kernel", default=4)
    groups = ("mamba_n_groups", "mamba_ngroups", "n_groups")
    if any(config.get(name) for name in groups):
        heads = first(config, "mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
        inner = _inner(config, heads)
        return (inner + 2 * first(config, *groups) * size) * (kernel - 1), inner * size
    inner = _inner(config, None)
    return inner * (kernel - 1), inner * size


def _inner(config: Config, heads: int | None) -> int:
    """Channels of a state-space layer: said so, heads times their size, or the hidden size expanded."""
    if config.get("mamba_d_ssm"):
        return first(config, "mamba_d_ssm")
    dim = next((config[k] for k in ("mamba_d_head", "mamba_head_dim", "mamba_headdim") if k in config), None)
    if heads and isinstance(dim, int):
        return heads * dim
    return first(config, "mamba_expand", "expand", default=2) * first(config, "hidden_size", "d_model")


def gated_delta(config: Config) -> State:
    """Gated delta nets (Qwen3-Next): queries, keys and values convolved, a matrix a value head."""
    key, value = first(config, "linear_key_head_dim"), first(config, "linear_value_head_dim")
    key_heads, value_heads = first(config, "linear_num_key_heads"), first(config, "linear_num_value_heads")
    channels = 2 * key_heads * key + value_heads * value
    return channels * (first(config, "linear_conv_kernel_dim", default=4) - 1), value_heads * value * key


def kimi_delta(config: Config) -> State:
    """Kimi's delta attention: queries, keys and values convolved, a square matrix a head."""
    own = config["linear_attn_config"]
    heads, dim = first(own, "num_heads"), first(own, "head_dim")
    return 3 * heads * dim * (first(own, "short_conv_kernel_size", default=4) - 1), heads * dim * dim


def lightning(config: Config) -> State:
    """Lightning attention (MiniMax): a square matrix a head."""
    heads = first(config, "num_attention_heads")
    dim = first(config, "head_dim", default=first(config, "hidden_size") // heads)
    return 0, heads * dim * dim


def recurrent(config: Config) -> State:
    """Gated linear recurrent units (RecurrentGemma): one number a channel, behind a convolution."""
    width = first(config, "lru_width", "hidden_size")
    return width * (first(config, "conv1d_width", default=4) - 1), width


def short_conv(config: Config) -> State:
    """Convolutions alone (LFM2)."""
    return first(config, "hidden_size") * (first(config, "conv_L_cache", default=3) - 1), 0


def rwkv(config: Config) -> State:
    """RWKV 4 keeps five numbers a channel (two inputs, numerator, denominator, maximum)."""
    hidden, wide = first(config, "hidden_size"), first(config, "attention_hidden_size", "hidden_size")
    return 2 * hidden, 3 * wide


def rwkv6(config: Config) -> State:
    """RWKV 5 and 6: two inputs, and a square matrix a head of 64."""
    hidden = first(config, "hidden_size")
    return 2 * hidden, hidden * first(config, "head_size", default=64)


def linear(config: Config) -> State:
    """Linear attention: which one, the config's keys say."""
    if isinstance(config.get("linear_attn_config"), dict):
        return kimi_delta(config)
    return gated_delta(config) if config.get("linear_num_value_heads") else lightning(config)


STATES: dict[str, Callable[[Config], State]] = {
    "mamba": mamba,
    "linear": linear,
    "recurrent": recurrent,
    "conv": short_conv,
    "rwkv": rwkv,
    "rwkv6": rwkv6,
}
