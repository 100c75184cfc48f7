"""Checks of what joins GPUs to the machine and to each other: PCIe, NVLink, and who should work together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from deploykit.doctor.check import Context, Finding, ok, skip
from deploykit.hardware.nvml import GpuLink, GpuState, GpuStates

_PATHS = {
    "PSB": "one board",
    "PIX": "one PCIe switch",
    "PXB": "several PCIe switches",
    "PHB": "the CPU's PCIe host bridge",
    "NODE": "host bridges of one NUMA node",
    "SYS": "the link between CPU sockets",
}
_RANK = {path: len(_PATHS) - i for i, path in enumerate(_PATHS)}
_CHIPSET = "the chipset doesn't support it"


def pcie(context: Context) -> Finding:
    """Generation and width of each GPU's PCIe link, now and at most."""
    states = context.gpus()
    if not states.gpus:
        return skip("no GPU")
    told, faults, fixes = [], [], []
    for state in states.gpus:
        told.append(f"GPU {state.index}: {_pcie_text(state)}")
        generation, width = state.pcie_generation, state.pcie_width
        if width and width[0] < width[1]:
            faults.append(
                f"GPU {state.index} has {width[0]} of {width[1]} PCIe lanes: weights load more slowly"
            )
            fixes.append("reseat the card or its riser, and look at the slot's settings in the firmware")
        if generation and generation[0] < generation[1] and state.idle is False:
            faults.append(
                f"GPU {state.index} works at PCIe {generation[0]} where {generation[1]} is possible"
            )
            fixes.append("look at the slot's link speed in the firmware, and at the riser")
    if faults:
        return Finding("warn", "; ".join(told), "; ".join(faults), "; ".join(dict.fromkeys(fixes)))
    return ok("; ".join(told))


def _pcie_text(state: GpuState) -> str:
    generation, width = state.pcie_generation, state.pcie_width
    if not generation or not width:
        return "the driver doesn't say"
    text = f"PCIe {generation[0]} x{width[0]}"
    if (generation[0], width[0]) != (generation[1], width[1]):
        text += f" (at most {generation[1]} x{width[1]}" + (", lower while idle)" if state.idle else ")")
    return text


def topology(context: Context) -> Finding:
    """NVLink, peer access, and which GPUs suit tensor parallelism."""
    states = context.gpus()
    if not states.gpus:
        return skip("no GPU")
    if len(states.gpus) == 1:
        links = states.gpus[0].nvlinks
        return ok(
            f"one GPU, {links} NVLinks to a switch or to GPUs that aren't visible" if links else "one GPU"
        )
    details = (*matrix(states), *(advice(states, tp) for tp in _degrees(len(states.gpus))))
    found = summary(states)
    blocked = [link for link in states.links if link.p2p not in ("", "ok")]
    by_chipset = [link for link in blocked if link.p2p == _CHIPSET]
    if by_chipset:
        pairs = _pairs(by_chipset)
        iommu = any((context.root / "sys/kernel/iommu_groups").glob("*"))
        why = f"{pairs} can't read each other's memory: {_CHIPSET}"
        if iommu:
            why += "; an IOMMU is on, which sends such transfers through the CPU"
        fix = "turn off ACS or the IOMMU in the firmware or with iommu=off; NCCL_P2P_DISABLE=1 avoids hangs meanwhile"
        return Finding("warn", found, why, fix, details)
    tp = context.given.recipe.engine.tp if context.given is not None else 1
    if 1 < tp <= len(states.gpus):
        group, weakest = best_group(states, tp)
        first = tuple(gpu.index for gpu in states.gpus)[:tp]
        now = _weakest(states, first)
        if group != first and _score(weakest) > _score(now):
            why = f"the recipe asks for tp {tp}, and {_names(first)} are joined by {_words(now)} alone"
            fix = f"CUDA_VISIBLE_DEVICES={','.join(map(str, group))} deploykit up …"
            return Finding("warn", found, why, fix, details)
    return ok(found, *details)


def summary(states: GpuStates) -> str:
    labels = sorted(
        {link.label for link in states.links}, key=lambda label: (not label.startswith("NV"), label)
    )
    joined = f"{len(states.gpus)} GPUs, joined by {', '.join(labels)}"
    blocked = [link for link in states.links if link.p2p not in ("", "ok")]
    if not blocked:
        return joined
    return f"{joined}; no peer access between {_pairs(blocked)} ({blocked[0].p2p})"


def matrix(states: GpuStates) -> list[str]:
    """The pairs as `nvidia-smi topo -m` shows them."""
    by_pair = {frozenset((link.a, link.b)): link.label for link in states.links}
    names = [gpu.index for gpu in states.gpus]
    lines = ["      " + "".join(f"{f'GPU{i}':<6}" for i in names)]
    for i in names:
        cells = ("X" if i == j else by_pair.get(frozenset((i, j)), "?") for j in names)
        lines.append(f"GPU{i:<3}" + "".join(f"{cell:<6}" for cell in cells))
    return [line.rstrip() for line in lines]


def advice(states: GpuStates, tp: int) -> str:
    """Which GPUs a tensor parallel group of `tp` should take, and what to expect of it."""
    group, weakest = best_group(states, tp)
    first = tuple(gpu.index for gpu in states.gpus)[:tp]
    text = f"tp {tp}: {_names(group)} ({weakest.label})"
    if weakest.nvlinks:
        text += ", an all-reduce over NVLink"
    else:
        text += f": expect slow all-reduces over {_words(weakest)}"
    now = _weakest(states, first)
    if group != first and _score(now) < _score(weakest):
        text += f"; {_names(first)} share only {_words(now)} ({now.label})"
    return text


def best_group(states: GpuStates, tp: int) -> tuple[tuple[int, ...], GpuLink]:
    """The `tp` GPUs whose weakest link is the strongest (the first of equals), and that link."""
    indexes = [gpu.index for gpu in states.gpus]
    groups = itertools.islice(itertools.combinations(indexes, tp), 20_000)
    best = max(groups, key=lambda group: _score(_weakest(states, group)))
    return best, _weakest(states, best)


def _degrees(count: int) -> list[int]:
    return [tp for tp in (2, 4, 8) if tp <= count]


def _weakest(states: GpuStates, group: Sequence[int]) -> GpuLink:
    within = [link for link in states.links if link.a in group and link.b in group]
    return min(within, key=_score, default=GpuLink(a=group[0], b=group[-1], path=""))


def _score(link: GpuLink) -> tuple[int, int, int]:
    return (link.nvlinks, int(link.p2p in ("", "ok")), _RANK.get(link.path, 0))


def _words(link: GpuLink) -> str:
    return f"{link.nvlinks} NVLinks" if link.nvlinks else _PATHS.get(link.path, "an unknown path")


def _names(group: Sequence[int]) -> str:
    if len(group) == 2:
        return f"GPU {group[0]} and {group[1]}"
    return "GPU " + ", ".join(map(str, group))


def _pairs(links: Sequence[GpuLink]) -> str:
    shown = [f"GPU {link.a} and {link.b}" for link in links[:3]]
    return ", ".join(shown) + (f" and {len(links) - 3} more pairs" if len(links) > 3 else "")
