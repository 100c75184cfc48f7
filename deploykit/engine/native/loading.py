"""From a plan to an engine that is ready to run: description, manifest, weights one by one, KV memory."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.facts import Facts
from deploykit.checkpoint.raw import RawReader
from deploykit.engine.native.cuda import CUDA_KV_TYPES
from deploykit.engine.native.describe import describe
from deploykit.engine.native.errors import UnsupportedError, unsupported
from deploykit.engine.native.memory import check
from deploykit.engine.native.names import Manifest, Weight, manifest
from deploykit.engine.native.pieces import WeightReader
from deploykit.engine.native.sizes import KV_TYPES
from deploykit.errors import ConfigError, DeploykitError
from deploykit.plan.types import Plan

_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_REPORTS = 50  # of progress over all weights: each is a line to the supervisor
Progress = Callable[[str, float], None]


def load_engine(
    module: ModuleType, plan: Plan, facts: Facts, progress: Progress, *, isa: str = ""
) -> tuple[Any, dict[str, Any]]:
    """(the binding's engine, its capacity). Raises DeploykitError that names what can't be run or read."""
    try:
        model = describe(facts)
        check(model)
        found = manifest(facts, model)
    except UnsupportedError as error:
        raise unsupported(facts.architecture, str(error)) from None
    options = engine_options(plan, isa)
    try:
        engine = module.Engine(model.for_binding(plan.session_len), _specs(found), options)
    except module.NativeError as error:
        raise _failed(plan, error) from None
    try:
        _load_weights(module, engine, facts, found, progress)
        progress("engine", 0.0)
        capacity = engine.finish_loading()
        progress("engine", 1.0)
    except module.NativeError as error:
        engine.close()
        raise _failed(plan, error) from None
    except BaseException:
        engine.close()
        raise
    if plan.block_bytes and plan.block_bytes != capacity["block_bytes"]:
        engine.close()
        raise DeploykitError(
            "the plan and the native library count KV memory differently",
            where=facts.architecture,
            why=f"a block takes {capacity['block_bytes']} bytes, the plan counts {plan.block_bytes}",
            fix="plan again with this version of deploykit",
        )
    progress("kv", 1.0)
    return engine, capacity


def engine_options(plan: Plan, isa: str = "") -> dict[str, Any]:
    """The library's EngineOptions for a plan."""
    kv_types = CUDA_KV_TYPES if plan.device == "cuda" else KV_TYPES
    if plan.kv_dtype not in kv_types:
        raise ConfigError(
            f"the native engine has no KV memory of type {plan.kv_dtype}",
            where="engine.cache.quant_policy",
            fix=f"one of {', '.join(kv_types)}",
        )
    return {
        "device": plan.device,
        "device_index": plan.devices[0] if plan.devices else 0,
        "dtype": _DTYPES[plan.dtype],
        "kv": kv_types[plan.kv_dtype],
        "block_len": plan.block_len,
        "num_blocks": plan.num_blocks,
        "max_rows": plan.max_batch_size,
        "session_len": plan.session_len,
        "max_step_tokens": plan.step_capacity,
        "threads": max(plan.threads, 1),
        "int8_head": plan.lm_head_dtype == "int8",
        "isa": isa,
    }


def _specs(found: Manifest) -> list[dict[str, Any]]:
    return [
        {"name": w.name, "format": w.format.value, "rows": w.rows, "cols": w.cols, "group": w.group}
        for w in found.weights
    ]


def _load_weights(module: ModuleType, engine: Any, facts: Facts, found: Manifest, progress: Progress) -> None:
    with RawReader(facts) as raw:
        reader = WeightReader(raw)
        reader.check(found)
        total = len(found.weights)
        for index, weight in enumerate(found.weights):
            stored = reader.read(weight)
            try:
                engine.load_weight(
                    weight.name,
                    stored.data,
                    scales=stored.scales,
                    zeros=stored.zeros,
                    zero_offset=weight.zero_offset,
                )
            except module.NativeError as error:
                raise _bad_weight(raw, weight, error) from None
            if (index + 1) * _REPORTS // total > index * _REPORTS // total:
                progress("weights", (index + 1) / total)
        raw.check_unchanged()


def _bad_weight(raw: RawReader, weight: Weight, error: Any) -> DeploykitError:
    tensor = weight.data.tensor
    return CheckpointError(
        "the native engine can't take a tensor", file=raw.path(tensor), tensor=tensor.name, why=str(error)
    )


def _failed(plan: Plan, error: Any) -> DeploykitError:
    """An error of the library, in the words of its code."""
    fix = {
        "memory": "set a smaller engine.session_len or engine.max_batch_size, or a smaller model",
        "unsupported": "set engine.backend to pytorch",
    }.get(error.code)
    return DeploykitError(
        "the native engine can't load the model", where=plan.model_path, why=str(error), fix=fix
    )
