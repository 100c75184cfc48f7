"""Linear layers with weights prepacked for oneDNN, and several of them in one call.

The packed layout is made once at load; a plain weight would be reordered on every call. oneDNN's packed bfloat16
product gives every row the same bits whatever rows are beside it, so a result does not depend on the batch.

These are plain callables, not modules: at one token a step, what a module's `__call__` does around its forward costs
as much as a small operator.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

_ops = torch.ops.mkldnn


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this machine has oneDNN kernels for the dtype."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(_ops._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(_ops._is_mkldnn_fp16_supported())
    return dtype == torch.float32


class PackedLinear:
    """y = x W^T + b, W [out, in] in oneDNN's own layout."""

    __slots__ = ("_multiply", "bias", "in_features", "out_features", "packed")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.out_features, self.in_features = weight.shape
        self.packed = _ops._reorder_linear_weight(weight, None)
        self.bias = None if bias is None else bias.detach().clone()
        self._multiply = _ops._linear_pointwise.default

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._multiply(x, self.packed, self.bias, "none", [], "")  # type: ignore[no-any-return]


def pack_rows(layers: list[nn.Linear]) -> PackedLinear:
    """Projections of the same input as one product; its columns are theirs, one after another."""
    weight = torch.cat([layer.weight for layer in layers])
    bias = None
    if any(layer.bias is not None for layer in layers):
        bias = torch.cat(
            [weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers]
        )
    return PackedLinear(weight, bias)


class SharedProduct:
    """Several projections of one input as one product. Results are parked until every part has been taken."""

    __slots__ = ("_left", "_parts", "_source", "bounds", "projection")

    def __init__(self, layers: list[nn.Linear]) -> None:
        self.projection = pack_rows(layers)
        ends = [0]
        for layer in layers:
            ends.append(ends[-1] + layer.out_features)
        self.bounds = list(itertools.pairwise(ends))
        self._source: torch.Tensor | None = None
        self._parts: list[torch.Tensor | None] = [None] * len(layers)
        self._left = 0

    def take(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """Part `index` of the product with `x`; computed anew unless `x` is the very tensor it was computed for."""
        part = self._parts[index] if self._source is x else None
        if part is None:
            product = self.projection(x)
            self._parts = [product[..., start:end] for start, end in self.bounds]
            self._source, self._left = x, len(self.bounds)
            part = self._parts[index]
        self._parts[index] = None
        self._left -= 1
        if self._left == 0:
            self._source = None
        return part  # type: ignore[return-value]


class SharedPart:
    """Stands where one of the projections stood."""

    __slots__ = ("in_features", "index", "out_features", "shared")

    def __init__(self, shared: SharedProduct, index: int) -> None:
        self.shared = shared
        self.index = index
        self.in_features = shared.projection.in_features
        start, end = shared.bounds[index]
        self.out_features = end - start

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.shared.take(self.index, x)


def pack_together(layers: list[nn.Linear]) -> list[SharedPart]:
    """Projections of the same input, packed as one."""
    shared = SharedProduct(layers)
    return [SharedPart(shared, i) for i in range(len(layers))]
