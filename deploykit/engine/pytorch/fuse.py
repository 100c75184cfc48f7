"""Makes a model fast on a CPU without touching its code: modules are replaced by equals that do less.

A module is recognised by its parts and, where its arithmetic is more than a matrix product, proven by an experiment:
the replacement must give what the original gives on random input, or the original stays.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from deploykit.engine.heap import release_free_heap
from deploykit.engine.pytorch.linear import PackedLinear, can_pack, pack_rows, pack_together

Layer = Callable[[torch.Tensor], torch.Tensor]

_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_FEW_ROWS = 32  # up to here a norm's time is its operators' number, beyond it their work
_TRIM_EVERY = 64  # modules; keeps the temporaries of packing from piling up
_PROBE_SHAPES = ((1, 3), (1, _FEW_ROWS + 3))
# Largest relative difference between a module and its replacement: rounding in the dtype, with room.
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


class GatedMLP:
    """down(silu(gate(x)) * up(x)) with gate and up in one product."""

    __slots__ = ("_size", "down", "gate_up")

    def __init__(self, gate: nn.Linear, up: nn.Linear, down: nn.Linear) -> None:
        self.gate_up = pack_rows([gate, up])
        self.down = PackedLinear(down.weight, down.bias)
        self._size = gate.out_features

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product = self.gate_up(x)
        hidden = functional.silu(product[..., : self._size])
        return self.down(hidden.mul_(product[..., self._size :]))


class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * weight, in float32 inside.

    torch has one fused kernel for layer norm on a CPU and none for this one. The layer norm of (x, -x) is the same
    thing: its mean is 0 and its variance the mean square of x. That is twice the work in a third of the operators.
    """

    __slots__ = ("_doubled", "_doubled_shape", "_shape", "_size", "eps", "weight")

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self.weight = weight
        self.eps = eps
        self._size = weight.shape[0]
        self._shape = (self._size,)
        self._doubled = torch.cat((weight, weight))
        self._doubled_shape = (2 * self._size,)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() > _FEW_ROWS * self._size:
            return functional.rms_norm(x, self._shape, self.weight, self.eps)
        both = torch.cat((x, -x), dim=-1)
        # contiguous rows: what follows multiplies them
        return torch.layer_norm(both, self._doubled_shape, self._doubled, None, self.eps)[..., : self._size]


@torch.inference_mode()
def fuse(model: nn.Module, progress: Callable[[float], None]) -> None:
    """Replace what can be replaced, everywhere in `model`, in place. Plain weights are freed as they are packed."""
    modules = list(model.modules())
    for done, module in enumerate(modules):
        progress(done / len(modules))
        if done % _TRIM_EVERY == 0:
            release_free_heap()
        for name, child in list(module.named_children()):
            replacement = _gated_mlp(child) or _rms_norm(child)
            if replacement is not None:
                replace(module, name, replacement)
        _pack_children(module)
    own_parameters(model)


def replace(module: nn.Module, name: str, layer: Layer) -> None:
    """Put a plain callable where a child module was."""
    del module._modules[name]
    module.__dict__[name] = layer


def own_parameters(model: nn.Module) -> None:
    """Copy what is still mapped from the disk into memory of our own, so that the files may change or go."""
    seen: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type != "cpu":
                continue  # moving it to the device has copied it
            copy = seen.get(id(parameter))
            if copy is None:
                copy = nn.Parameter(parameter.detach().clone(), requires_grad=False)
                seen[id(parameter)] = copy
            setattr(module, name, copy)


def _pack_children(module: nn.Module) -> None:
    """Pack the module's own linear layers, those of one input together."""
    for names in _TOGETHER:
        group = (module._modules.get(name) for name in names)
        layers = [layer for layer in group if isinstance(layer, nn.Linear) and _packable(layer)]
        if len(layers) == len(names) and len({layer.in_features for layer in layers}) == 1:
            for name, part in zip(names, pack_together(layers), strict=True):
                replace(module, name, part)
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear) and _packable(child):
            replace(module, name, PackedLinear(child.weight, child.bias))


def _packable(layer: nn.Linear) -> bool:
    return type(layer) is nn.Linear and can_pack(layer.weight.dtype, layer.weight.device)


def _gated_mlp(module: nn.Module) -> Layer | None:
    """A gated feed-forward layer of the common shape."""
    children = dict(module.named_children())
    names = ("gate_proj", "up_proj", "down_proj")
    layers = [child for name in names if isinstance(child := children.get(name), nn.Linear)]
    if len(layers) != len(names) or set(children) - {"act_fn", *names} or not all(map(_packable, layers)):
        return None
    gate, up, down = layers
    if [*module.parameters(recurse=False), *module.buffers()] or gate.in_features != up.in_features:
        return None
    replacement = GatedMLP(gate, up, down)
    return replacement if _same(module, replacement, gate.in_features, gate.weight) else None


def _rms_norm(module: nn.Module) -> Layer | None:
    """A root mean square norm, with the weight as it is or as an offset from one."""
    parameters = list(module.parameters())
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or len(parameters) != 1 or not isinstance(eps, float):
        return None
    weight = parameters[0].detach()
    if weight.ndim != 1 or weight.device.type != "cpu":
        return None
    for candidate in (weight, weight + 1):
        replacement = RMSNorm(candidate.clone(), eps)
        if _same(module, replacement, weight.shape[0], weight):
            return replacement
    return None


def _same(original: nn.Module, replacement: Layer, features: int, like: torch.Tensor) -> bool:
    """Whether both give the same on random input [1, rows, features] of several sizes, up to rounding."""
    generator = torch.Generator().manual_seed(0)
    for shape in _PROBE_SHAPES:
        for size in (0.02, 1.0, 20.0):
            x = (torch.randn(*shape, features, generator=generator) * size).to(like)
            expected, got = original(x), replacement(x)
            if got.shape != expected.shape or got.dtype != expected.dtype:
                return False
            difference = (got.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-20)
            if not float(difference) <= _TOLERANCE[like.dtype]:
                return False
    return True
