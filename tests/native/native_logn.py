"""Log-n attention scaling in transformers: its own attention in float, with queries that grow as Qwen's rule says."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

NAME = "logn_reference"


def with_logn(model: PreTrainedModel, trained: int) -> PreTrainedModel:
    """The model with queries at position p times log(p + 1) / log(trained), beyond `trained` positions."""

    def attention(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **more: Any
    ) -> Any:
        length = query.shape[2]
        # Made here, since transformers makes none for an attention that it doesn't know.
        causal = torch.full((length, length), float("-inf"), device=query.device).triu(1)
        factors = [max(1.0, math.log(p + 1) / math.log(trained)) for p in range(length)]
        growth = torch.tensor(factors, dtype=query.dtype, device=query.device)
        return eager_attention_forward(module, query * growth[:, None], key, value, causal, **more)

    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    model.set_attn_implementation(NAME)
    return model
