"""Everything that is decided before a plan is written down: tried again and again in the search for changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from deploykit.plan.check import check_block_len, check_lengths, check_pool, refuse_unsupported
from deploykit.plan.choose import Choice, Device, NativeProblems, choose
from deploykit.plan.inputs import place_of, threads_of, wish_of
from deploykit.plan.memory import blocks_for
from deploykit.plan.size import DoesNotFitError, Place, Sizes, Wish, find_sizes
from deploykit.plan.stated import check_device

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.hardware.machine import Machine
    from deploykit.recipe.schema import Recipe


HERE_OR_CAN_BE = NativeProblems()  # the library, for both devices


@dataclass(frozen=True)
class Inputs:
    """What a plan is made from, and from nothing else."""

    recipe: Recipe
    facts: Facts
    machine: Machine
    native: NativeProblems = HERE_OR_CAN_BE
    runner: str | None = None
    # Engines and their costs on a device: no size changes them, and a large mixture's headers take a while.
    known: dict[tuple[Any, ...], Any] = field(default_factory=dict, compare=False, repr=False)

    def changed(self, key: str, value: Any) -> Inputs:
        """The same with another value for a key of the recipe (`engine.cache.ratio`)."""
        return replace(self, recipe=_with(self.recipe, key.split("."), value))

    def value(self, key: str) -> Any:
        found: Any = self.recipe
        for part in key.split("."):
            found = getattr(found, part)
        return found


def _with(section: Any, path: list[str], value: Any) -> Any:
    inner = _with(getattr(section, path[0]), path[1:], value) if len(path) > 1 else value
    return section.model_copy(update={path[0]: inner})


@dataclass(frozen=True)
class Outline:
    choice: Choice
    wish: Wish
    threads: int
    place: Place
    sizes: Sizes

    @property
    def sessions(self) -> int:
        """Full sessions that the KV blocks hold at once."""
        return self.sizes.num_blocks // blocks_for(self.sizes.session_len, self.wish.block_len)


class TooSmallError(Exception):
    """The device can't hold it; `outline` has the smallest sizes that were tried."""

    def __init__(self, outline: Outline) -> None:
        super().__init__("does not fit")
        self.outline = outline


def outline(inputs: Inputs) -> Outline:
    """Raises PlanError where the recipe can't be honoured, TooSmallError where it doesn't fit."""
    engine = inputs.recipe.engine
    refuse_unsupported(engine)
    facts = inputs.facts.with_rope_factor(engine.rope_scaling_factor).with_logn(engine.use_logn_attn)
    choice = _choice(inputs, facts)
    if inputs.runner is None:
        check_device(inputs.recipe, choice.device)
    check_block_len(engine.cache.block_len, choice.device)
    wish = wish_of(engine)
    check_lengths(wish, facts, stretched=(engine.rope_scaling_factor or 1) > 1)
    threads = threads_of(engine, inputs.machine)
    rope = engine.rope_scaling_factor
    key = (
        choice.engine,
        choice.device,
        choice.dtype,
        choice.kv_dtype,
        wish.block_len,
        threads,
        rope,
        choice.int8_head,
    )
    if key not in inputs.known:
        inputs.known[key] = place_of(choice, facts, inputs.machine, wish.block_len, threads)
    place: Place = inputs.known[key]
    check_pool(wish, place.block_bytes)
    try:
        sizes = find_sizes(wish, place)
    except DoesNotFitError as error:
        raise TooSmallError(Outline(choice, wish, threads, place, error.sizes)) from None
    return Outline(choice, wish, threads, place, sizes)


def _choice(inputs: Inputs, facts: Facts) -> Choice:
    engine, dtype = inputs.recipe.engine, inputs.recipe.model.dtype
    rotary = (engine.rope_scaling_factor, engine.use_logn_attn)
    key = (engine.device, engine.backend, engine.cache.quant_policy, engine.lm_head_dtype, rotary, dtype)
    if key not in inputs.known:
        inputs.known[key] = choose(
            inputs.recipe, facts, inputs.machine, runner=inputs.runner, native=inputs.native
        )
    found: Choice = inputs.known[key]
    return found


def device_name(device: Device, machine: Machine) -> str:
    """`GPU 0, NVIDIA H100 80GB HBM3`, or `CPU, AMD EPYC, 16 cores`."""
    if device.gpu is not None:
        return f"GPU {device.gpu.index}, {device.gpu.name}"
    cores = machine.cpu.cores
    model = f", {machine.cpu.model}" if machine.cpu.model not in ("", "unknown") else ""
    return f"CPU{model}, {cores} {'core' if cores == 1 else 'cores'}"
