"""Checks of NVIDIA's GPUs, asked through NVML without torch: there, free, sound, in a usable mode, at full speed."""

from __future__ import annotations

import os
from collections.abc import Callable

from deploykit.doctor.check import Context, Finding, Status, ok, skip
from deploykit.hardware.machine import GPU
from deploykit.hardware.nvml import GpuProcess, GpuState
from deploykit.hardware.pci import accelerators
from deploykit.plan.text import format_bytes

GIB = 1 << 30
_HELD = 0.1  # share of a GPU's memory that others may hold without a word
_HOT = (
    "hardware slowdown",
    "software thermal slowdown",
    "hardware thermal slowdown",
    "power brake",
    "reliability",
)

_LOST = "nvidia-smi shows the state of every GPU, dmesg (Xid) why one is gone: a reboot may bring it back"

Fault = tuple[Status, str, str]  # status, why it matters, fix


def gpu(context: Context) -> Finding:
    """Name, compute capability and memory; or why there is none."""
    machine = context.machine
    if machine.gpus:
        found = "; ".join(_describe(gpu) for gpu in machine.gpus)
        if machine.gpu_error:
            return Finding("warn", found, machine.gpu_error, _LOST)
        names = {gpu.name for gpu in machine.gpus}
        if len(names) > 1 and context.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            why = "CUDA numbers different cards by speed, and everything else by their place: a plan may mean another"
            return Finding("warn", found, why, "export CUDA_DEVICE_ORDER=PCI_BUS_ID")
        return ok(found)
    error = machine.gpu_error or "no GPU was found"
    if "CUDA_VISIBLE_DEVICES" in error:
        if "MIG-" in context.environ.get("CUDA_VISIBLE_DEVICES", ""):
            fix = "name the whole GPU (CUDA_VISIBLE_DEVICES=0) after `sudo nvidia-smi -i 0 -mig 0`"
            return Finding("warn", "a MIG instance", f"{error}; plans count whole GPUs alone", fix)
        return Finding("warn", "hidden", error, "unset CUDA_VISIBLE_DEVICES")
    if error.startswith("NVML: GPU "):
        return Finding("fail", "no GPU can be asked", error, _LOST)
    on_bus = sum(one.kind == "nvidia" for one in accelerators(context.root))
    if on_bus:
        fix = "install NVIDIA's driver (Debian: apt install nvidia-driver), or start the container with --gpus all"
        return Finding("fail", f"{on_bus} NVIDIA GPU on the bus, not reachable", error, fix)
    return skip("no NVIDIA GPU: models run on the CPU", error)


def _describe(gpu: GPU) -> str:
    major, minor = gpu.compute_capability
    memory = f"{format_bytes(gpu.free_bytes)} free of {format_bytes(gpu.total_bytes)}"
    return f"GPU {gpu.index}: {gpu.name}, compute capability {major}.{minor}, {memory}"


def _each(context: Context, tell: Callable[[GpuState], tuple[str, Fault | None]]) -> Finding:
    """One finding about all GPUs: what `tell` says of each, and the worst fault of any."""
    states = context.gpus()
    if not states.gpus:
        return skip("no GPU", "; ".join(states.errors))
    told = [(state, *tell(state)) for state in states.gpus]
    texts = [text for _, text, _ in told]
    if len(set(texts)) == 1 and len(told) > 1:
        found = f"all {len(told)} GPUs: {texts[0]}"
    else:
        found = "; ".join(f"GPU {state.index}: {text}" for state, text, _ in told)
    faults = [(state, fault) for state, _, fault in told if fault is not None]
    if states.errors:
        faults.append((states.gpus[0], ("warn", "; ".join(states.errors), _LOST)))
    if not faults:
        return ok(found)
    status: Status = "fail" if any(fault[0] == "fail" for _, fault in faults) else "warn"
    why = "; ".join(dict.fromkeys(fault[1] for _, fault in faults))
    fix = "; ".join(dict.fromkeys(fault[2] for _, fault in faults))
    return Finding(status, found, why, fix)


# ---------------------------------------------------------------- who holds memory


def processes(context: Context) -> Finding:
    return _each(context, lambda state: _holders(state, _deployments()))


def _deployments() -> dict[int, str]:
    """pid -> our own deployment that it belongs to."""
    from deploykit.supervise.state import read_all

    try:
        states = read_all()
    except Exception:  # a state folder that can't be read is the state check's finding
        return {}
    return {
        pid: state.name
        for state in states
        for pid in (state.pid, state.engine_pid, state.front_pid)
        if state.live and pid is not None
    }


def _holders(state: GpuState, ours: dict[int, str]) -> tuple[str, Fault | None]:
    others = [p for p in state.processes or () if p.pid != os.getpid()]
    held = max(0, state.total_bytes - state.free_bytes - (state.reserved_bytes or 0))
    named = ", ".join(_named(p, ours) for p in others)
    if not named and held > _HELD * state.total_bytes:
        named = "a process that can't be seen from here (another container, or another user's)"
    text = f"{format_bytes(held)} in use" + (f" by {named}" if named else "")
    strangers = [p for p in others if p.pid not in ours]
    if held <= _HELD * state.total_bytes or (others and not strangers):
        return text, None
    why = f"{format_bytes(held)} of GPU {state.index} are not there for models"
    pids = " ".join(str(p.pid) for p in strangers)
    fix = f"stop it if it isn't needed: kill {pids}" if pids else "nvidia-smi on the host lists it"
    if len(strangers) > 1:
        fix = fix.replace("stop it if it isn't", "stop those that aren't")
    return text, ("warn", why, fix)


