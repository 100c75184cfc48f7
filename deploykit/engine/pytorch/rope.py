"""Rotary position embeddings: angles from a table, and the rotation in few operators.

An attention module's own forward runs, as it is written; only the helper that it calls by the name
`apply_rotary_pos_emb` is another one for it, where an experiment shows that both give the same. The table makes the
angles of a token independent of the batch (some scalings look at the longest sequence present).
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from deploykit.engine.pytorch.errors import unsupported

_HELPER = "apply_rotary_pos_emb"
_PARAMETERS = ["q", "k", "cos", "sin", "unsqueeze_dim"]
_SIGNED = "_deploykit_signed"
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
# Scalings whose angles depend on the length of what is computed: only a table makes them a token's own.
_LENGTH_DEPENDENT = ("dynamic", "longrope")

Rotation = tuple[torch.Tensor, torch.Tensor]


def rotate(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Rotation:
    """Rotate the halves of q [1, heads, T, head_dim] and k [1, kv_heads, T, head_dim] by cos, sin [1, T, head_dim].

    Where q and k stand side by side in one buffer (a fused projection's output) both are rotated at once, in place.
    """
    signed = getattr(sin, _SIGNED, None)  # made once a step, for all layers
    if signed is None:
        half = sin.shape[-1] // 2
        signed = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1).unsqueeze(1)
        setattr(sin, _SIGNED, signed)
    cos = cos.unsqueeze(1)
    half = q.shape[-1] // 2
    if _adjacent(q, k):
        heads = q.shape[1]
        both = q.as_strided((1, heads + k.shape[1], q.shape[2], q.shape[3]), q.stride())
        swapped = both.roll(half, -1)
        both.mul_(cos).addcmul_(swapped, signed)
        return q, k
    return (q * cos).addcmul_(q.roll(half, -1), signed), (k * cos).addcmul_(k.roll(half, -1), signed)


def _adjacent(q: torch.Tensor, k: torch.Tensor) -> bool:
    """Whether k's heads follow q's in the same storage."""
    return (
        q.stride() == k.stride()
        and q.stride(1) == q.shape[3]
        and k.data_ptr() == q.data_ptr() + q.shape[1] * q.shape[3] * q.element_size()
        and q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
    )


def fuse_rotation(module: nn.Module, head_dim: int, dtype: torch.dtype) -> None:
    """Give an attention module our helper in place of its own, where that is possible."""
    key = (type(module), head_dim, dtype)
    if key not in _rotating:
        _rotating[key] = _with_own_helper(*key)
    own = _rotating[key]
    if own is not None:
        module.__class__ = own


_rotating: dict[tuple[type[nn.Module], int, torch.dtype], type[nn.Module] | None] = {}


def _with_own_helper(cls: type[nn.Module], head_dim: int, dtype: torch.dtype) -> type[nn.Module] | None:
    """A subclass whose forward is the class's own code with another `apply_rotary_pos_emb` in its globals."""
    forward = cls.forward
    if not isinstance(forward, types.FunctionType) or _HELPER not in forward.__code__.co_names:
        return None
    original = forward.__globals__.get(_HELPER)
    if not callable(original) or list(inspect.signature(original).parameters) != _PARAMETERS:
        return None
    if not _same_rotation(original, head_dim, dtype):
        return None

    def helper(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
    ) -> Rotation:
        if unsqueeze_dim != 1 or cos.shape[-1] != q.shape[-1]:
            return original(q, k, cos, sin, unsqueeze_dim)  # type: ignore[no-any-return]
        return rotate(q, k, cos, sin)

    own = types.FunctionType(
        forward.__code__,
        {**forward.__globals__, _HELPER: helper},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    own.__kwdefaults__ = forward.__kwdefaults__
    return type(cls.__name__, (cls,), {"forward": own, "__module__": cls.__module__})


def _same_rotation(original: Callable[..., Any], head_dim: int, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2, 3, head_dim, generator=generator).to(dtype)
    k = torch.randn(1, 1, 3, head_dim, generator=generator).to(dtype)
    angles = torch.randn(1, 3, head_dim // 2, generator=generator)
    angles = torch.cat((angles, angles), dim=-1)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    try:
        expected = original(q, k, cos, sin)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    for one, other in zip(rotate(q, k, cos, sin), expected, strict=True):
        if one.shape != other.shape or not torch.allclose(
            one.float(), other.float(), atol=_TOLERANCE[dtype], rtol=_TOLERANCE[dtype]
        ):
            return False
    return True


class AngleTable(nn.Module):
    """cos and sin of every position of a session, computed once by the model's own module."""

    def __init__(
        self, original: nn.Module, session_len: int, like: torch.Tensor, kinds: list[str | None]
    ) -> None:
        super().__init__()
        positions = torch.arange(session_len, device=like.device).unsqueeze(0)
        self._tables: dict[str | None, Rotation] = {}
        for kind in kinds:
            found = original(like, positions) if kind is None else original(like, positions, kind)
            cos, sin = found
            self._tables[kind] = (cos[0].contiguous(), sin[0].contiguous())

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> Rotation:
        cos, sin = self._tables[layer_type]
        index = position_ids[0]
        return cos.index_select(0, index).unsqueeze(0), sin.index_select(0, index).unsqueeze(0)


def tabulate(model: nn.Module, config: Any, session_len: int, like: torch.Tensor) -> None:
    """Replace the model's rotary modules by tables. Raises DeploykitError where the angles would depend on the batch.

    `like` is a hidden state [1, n, hidden] of the model's dtype and device.
    """
    for name, module in list(model.named_modules()):
        if not type(module).__name__.endswith("RotaryEmbedding"):
            continue
        parameters = list(inspect.signature(module.forward).parameters)
        if parameters == ["x", "position_ids"]:
            kinds: list[str | None] = [None]
        elif parameters == ["x", "position_ids", "layer_type"]:
            kinds = list(dict.fromkeys(config.layer_types))
        else:
            if _length_dependent(config):
                raise unsupported(
                    type(module).__name__, "scales positions by the longest sequence of a batch"
                )
            continue
        model.set_submodule(name, AngleTable(module, session_len, like, kinds))


def _length_dependent(config: Any) -> bool:
    parameters = getattr(config, "rope_parameters", None) or {}
    found = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    return any(part.get("rope_type") in _LENGTH_DEPENDENT for part in found)
