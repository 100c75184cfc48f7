"""GPUs through a stand-in for NVML that answers like nvidia-ml-py: what is well, and each thing that is not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import GIB, Card, FakeNVML, bus_id, to_card, to_switch
from plan_machines import H100, gpu, gpu_machine, machine

from deploykit.doctor import Context, gpus, links
from deploykit.doctor.check import Finding
from deploykit.hardware.gpu import probe_gpus
from deploykit.hardware.nvml import probe_states
from deploykit.recipe import recipe_from_data

Make = Callable[..., Any]


@pytest.fixture
def cards(context: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Context]:
    """`cards(Card(…), Card(…), paths=…)`: the context of a machine with these."""

    def make(*found: Card, environ: dict[str, str] | None = None, given: Any = None, **nvml: Any) -> Context:
        fake = FakeNVML(*found, **nvml)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        states = probe_states(environ or {})
        assert fake.opened == 0
        gpus = tuple(gpu(c.name, c.capability, c.total, index=i) for i, c in enumerate(found))
        return context(machine=gpu_machine(*gpus), gpus=lambda: states, environ=environ or {}, given=given)

    return make


def healthy(finding: Finding) -> None:
    assert finding.status == "ok", finding
    assert finding.found
    assert not finding.why
    assert not finding.fix


def sick(finding: Finding, status: str, *words: str) -> None:
    assert finding.status == status, finding
    assert finding.why
    assert finding.fix
    for word in words:
        assert word in f"{finding.found} {finding.why} {finding.fix}", finding


CHECKS = (gpus.processes, gpus.health, gpus.mode, gpus.clocks, links.pcie, links.topology)


def test_the_stand_in_has_nothing_that_the_real_module_lacks() -> None:
    import pynvml

    own = [name for name in vars(FakeNVML) if name.startswith("nvml")]
    assert len(own) > 30
    assert all(callable(getattr(pynvml, name)) for name in own)


def test_an_idle_card_is_well(cards: Make) -> None:
    here = cards(Card())
    for look in CHECKS:
        healthy(look(here))
    assert gpus.health(here).found == (
        "GPU 0: ECC on, 0 uncorrectable errors, 0 corrected errors, 0 uncorrectable ones in the card's life"
    )
    assert gpus.mode(here).found == "GPU 0: compute mode default, MIG off, persistence on"
    assert gpus.clocks(here).found == "GPU 0: 31 °C, 70 of 700 W, idle, clocks not held down"
    assert links.pcie(here).found == "GPU 0: PCIe 5 x16"


def test_without_a_gpu_nothing_applies(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNVML(init=12))
    states = probe_states({})
    assert states.errors == ("NVML: NVML Shared Library Not Found",)
    here = context(gpus=lambda: states)
    assert {look(here).status for look in CHECKS} == {"skip"}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert probe_states({}).errors == ("the package nvidia-ml-py is not installed",)


def test_a_card_that_tells_little_is_no_fault(cards: Make) -> None:
    laptop = Card("NVIDIA GeForce RTX 4060 Laptop GPU", (8, 9), 8 * GIB, ecc=None, rows=None, mig=None)
    here = cards(laptop, old=True)
    for look in CHECKS:
        healthy(look(here))
    assert "no error correction" in gpus.health(here).found
    assert "MIG" not in gpus.mode(here).found


# ---------------------------------------------------------------- who holds memory


def test_processes_of_others_are_named_with_what_they_hold(cards: Make) -> None:
    busy = Card(
        used=50 * GIB, processes=[(4321, "/usr/bin/python3 train.py", 40 * GIB), (77, "/opt/game", None)]
    )
    finding = gpus.processes(cards(busy, Card()))
    sick(finding, "warn", "python3 (pid 4321) 40.0 GiB", "game (pid 77)", "kill 4321 77", "GPU 0", "50.0 GiB")
    small = Card(used=GIB, processes=[(4321, "Xorg", GIB)])
    healthy(gpus.processes(cards(small)))


def test_memory_that_nobody_here_holds(cards: Make) -> None:
    finding = gpus.processes(cards(Card(used=30 * GIB)))
    sick(finding, "warn", "can't be seen from here", "nvidia-smi")


def test_our_own_deployments_are_no_strangers(cards: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_deployments", lambda: {4321: "chat"})
    ours = Card(used=50 * GIB, processes=[(4321, "python3", 50 * GIB), (os.getpid(), "python3", GIB)])
    finding = gpus.processes(cards(ours))
    healthy(finding)
    assert "deployment chat (pid 4321) 50.0 GiB" in finding.found
    assert str(os.getpid()) not in finding.found


# ---------------------------------------------------------------- health, modes, clocks


@pytest.mark.parametrize(
    ("card", "status", "words"),
    [
        (
            Card(errors={(1, 0): 3}),
            "fail",
            ("3 uncorrectable errors", "answers may be wrong", "--gpu-reset -i 0"),
        ),
        (
            Card(errors={(0, 0): 9, (1, 1): 2}),
            "ok",
            ("9 corrected", "2 uncorrectable ones in the card's life"),
        ),
        (Card(rows=(0, 1, 1, 0)), "warn", ("waits for a reset", "--gpu-reset")),
        (Card(rows=(0, 8, 0, 1)), "fail", ("can't be replaced", "RMA")),
        (Card(ecc=[0, 0]), "ok", ("ECC off",)),
        (Card(ecc=[0, 1]), "ok", ("on after the next reset",)),
    ],
)
def test_memory_errors(cards: Make, card: Card, status: str, words: tuple[str, ...]) -> None:
    finding = gpus.health(cards(card))
    assert finding.status == status, finding
    for word in words:
        assert word in f"{finding.found} {finding.why} {finding.fix}"


@pytest.mark.parametrize(
    ("card", "status", "words"),
    [
        (Card(mode=2), "fail", ("prohibited", "nvidia-smi -i 0 -c DEFAULT")),
        (Card(mode=3), "ok", ("exclusive process",)),
        (Card(mode=3, processes=[(9, "x", GIB)]), "fail", ("one process at a time",)),
        (Card(mig=[1, 1]), "warn", ("MIG", "-mig 0")),
        (Card(persistence=0), "warn", ("-pm 1",)),
    ],
)
def test_modes(cards: Make, card: Card, status: str, words: tuple[str, ...]) -> None:
    finding = gpus.mode(cards(card))
    assert finding.status == status, finding
    for word in words:
        assert word in f"{finding.found} {finding.why} {finding.fix}"


@pytest.mark.parametrize(
    ("reasons", "status", "words"),
    [
        (0x0, "ok", "clocks not held down"),
        (0x4, "ok", "slowed by power cap"),  # how a card works at its limit
        (0x40, "warn", "too hot"),
        (0x20 | 0x4, "warn", "software thermal slowdown"),
        (0x80, "warn", "power cables"),
        (0x8, "warn", "hardware slowdown"),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_clocks(cards: Make, reasons: int, status: str, words: str, old: bool) -> None:
    finding = gpus.clocks(cards(Card(reasons=reasons), old=old))
    assert finding.status == status, finding
    assert words in f"{finding.found} {finding.why} {finding.fix}"


def test_a_lost_card_is_told_of_and_the_others_are_judged(cards: Make) -> None:
    finding = gpus.health(cards(Card(), Card(lost=True), Card(errors={(1, 0): 1})))
    sick(finding, "fail", "GPU 1: GPU is lost", "GPU 2", "--gpu-reset -i 2")


@pytest.mark.parametrize("spec", [None, "0,1,2", "2,1,0"])
def test_a_plan_keeps_the_cards_that_are_left_under_the_same_numbers(
    context: Make, monkeypatch: pytest.MonkeyPatch, spec: str | None
) -> None:
    fake = FakeNVML(Card(name="a"), Card(lost=True), Card(name="c"))
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    environ = {} if spec is None else {"CUDA_VISIBLE_DEVICES": spec}
    found, error = probe_gpus(environ)
    states = probe_states(environ)
    expected = [(0, "a"), (2, "c")] if spec != "2,1,0" else [(0, "c"), (2, "a")]
    assert [(gpu.index, gpu.name) for gpu in found] == expected
    assert [(state.index, state.name) for state in states.gpus] == expected
    assert error == "NVML: GPU 1: GPU is lost"
    assert states.errors == ("GPU 1: GPU is lost",)
    here = context(machine=gpu_machine(*found, gpu_error=error), gpus=lambda: states, environ=environ)
    sick(gpus.gpu(here), "warn", "GPU 0", "GPU 2", "GPU 1: GPU is lost", "reboot")


def test_a_gpu_without_memory_of_its_own_has_the_systems(
    context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules, "pynvml", FakeNVML(Card(name="NVIDIA GB10", capability=(12, 1), total=None))
    )
    monkeypatch.setattr("deploykit.hardware.gpu.probe_memory", lambda: (120 * GIB, 100 * GIB))
    found, error = probe_gpus({})
    assert error is None
    assert [(gpu.total_bytes, gpu.free_bytes) for gpu in found] == [(120 * GIB, 100 * GIB)]
    states = probe_states({})
    here = context(machine=gpu_machine(*found), gpus=lambda: states)
    for look in (gpus.gpu, *CHECKS):
        healthy(look(here))


def test_a_lost_card_that_is_left_out_is_no_ones_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNVML(Card(lost=True), Card(name="b")))
    environ = {"CUDA_VISIBLE_DEVICES": "1"}
    found, error = probe_gpus(environ)
    assert ([(gpu.index, gpu.name) for gpu in found], error) == ([(0, "b")], None)
    assert probe_states(environ).errors == ()


def test_where_all_are_lost_the_driver_is_not_blamed(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNVML(Card(lost=True)))
    found, error = probe_gpus({})
    finding = gpus.gpu(context(machine=gpu_machine(*found, gpu_error=error)))
    sick(finding, "fail", "GPU 0: GPU is lost", "reboot")
    assert "install" not in finding.fix


def test_numbers_are_those_of_cuda_and_commands_name_the_card(cards: Make) -> None:
    here = cards(Card(), Card(persistence=0), environ={"CUDA_VISIBLE_DEVICES": "1"})
    finding = gpus.mode(here)
    sick(finding, "warn", "GPU 0: compute mode", "nvidia-smi -i 1 -pm 1")


# ---------------------------------------------------------------- PCIe, NVLink, peers


def test_pcie(cards: Make) -> None:
    idle = Card(pcie=(1, 4, 16, 16))
    healthy(links.pcie(cards(idle)))
    assert "lower while idle" in links.pcie(cards(idle)).found
    sick(links.pcie(cards(Card(pcie=(3, 4, 16, 16), reasons=0))), "warn", "PCIe 3 where 4 is possible")
    sick(links.pcie(cards(Card(pcie=(4, 4, 4, 16)))), "warn", "4 of 16 PCIe lanes", "reseat")


def test_gpus_behind_switches(cards: Make) -> None:
    here = cards(*(Card(links=to_switch(18)) for _ in range(4)))
    finding = links.topology(here)
    healthy_with_table(finding)
    assert finding.found == "4 GPUs, joined by NV18"
    assert finding.details[1].split() == ["GPU0", "X", "NV18", "NV18", "NV18"]
    assert "tp 4: GPU 0, 1, 2, 3 (NV18), an all-reduce over NVLink" in finding.details


def test_gpus_with_bridges_are_paired(cards: Make) -> None:
    """0 with 2 and 1 with 3, which is not the order that a group of two would take."""
    joined = {0: 2, 2: 0, 1: 3, 3: 1}
    four = [Card(links=to_card(joined[i], 12)) for i in range(4)]
    here = cards(*four, paths={(0, 1): 30, (2, 3): 10})
    finding = links.topology(here)
    healthy_with_table(finding)
    assert finding.details[1].split() == ["GPU0", "X", "PHB", "NV12", "SYS"]
    assert (
        "tp 2: GPU 0 and 2 (NV12), an all-reduce over NVLink; "
        "GPU 0 and 1 share only the CPU's PCIe host bridge (PHB)" in finding.details
    )
    tp4 = next(line for line in finding.details if line.startswith("tp 4"))
    assert "expect slow all-reduces over the link between CPU sockets" in tp4


def test_a_recipe_that_asks_for_two_is_told_which(cards: Make) -> None:
    joined = {0: 2, 2: 0, 1: 3, 3: 1}
    four = [Card(links=to_card(joined[i], 12)) for i in range(4)]
    given = recipe_from_data({"version": 1, "model": {"id": "a/b"}, "engine": {"tp": 2}}, "two")
    finding = links.topology(cards(*four, paths={(0, 1): 30}, given=given))
    sick(finding, "warn", "tp 2", "GPU 0 and 1", "CUDA_VISIBLE_DEVICES=0,2")


def test_peers_that_a_chipset_keeps_apart(cards: Make, tmp_path: Path) -> None:
    here = cards(Card(), Card(), paths={(0, 1): 20}, p2p={(0, 1): 1})
    sick(links.topology(here), "warn", "GPU 0 and 1", "the chipset doesn't support it", "NCCL_P2P_DISABLE=1")
    (here.root / "sys/kernel/iommu_groups/1").mkdir(parents=True)
    assert "an IOMMU is on" in links.topology(here).why
    gamers = cards(Card("RTX 4090", (8, 9)), Card("RTX 4090", (8, 9)), p2p={(0, 1): 2})
    finding = links.topology(gamers)
    healthy_with_table(finding)  # how these cards are
    assert "no peer access between GPU 0 and 1" in finding.found


def healthy_with_table(finding: Finding) -> None:
    healthy(finding)
    assert finding.details


def test_one_gpu_has_nobody_to_talk_to(cards: Make) -> None:
    healthy(links.topology(cards(Card())))
    assert "18 NVLinks" in links.topology(cards(Card(links=to_switch(18)))).found
    assert bus_id(0) == "00000000:01:00.0"


# ---------------------------------------------------------------- there at all


def test_gpus_that_work(context: Make) -> None:
    good = gpu_machine(H100)
    healthy(gpus.gpu(context(machine=good)))
    partly = machine(gpus=(H100,), gpu_error="NVML: GPU 1: Unknown Error")
    sick(gpus.gpu(context(machine=partly)), "warn", "GPU 1: Unknown Error")


def test_different_cards_need_one_order(context: Make) -> None:
    both = gpu_machine(H100, gpu("NVIDIA A10", (8, 6), 22 * GIB, index=1))
    sick(gpus.gpu(context(machine=both)), "warn", "export CUDA_DEVICE_ORDER=PCI_BUS_ID")
    healthy(gpus.gpu(context(machine=both, environ={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})))


def test_a_machine_without_a_gpu_is_no_fault(context: Make) -> None:
    assert gpus.gpu(context()).status == "skip"


def test_a_gpu_that_the_driver_does_not_reach_is(context: Make) -> None:
    here = context()
    device = here.root / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    sick(gpus.gpu(here), "fail", "1 NVIDIA GPU on the bus", "driver", "--gpus all")


def test_hidden_gpus(context: Make) -> None:
    hidden = machine(gpu_error="CUDA_VISIBLE_DEVICES='' hides all 2 GPUs")
    sick(gpus.gpu(context(machine=hidden)), "warn", "hides all 2 GPUs", "unset CUDA_VISIBLE_DEVICES")
    instance = context(machine=hidden, environ={"CUDA_VISIBLE_DEVICES": "MIG-1234"})
    sick(gpus.gpu(instance), "warn", "MIG instance", "-mig 0")
