"""Two experiments at load that catch what reading a model can't: refused, rather than wrong.

`check_flow`: with attention silenced, no token may know of another. A convolution, a recurrence or a token shift
beside attention shows here. `check_paged`: the paged, chunked path must give what one plain forward gives; a model
that ignores the positions it is given, or whose attention we read wrongly, shows here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deploykit.engine.pytorch import attention
from deploykit.engine.pytorch.attention import observing
from deploykit.engine.pytorch.batch import Batch
from deploykit.engine.pytorch.errors import unsupported
from deploykit.engine.pytorch.kv import KVPool
from deploykit.engine.pytorch.model import LanguageModel
from deploykit.engine.pytorch.rows import RowTable
from deploykit.engine.types import Admit, Extend, SamplingParams, pack

PROBE_TOKENS = 8


def probe_ids(vocab_size: int, device: torch.device) -> torch.Tensor:
    """int64[1, PROBE_TOKENS] over the whole vocabulary: the first ids of many are special tokens, hardly trained."""
    return ((torch.arange(PROBE_TOKENS, device=device) * 2 + 1) * vocab_size // (2 * PROBE_TOKENS)).unsqueeze(
        0
    )


_CHUNKS = (4, 3, 1)  # a first chunk, one with a context, one decode token
# relative differences of hidden states: what rounding explains, with room
_PAGED_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.2, torch.bfloat16: 0.3}
_FLOW_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}


def _silence(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    arguments: dict[str, Any],
) -> torch.Tensor:
    """Attention that says nothing."""
    return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])


def check_flow(architecture: str, model: LanguageModel, ids: torch.Tensor) -> None:
    """Change the first half of the tokens: the second half's states must not notice. Raises DeploykitError."""
    half = ids.shape[1] // 2
    others = ids.clone()
    others[:, :half] = ids[:, half : 2 * half].flip(1)
    positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
    with torch.inference_mode(), observing(_silence):
        one = model.hidden(ids, positions)[half:].float()
        other = model.hidden(others, positions)[half:].float()
    error = float((one - other).norm() / one.norm())
    if not error <= _FLOW_TOLERANCE[model.dtype]:
        raise unsupported(
            architecture, f"passes state between tokens beside attention (relative difference {error:.3g})"
        )


def check_paged(
    architecture: str, model: LanguageModel, pool: KVPool, ids: torch.Tensor, reference: torch.Tensor
) -> None:
    """`reference` [n, hidden] belongs to the tokens `ids` [1, n]. Raises DeploykitError where the paths differ."""
    tokens = ids[0].tolist()
    table = RowTable(1, len(tokens), pool.shape.block_len)
    table.admit(
        Admit(
            row=0,
            epoch=0,
            tokens=pack(tokens),
            prompt_len=len(tokens),
            computed=0,
            limit=len(tokens),
            sampling=SamplingParams(),
            seed=0,
        )
    )
    count = -(-len(tokens) // pool.shape.block_len)
    if count > pool.num_blocks:
        raise unsupported(
            architecture, f"was given {pool.num_blocks} KV blocks, fewer than {len(tokens)} tokens need"
        )
    # from the end: a freshly started pool hands out its first blocks first
    table.extend(Extend(0, 0, 0, tuple(range(pool.num_blocks - count, pool.num_blocks))))
    states = []
    with torch.inference_mode():
        for size in _CHUNKS:
            batch = Batch(table, pool, [0], [size])
            with attention.running(attention.Context(pool, batch)):
                states.append(model.hidden(batch.input_ids, batch.position_ids))
            table.computed[0] += size
        paged = torch.cat(states).float()
        expected = reference.float()
        # Each token by itself, and the median of those after the first chunk: in half precision a model may be
        # ill-conditioned on a token or two (ones it never saw in training), while a state that is lost or a
        # position that is ignored shows on all of them.
        errors = (paged - expected).norm(dim=1) / expected.norm(dim=1)
        error = float(errors[_CHUNKS[0] :].median())
    if not error <= _PAGED_TOLERANCE[reference.dtype]:
        raise unsupported(
            architecture,
            f"gives different results when its tokens come in chunks (relative difference {error:.3g})",
        )
    pool.data.view(pool.num_blocks, -1)[-count:].zero_()
