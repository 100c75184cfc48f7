"""Accelerators that the PCI bus and the device files show, driver or not: NVIDIA's, and those of others by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

_DISPLAY, _ACCELERATOR = "0x03", "0x12"  # PCI classes
_OTHER_DISPLAY = "0x0380"  # a display controller without a display: a card for computing
_ASCEND = {"0xd100": "Ascend 310", "0xd500": "Ascend 310P", "0xd801": "Ascend 910", "0xd802": "Ascend 910B"}
_INTEGRATED_SLOT = "00:02.0"  # where Intel's integrated graphics stand


class Accelerator(msgspec.Struct, frozen=True):
    """`kind` is nvidia | amd | intel | ascend | gaudi. `graphics` are display adapters that come with a computer."""

    kind: str
    name: str
    place: str
    graphics: bool = False


def accelerators(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> list[Accelerator]:
    """What is there, by the bus, by device files (containers hide the bus) and by what Ascend's toolkit sets."""
    found = []
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        if (one := _on_bus(device)) is not None:
            found.append(one)
    kinds = {one.kind for one in found if not one.graphics}
    if "ascend" not in kinds and (files := sorted((root / "dev").glob("davinci[0-9]*"))):
        found += [Accelerator("ascend", "Huawei Ascend NPU", str(file)) for file in files]
    elif "ascend" not in kinds and (home := (environ or {}).get("ASCEND_HOME_PATH")):
        found.append(Accelerator("ascend", "Huawei Ascend NPU (its toolkit is set up)", home))
    if "amd" not in kinds and (root / "dev/kfd").exists():
        found = [one for one in found if one.kind != "amd"]
        found.append(Accelerator("amd", "AMD GPU (ROCm)", "/dev/kfd"))
    if "gaudi" not in kinds and (files := sorted((root / "dev/accel").glob("accel[0-9]*"))):
        found += [Accelerator("gaudi", "Intel Gaudi, or an accelerator like it", str(file)) for file in files]
    return found


def _on_bus(device: Path) -> Accelerator | None:
    vendor, kind, number = (_read(device / name) for name in ("vendor", "class", "device"))
    if not kind.startswith((_DISPLAY, _ACCELERATOR)):
        return None
    display = kind.startswith(_DISPLAY) and not kind.startswith(_OTHER_DISPLAY)
    match vendor:
        case "0x10de" if kind.startswith(_DISPLAY):
            return Accelerator("nvidia", "NVIDIA GPU", device.name)
        case "0x1002":
            return Accelerator("amd", "AMD GPU", device.name, graphics=display)
        case "0x8086":
            integrated = device.name.endswith(_INTEGRATED_SLOT)
            name = "Intel integrated graphics" if integrated else "Intel GPU"
            return Accelerator("intel", name, device.name, graphics=integrated)
        case "0x19e5" if not kind.startswith(_DISPLAY):  # its server boards have display adapters too
            return Accelerator("ascend", f"Huawei {_ASCEND.get(number, 'Ascend NPU')}", device.name)
        case "0x1da3":
            return Accelerator("gaudi", "Intel Gaudi", device.name)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
