"""What the weights of a loaded model take: measured on the tensors that are there, packed or plain."""

from __future__ import annotations

import gc
import types

import torch
from torch import nn

from deploykit.engine.pytorch.rope import AngleTable

# Shared with the whole process: nothing that only one model holds lies behind them.
_BEYOND = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.CodeType,
    types.FrameType,
)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of every weight that `model` reaches, each storage once; oneDNN's packed ones with their padding.

    Buffers and tables of angles are not weights: they are left out.
    """
    seen = {id(model), *map(id, model.buffers())}
    seen |= {id(module) for module in model.modules() if isinstance(module, AngleTable)}
    storages: dict[int, int] = {}
    waiting: list[object] = [model]
    while waiting:
        for found in gc.get_referents(waiting.pop()):
            if id(found) in seen or isinstance(found, _BEYOND):
                continue
            seen.add(id(found))
            if not isinstance(found, torch.Tensor):
                waiting.append(found)
            elif found.is_mkldnn:
                storages[id(found)] = int(torch.ops.mkldnn._nbytes(found))
            else:
                storage = found.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
