"""Which engine honours a key of the recipe, on which device, and in what words the others refuse it.

A test sets every value here and holds the table to what a plan really accepts and refuses, both ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

TARGETS = ("native/cpu", "native/cuda", "pytorch/cpu", "pytorch/cuda")  # engine/device
_NATIVE, _PYTORCH = TARGETS[:2], TARGETS[2:]
_PLACE = {"cpu": "a CPU", "cuda": "a GPU"}


class Case(NamedTuple):
    """A value of a key, and who refuses it: target -> words of the refusal."""

    value: Any
    refused: Mapping[str, str] = {}

    @property
    def accepted(self) -> tuple[str, ...]:
        """The targets that honour the value."""
        return tuple(target for target in TARGETS if target not in self.refused)


def _refused(targets: Iterable[str], words: str) -> dict[str, str]:
    return dict.fromkeys(targets, words)


_ALL = (Case(None),)  # honoured everywhere, whatever the value
_SAME_DTYPE = _refused(_PYTORCH, "it keeps keys and values in the dtype it computes in")

# Only keys that an engine has a say in; all others are honoured before an engine is chosen, or beside it.
HONOURED: dict[str, tuple[Case, ...]] = {
    "engine.backend": (Case("native", _refused(_PYTORCH, "")), Case("pytorch", _refused(_NATIVE, ""))),
    "engine.device": (
        Case("cpu", _refused(("native/cuda", "pytorch/cuda"), "")),
        Case("cuda", _refused(("native/cpu", "pytorch/cpu"), "")),
    ),
    "engine.tp": (Case(2, _refused(TARGETS, "every engine of this version runs on one device")),),
    "engine.session_len": (Case(1024),),
    "engine.max_batch_size": (Case(3),),
    "engine.max_prefill_tokens": (Case(300),),
    "engine.max_step_tokens": (Case(300),),
    "engine.max_prefill_chunks": (Case(4),),
    "engine.threads": (Case(1),),
    "engine.rope_scaling_factor": (
        Case(4.0, _refused(_PYTORCH, "it applies the checkpoint's own rotary scaling alone")),
    ),
    "engine.use_logn_attn": (
        Case(True, _refused(_PYTORCH, "log-n attention scaling (use_logn_attn) is not implemented")),
        Case(False),
    ),
    "engine.lm_head_dtype": (
        Case("int8", _refused(_PYTORCH, "it keeps the output head in the dtype it computes in")),
    ),
    "engine.cache.ratio": (Case(0.02),),
    "engine.cache.bytes": (Case("4GiB"),),
    "engine.cache.blocks": (Case(300),),
    "engine.cache.block_len": (Case(32), Case(128)),
    "engine.cache.quant_policy": (
        Case("int8", _SAME_DTYPE),
        Case("k8v4", _SAME_DTYPE),
        Case("int4", _SAME_DTYPE),
        Case("fp8", {"native/cpu": "it has int8, k8v4, int4 and no fp8", **_SAME_DTYPE}),
    ),
    "engine.cache.prefix_caching": (Case(False),),
    "model.dtype": (
        Case("bfloat16"),
        Case("float16"),
        Case("float32", {"native/cuda": "on a GPU it computes in bfloat16 or float16"}),
    ),
    "model.format": (
        Case("hf"),
        Case("gguf"),
        Case("awq", _refused(_PYTORCH, "not supported by the pytorch engine yet")),
        Case("gptq", _refused(_PYTORCH, "not supported by the pytorch engine yet")),
        *(
            Case(
                name,
                {
                    **_refused(_NATIVE, "are not implemented"),
                    **_refused(_PYTORCH, "not supported by the pytorch engine yet"),
                },
            )
            for name in ("fp8", "compressed-tensors", "mxfp4", "bitsandbytes")
        ),
    ),
}


def honoured_by(key: str) -> str:
    """Who honours a key, in Markdown: "every engine", or the values that only some honour."""
    cases = HONOURED.get(key, _ALL)
    if key in ("engine.backend", "engine.device"):
        return "every engine"  # they choose it
    groups: dict[tuple[str, ...], list[Any]] = {}
    for case in cases:
        groups.setdefault(case.accepted, []).append(case.value)
    if len(groups) == 1:
        return _who(next(iter(groups)))
    parts = (f"{', '.join(f'`{_written(v)}`' for v in values)}: {_who(by)}" for by, values in groups.items())
    return "; ".join(parts)


def refusals(key: str) -> list[str]:
    """Why values of a key are refused, and by whom: "`quant_policy: int8`, `fp8` by `pytorch`: it keeps …"."""
    name = key.rpartition(".")[2]
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for case in HONOURED.get(key, ()):
        words: dict[str, list[str]] = {}
        for target, reason in case.refused.items():
            words.setdefault(reason, []).append(target)
        for reason, targets in words.items():
            if reason:
                found.setdefault((reason, tuple(targets)), []).append(f"`{_written(case.value)}`")
    return [
        f"`{name}: {', '.join(values)[1:]} by {_who(by)}: {reason}" for (reason, by), values in found.items()
    ]


def _who(targets: tuple[str, ...]) -> str:
    """`native`, or "`pytorch`, `native` on a CPU"."""
    if targets == TARGETS:
        return "every engine"
    if not targets:
        return "no engine of this version"
    whole = [name for name in ("native", "pytorch") if {f"{name}/cpu", f"{name}/cuda"} <= set(targets)]
    parts = [f"`{name}`" for name in whole]
    for target in targets:
        engine, _, device = target.partition("/")
        if engine not in whole:
            parts.append(f"`{engine}` on {_PLACE[device]}")
    return ", ".join(parts)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
