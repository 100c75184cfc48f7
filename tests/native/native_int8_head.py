"""The rounding of an int8 output head, by torch: the reference of the engine's own."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """[rows, columns] in float32 as an int8 head keeps it: a scale a row, quants to the nearest, ties to even."""
    wide = weight.float()
    scale = wide.abs().amax(dim=1, keepdim=True) / 127
    quants = torch.where(scale > 0, wide / scale, 0).round()
    return quants * scale


def relative_error(weight: torch.Tensor) -> float:
    wide = weight.double()
    return float(((wide - rounded(weight).double()).square().sum() / wide.square().sum()).sqrt())


def with_int8_head(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its head rounded, which is its own from now on: look-ups keep the table as it is."""
    model.lm_head.weight = nn.Parameter(rounded(model.lm_head.weight.detach()), requires_grad=False)
    return model