def _named(process: GpuProcess, ours: dict[int, str]) -> str:
    name = process.name.partition(" ")[0].rpartition("/")[2] or "unknown"
    size = f" {format_bytes(process.bytes)}" if process.bytes else ""
    if process.pid in ours:
        return f"deployment {ours[process.pid]} (pid {process.pid}){size}"
    return f"{name} (pid {process.pid}){size}"


# ---------------------------------------------------------------- health, mode, speed


def health(context: Context) -> Finding:
    """Memory errors and what the card does about them."""
    return _each(context, _health)


def _health(state: GpuState) -> tuple[str, Fault | None]:
    i = state.nvml_index
    if state.ecc is None and state.uncorrected is None and state.rows_pending is None:
        return "no error correction (ECC) on this card", None
    parts = ["ECC on" if state.ecc else "ECC off"]
    if state.ecc is not None and state.ecc_pending is not None and state.ecc != state.ecc_pending:
        parts.append(f"{'on' if state.ecc_pending else 'off'} after the next reset")
    for count, what in (
        (state.uncorrected, "uncorrectable errors"),
        (state.corrected, "corrected errors"),
        (state.lifetime_uncorrected, "uncorrectable ones in the card's life"),
    ):
        if count is not None:
            parts.append(f"{count} {what}")
    text = ", ".join(parts)
    reset = f"stop everything on it, then: sudo nvidia-smi --gpu-reset -i {i}"
    if state.rows_failed:
        why = f"GPU {i} has faulty memory that can't be replaced by spare rows"
        return text, (
            "fail",
            why,
            "take the card out of service (RMA); CUDA_VISIBLE_DEVICES leaves it out meanwhile",
        )
    if state.uncorrected:
        why = f"GPU {i} had memory errors since its driver was loaded: answers may be wrong, and processes on it die"
        return text, ("fail", why, reset)
    if state.rows_pending:
        return text, ("warn", f"GPU {i} waits for a reset to put spare memory in place of faulty one", reset)
    return text, None


def mode(context: Context) -> Finding:
    """MIG, compute mode and persistence."""
    return _each(context, _mode)


def _mode(state: GpuState) -> tuple[str, Fault | None]:
    i = state.nvml_index
    parts = [f"compute mode {state.compute_mode}" if state.compute_mode else "compute mode not known"]
    if state.mig is not None:
        parts.append("MIG on" if state.mig else "MIG off")
    if state.persistence is not None:
        parts.append("persistence on" if state.persistence else "persistence off")
    text = ", ".join(parts)
    default = f"sudo nvidia-smi -i {i} -c DEFAULT"
    if state.compute_mode == "prohibited":
        return text, ("fail", f"GPU {i} lets no process compute", default)
    if state.mig:
        why = f"GPU {i} is split (MIG): CUDA sees an instance of it, and plans count the whole card"
        return text, ("warn", why, f"sudo nvidia-smi -i {i} -mig 0, or another GPU in CUDA_VISIBLE_DEVICES")
    if state.compute_mode and state.compute_mode.startswith("exclusive") and state.processes:
        return text, ("fail", f"GPU {i} takes one process at a time, and one is there", default)
    if state.persistence is False:
        why = "the driver forgets the card between processes: each start takes seconds more"
        return text, ("warn", why, f"sudo nvidia-smi -i {i} -pm 1")
    return text, None


def clocks(context: Context) -> Finding:
    """What holds the clocks down: heat, power, a fault."""
    return _each(context, _clocks)


def _clocks(state: GpuState) -> tuple[str, Fault | None]:
    parts = []
    if state.temperature is not None:
        parts.append(f"{state.temperature} °C")
    if state.power_w is not None:
        limit = f" of {state.power_limit_w:.0f}" if state.power_limit_w else ""
        parts.append(f"{state.power_w:.0f}{limit} W")
    if state.idle:
        parts.append("idle")
    if state.slowed_by:
        parts.append(f"slowed by {' and '.join(state.slowed_by)}")
    elif state.slowed_by is not None:
        parts.append("clocks not held down")
    text = ", ".join(parts) or "the driver doesn't say"
    hot = [reason for reason in state.slowed_by or () if reason in _HOT]
    if not hot:
        return text, None  # a power cap under load is how a card works at its limit
    i = state.nvml_index
    if any("thermal" in reason for reason in hot):
        return text, (
            "warn",
            f"GPU {i} is too hot and runs slower for it",
            "check fans, dust and the air around it",
        )
    why = f"GPU {i} runs slower: {' and '.join(hot)}"
    return text, (
        "warn",
        why,
        f"check its power cables and supply; nvidia-smi -q -d PERFORMANCE -i {i} tells more",
    )
