"""`deploykit plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploykit.errors import EXIT_OK, DeploykitError

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.plan import Plan, PlanError
    from deploykit.plan.types import Candidate, MemoryItem
    from deploykit.recipe import LoadedRecipe


def plan(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A recipe, a model folder, a GGUF file, or a hub id.")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Another value for a key of the recipe; repeatable."),
    ] = None,
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch/--offline", help="Download the model first, or use only what is on the disk (default)."
        ),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> int:
    """Show which engine serves TARGET here, what it takes in bytes, and why.

    Exit code 0: it fits. 3: it doesn't fit, or can't be honoured on this machine. 1: the model is not on the disk.
    """
    from deploykit.plan import PlanError

    loaded, facts = _find(target, set_ or (), fetch)
    try:
        made = _make(loaded, facts)
    except PlanError as error:
        if not json_:
            _print_refusal(loaded, error)
            raise
        _print_json({"fits": False, "plan": None, "error": _error_data(error)})
        return error.exit_code
    if json_:
        _print_json({"fits": True, "plan": made, "error": None})
    else:
        _print_plan(made, facts)
    return EXIT_OK


def _find(target: str, sets: list[str] | tuple[()], fetch: bool) -> tuple[LoadedRecipe, Facts]:
    from deploykit.cli._output import stage_display
    from deploykit.deployment.target import open_target
    from deploykit.doctor.recipes import fetch_to_disk, find_on_disk
    from deploykit.fsutil import cache_dir

    loaded = open_target(target, sets=sets)
    if fetch:
        display = stage_display()
        try:
            return loaded, fetch_to_disk(loaded, cache_dir(), display.report).facts
        finally:
            display.close()
    found = find_on_disk(loaded, cache_dir())
    if found is None:
        raise DeploykitError(
            f"the model of {loaded.name} is not on this disk",
            where=target,
            why="a plan is made from the checkpoint's own headers, and `plan` downloads nothing by itself",
            fix=f"deploykit plan {target} --fetch",
        )
    return loaded, found.facts


def _make(loaded: LoadedRecipe, facts: Facts) -> Plan:
    from deploykit.deployment.native import native_cuda_problem, native_problem
    from deploykit.deployment.prepare import check_test_switches
    from deploykit.fsutil import cache_dir
    from deploykit.hardware import probe
    from deploykit.plan import make_plan

    machine = probe(disk=cache_dir())
    return make_plan(
        loaded.recipe,
        facts,
        machine,
        name=loaded.name,
        runner=check_test_switches(),
        native_problem=native_problem(machine),
        native_cuda_problem=native_cuda_problem(machine),
    )


# ---------------------------------------------------------------- output


def _print_json(data: dict[str, Any]) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


def _error_data(error: PlanError) -> dict[str, Any]:
    return {
        "what": error.what,
        "where": error.where,
        "why": error.why,
        "fixes": error.fixes,
        "candidates": error.candidates,
        "memory": error.memory,
        "memory_limit": error.memory_limit,
    }


def _print_plan(made: Plan, facts: Facts) -> None:
    from deploykit.cli._tables import Printer
    from deploykit.doctor.recipes import sessions_of
    from deploykit.plan.text import format_bytes, format_count

    out = Printer()
    out.line(f"{made.name}: {made.engine} on {made.device}, {made.dtype}", style="bold")
    out.line(f"model: {made.architecture}, {facts.num_parameters / 1e6:,.0f}M parameters, {made.model_path}")
    _print_engines(out, made.candidates)
    _print_memory(out, made.memory, made.memory_limit)
    tokens = made.num_blocks * made.block_len
    per_token = made.block_bytes / made.block_len
    out.heading("KV memory")
    out.line(
        f"  {format_count(made.num_blocks)} blocks of {made.block_len} tokens"
        f" ({format_bytes(made.block_bytes)} a block, {per_token / 1024:g} KiB a token)"
    )
    sessions = sessions_of(made)
    plural = "session" if sessions == 1 else "sessions"
    out.line(
        f"  {format_count(tokens)} tokens: {sessions} full {plural} of {format_count(made.session_len)}; "
        f"{made.max_batch_size} requests run at once, {made.max_queue} more may wait"
    )
    out.heading("Decisions")
    out.table(((d.key, d.value, d.reason) for d in made.decisions), ("key", "value", "why"))


def _print_refusal(loaded: LoadedRecipe, error: PlanError) -> None:
    from deploykit.cli._tables import Printer

    if not error.candidates and not error.memory:
        return
    out = Printer()
    out.line(f"{loaded.name}: no plan", style="bold")
    if error.candidates:
        _print_engines(out, error.candidates)
    if error.memory:
        _print_memory(out, error.memory, error.memory_limit)
    out.flush()


def _print_engines(out: Any, candidates: tuple[Candidate, ...]) -> None:
    out.heading("Engines, in the order of preference")
    rows = ((c.engine, "chosen" if c.accepted else "no", c.reason) for c in candidates)
    out.table(rows, ("engine", "", "why"), styles={"chosen": "green", "no": "dim"})


def _print_memory(out: Any, memory: tuple[MemoryItem, ...], limit: int) -> None:
    from deploykit.plan.text import format_bytes, format_count

    total = sum(item.bytes for item in memory)
    left = limit - total
    rows = [(item.name, format_count(item.bytes), format_bytes(item.bytes), item.note) for item in memory]
    rows.append(
        ("total", format_count(total), format_bytes(total), f"of {format_bytes(limit)} that may be used")
    )
    if left >= 0:
        rows.append(("left", format_count(left), format_bytes(left), ""))
    else:
        rows.append(("missing", format_count(-left), format_bytes(-left), ""))
    out.heading("Memory")
    out.table(rows, ("", "bytes", "", ""), right=(1, 2), styles={"total": "bold", "missing": "red"})
