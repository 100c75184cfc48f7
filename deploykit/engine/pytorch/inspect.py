"""What a model's layers really ask of attention, found by running it once, and refused where we don't implement it.

A short forward is run with an observer in place of attention. Every attention module must call the interface exactly
once; the mask that the model makes for each layer is evaluated at chosen points, so that a window, a chunk or a
bidirectional mask is recognised by what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from deploykit.engine.pytorch import attention
from deploykit.engine.pytorch.errors import unsupported
from deploykit.engine.pytorch.kernels import attend, causal_mask
from deploykit.engine.pytorch.kv import KVShape

_FAR = 1 << 40  # a position beyond every window
_KIND = "_deploykit_window"
_FULL = 0  # the tag of a mask without a window

# Arguments of the interface that change nothing here: there is no dropout, no padding and no cache object.
_IGNORED = frozenset(
    {"dropout", "is_causal", "sliding_window", "position_ids", "use_cache", "scaling", "softcap", "s_aux"}
    | {"output_attentions", "output_hidden_states", "cache_position", "training", "deterministic"}
)


class Inspection:
    """Observer of one forward over `tokens` tokens of one sequence."""

    def __init__(self, architecture: str) -> None:
        self._architecture = architecture
        self.modules: list[tuple[nn.Module, int | None]] = []  # in the order of the calls, with their window
        self._shapes: set[tuple[int, int, int]] = set()

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        arguments: dict[str, Any],
    ) -> torch.Tensor:
        name = f"{self._architecture}: attention of {type(module).__name__}"
        if any(module is seen for seen, _ in self.modules):
            raise unsupported(name, "is called more than once in a forward")
        if arguments.get("is_causal") is False or getattr(module, "is_causal", True) is False:
            raise unsupported(name, "is not causal")
        for argument, setting in arguments.items():
            if argument not in _IGNORED and setting is not None and setting is not False:
                raise unsupported(name, f"uses {argument!r}, which the pytorch engine does not implement")
        if value.shape != key.shape:
            raise unsupported(name, f"has keys of {key.shape[-1]} and values of {value.shape[-1]} per head")
        if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
            raise unsupported(name, "does not see the step's own tokens only")
        window = _window(name, mask, arguments)
        self.modules.append((module, window))
        self._shapes.add((key.shape[1], key.shape[3], query.shape[1]))

        count = query.shape[2]
        scale = arguments.get("scaling")
        result = attend(
            query[0],
            key[0],
            value[0],
            causal_mask(0, count, window, query.dtype, query.device),
            query.shape[-1] ** -0.5 if scale is None else scale,
            arguments.get("softcap"),
            arguments.get("s_aux"),
        )
        return result.transpose(0, 1).unsqueeze(0)

    def shape(self, num_layers: int, block_len: int) -> KVShape:
        """The KV memory's shape. Raises where the layers disagree or some never called attention."""
        if len(self.modules) != num_layers:
            raise unsupported(
                self._architecture,
                f"has {num_layers} layers, of which {len(self.modules)} use attention through transformers' "
                "attention interface",
            )
        if len(self._shapes) != 1:
            raise unsupported(self._architecture, "has layers with different numbers or sizes of heads")
        kv_heads, head_dim, heads = next(iter(self._shapes))
        if heads % kv_heads:
            raise unsupported(self._architecture, f"shares {kv_heads} key heads among {heads} heads unevenly")
        return KVShape(num_layers, kv_heads, head_dim, block_len)

    def attach(self) -> None:
        """Number the attention modules in the order of the forward."""
        for index, (module, window) in enumerate(self.modules):
            attention.attach(module, attention.Layer(index, window))


@contextmanager
def marked_masks() -> Iterator[None]:
    """Inside this block the model's masks carry what they mean. Outside, no mask is made at all."""
    ALL_MASK_ATTENTION_FUNCTIONS.register(attention.IMPLEMENTATION, _marked_mask)
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS._global_mapping[attention.IMPLEMENTATION]


def _marked_mask(
    *,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., torch.Tensor],
    local_size: int | None = None,
    device: torch.device | None = None,
    **_: Any,
) -> torch.Tensor:
    """transformers' mask interface: a mask of the right shape whose only content is its tag."""
    mask = torch.zeros(1, 1, q_length, kv_length, dtype=torch.bool, device=device)
    setattr(mask, _KIND, _classify(mask_function, local_size))
    return mask


def _classify(mask_function: Callable[..., torch.Tensor], local_size: int | None) -> int | None:
    """0 = full causal, w = a window of w tokens, None = something else."""

    def sees(query: int, key: int) -> bool:
        zero = torch.tensor(0)
        return bool(mask_function(zero, zero, torch.tensor(query), torch.tensor(key)))

    if not sees(_FAR, _FAR) or sees(_FAR, _FAR + 1):
        return None
    if sees(_FAR, 0):
        return _FULL
    if local_size is None or local_size < 1:
        return None
    w = local_size
    # a chunk of w sees nothing before a multiple of w; a window always sees w tokens back
    points = ((_FAR, _FAR - w + 1), (w, 1), (2 * w + 1, w + 2)) if w > 1 else ((_FAR, _FAR),)
    if all(sees(q, k) for q, k in points) and not sees(_FAR, _FAR - w) and not sees(w, 0):
        return w
    return None


def _window(name: str, mask: torch.Tensor | None, arguments: dict[str, Any]) -> int | None:
    """The layer's window from the mask that the model made for it, or from the interface where it makes none."""
    if mask is None:
        window = arguments.get("sliding_window")
        return None if window is None else int(window)
    kind = getattr(mask, _KIND, None)
    if kind is None:
        raise unsupported(name, "uses a mask that is neither causal nor a sliding window")
    return None if kind == _FULL else int(kind)
