"""What `deploykit plan` prints: for people, and the same as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploykit.cli._output import fault_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploykit.deployment.facts import Found
    from deploykit.hardware.described import Described
    from deploykit.hardware.machine import Machine
    from deploykit.plan import Plan, PlanError
    from deploykit.plan.outlook import Outlook
    from deploykit.plan.types import Candidate, Change, MemoryItem
    from deploykit.prompt.templates.resolve import Resolved


# ---------------------------------------------------------------- JSON


def print_json(data: dict[str, Any]) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


def machine_data(machine: Described | None, probed: Machine) -> dict[str, Any]:
    if machine is None:
        return {"name": None, "described": False, "assumed": [], "facts": probed}
    return {"name": machine.origin, "described": True, "assumed": machine.assumed, "facts": machine.machine}


def model_data(found: Found) -> dict[str, Any]:
    facts = found.facts
    return {
        "path": facts.path,
        "origin": facts.origin,
        "facts_from": found.source,
        "failures": found.failures,
        "architecture": facts.architecture,
        "format": facts.format,
        "weight_dtype": facts.weight_dtype,
        "parameters": facts.num_parameters,
        "stored_bytes": facts.stored_bytes,
    }


def sums_data(made: Plan) -> dict[str, Any]:
    """What the text works out from the plan."""
    return {
        "device": made.device_name,
        "total_bytes": made.total_bytes,
        "left_bytes": made.memory_limit - made.total_bytes,
        "kv_bytes_per_token": made.block_bytes / made.block_len,
        "kv_tokens": made.num_blocks * made.block_len,
        "sessions": made.sessions,
    }


def template_data(template: Resolved | None) -> dict[str, Any] | None:
    keys = ("name", "origin", "reason", "capability", "stop_words", "notes")
    return None if template is None else {key: getattr(template, key) for key in keys}


def refusal_data(error: PlanError) -> dict[str, Any]:
    total = sum(item.bytes for item in error.memory)
    return {
        **fault_data(error),
        "fixes": error.fixes,
        "changes": error.changes,
        "candidates": error.candidates,
        "device": error.device_name or None,
        "memory": error.memory,
        "memory_limit": error.memory_limit,
        "kv": None if error.outlook is None else error.outlook.kv,
        "total_bytes": total,
        "missing_bytes": max(0, total - error.memory_limit),
    }


# ---------------------------------------------------------------- text


def print_plan(
    made: Plan, found: Found, template: Resolved | None, machine: Described | None, more: Sequence[Change]
) -> None:
    from deploykit.cli._tables import Printer
    from deploykit.plan.text import format_bytes, format_count

    out = Printer()
    out.line(f"{made.name}: {made.engine} on {made.device}, {made.dtype}", style="bold")
    _print_machine(out, machine)
    _print_model(out, found)
    _print_assumed(out, machine)
    _print_engines(out, made.candidates)
    if made.needs:
        out.heading("Needs at least")
        for text in made.needs:
            out.line(f"  {text}")
    _print_memory(out, made.device_name, made.memory, made.memory_limit)
    tokens = made.num_blocks * made.block_len
    per_token = made.block_bytes / made.block_len
    out.heading("KV memory")
    out.line(
        f"  {format_count(made.num_blocks)} blocks of {made.block_len} tokens"
        f" ({format_bytes(made.block_bytes)} a block, {per_token / 1024:g} KiB a token)"
    )
    sessions = made.sessions
    plural = "session" if sessions == 1 else "sessions"
    out.line(
        f"  {format_count(tokens)} tokens: {format_count(sessions)} full {plural} of {format_count(made.session_len)}; "
        f"{made.max_batch_size} requests run at once, {made.max_queue} more may wait"
    )
    if template is not None:
        out.heading("Chat template")
        served = "" if template.capability == "chat" else f" (chat.capability {template.capability})"
        out.line(f"  {template.name or 'the only one of its file'}{served}: {template.reason}")
        for note in template.notes:
            out.line(f"  note: {note}")
    out.heading("Decisions")
    out.table(((d.key, d.value, d.reason) for d in made.decisions), ("key", "value", "why"))
    _print_changes(out, "For more sessions", more)


def _print_model(out: Any, found: Found) -> None:
    facts = found.facts
    away = {"files": "", "hub": " (not fetched)", "described": ""}[facts.origin]
    out.line(
        f"model: {facts.architecture}, {facts.num_parameters / 1e6:,.0f}M parameters, {facts.path}{away}"
    )
    out.line(f"facts: {found.source}")
    for failure in found.failures:
        out.line(f"note: {failure}")


def print_refusal(name: str, error: PlanError, machine: Described | None, found: Found) -> None:
    from deploykit.cli._tables import Printer

    out = Printer()
    out.line(f"{name}: no plan", style="bold")
    _print_machine(out, machine)
    _print_model(out, found)
    _print_assumed(out, machine)
    if error.candidates:
        _print_engines(out, error.candidates)
    if error.memory:
        _print_memory(out, error.device_name, error.memory, error.memory_limit)
    if error.outlook is not None:
        _print_outlook(out, error.outlook)
    _print_changes(out, "Changes that would make it fit, cheapest first", error.changes)
    out.flush()


def print_machines() -> None:
    from deploykit.cli._tables import Printer
    from deploykit.hardware import catalog
    from deploykit.plan.text import format_bytes

    out = Printer()
    out.line("Machines for `deploykit plan RECIPE --machine NAME`", style="bold")
    rows = []
    for entry in catalog.entries():
        here = entry.machine
        gpu = format_bytes(here.gpus[0].total_bytes) if here.gpus else "-"
        rows.append(
            (entry.name, gpu, f"{here.cpu.cores} cores, {format_bytes(here.memory_total)}", entry.about)
        )
    out.heading("name, GPU memory, host, what it is")
    out.table(rows, ("name", "GPU", "host", "what"), right=(1,))
    out.line("")
    out.line(f"A GPU's name takes xN for N of them, up to {catalog.MAX_GPUS}: 4090x2, h100x8.")
    out.line("A .yaml or .json file describes any other; its fields are those that --machines --json prints.")


def _print_machine(out: Any, machine: Described | None) -> None:
    if machine is not None:
        out.line(f"machine: {machine.origin}, as described; this one was not looked at")


def _print_assumed(out: Any, machine: Described | None) -> None:
    if machine is not None and machine.assumed:
        out.heading("Assumed of the described machine")
        for text in machine.assumed:
            out.line(f"  {text}")


def _print_engines(out: Any, candidates: tuple[Candidate, ...]) -> None:
    out.heading("Engines, in the order of preference")
    rows = ((c.engine, "chosen" if c.accepted else "no", c.reason) for c in candidates)
    out.table(rows, ("engine", "", "why"), styles={"chosen": "green", "no": "dim"})


def _print_memory(out: Any, device: str, memory: tuple[MemoryItem, ...], limit: int) -> None:
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
    out.heading(f"Memory of {device}" if device else "Memory")
    out.table(rows, ("", "bytes", "", ""), right=(1, 2), styles={"total": "bold", "missing": "red"})


def _print_outlook(out: Any, outlook: Outlook) -> None:
    """The kinds of layers behind the table of a model that no engine runs."""
    from deploykit.plan.text import format_bytes

    if outlook.kv is None:
        out.line(f"  KV memory: {outlook.problem}, and no formula covers that")
        return
    out.heading("KV memory by kind of layer")
    rows = (
        (row.kind, f"{row.layers} layers", format_bytes(row.session_bytes), row.note)
        for row in outlook.kv.rows
    )
    out.table(rows, ("kind", "layers", "a session", "what"), right=(2,))


def _print_changes(out: Any, heading: str, changes: Sequence[Change]) -> None:
    if changes:
        out.heading(heading)
        out.table(((c.flags, c.result, c.cost) for c in changes), ("change", "gives", "costs"))
