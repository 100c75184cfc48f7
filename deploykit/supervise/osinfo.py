"""What the operating system knows about processes and ports. Linux answers from /proc; elsewhere less is known."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_LISTEN = "0A"


def start_identity(pid: int) -> str | None:
    """A text that only this very process ever has under `pid`; None when there is none (a zombie counts as none)."""
    if pid <= 0:
        return None
    if sys.platform == "linux":
        try:
            stat = (_PROC / str(pid) / "stat").read_text()
            boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        fields = stat[stat.rindex(")") + 2 :].split()
        return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    found = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def send_signal(pid: int, identity: str, sig: signal.Signals) -> bool:
    """Signal the process that was recorded, never another one that got its number since. False when it is gone."""
    if not hasattr(os, "pidfd_open"):
        if start_identity(pid) != identity:
            return False
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            return False
        return True
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if start_identity(pid) != identity:  # asked after the handle was taken: the two mean one process
            return False
        signal.pidfd_send_signal(fd, sig)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


@dataclass(frozen=True)
class Holder:
    """Who listens on a port. `pid` is None where another user's process can't be looked into."""

    pid: int | None
    command: str  # "python3 -m http.server 23333", cut to a line
    user: str


def port_holders(host: str, port: int) -> list[Holder]:
    """The processes that listen on `port` of `host` (or of all addresses); empty where the system doesn't tell."""
    if sys.platform != "linux":
        return []
    inodes: dict[str, str] = {}  # socket inode -> user
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, hex_port = fields[1].partition(":")
                if fields[3] == _LISTEN and int(hex_port, 16) == port and _overlap(_address(address), host):
                    inodes[fields[9]] = _user(int(fields[7]))
    holders = [
        Holder(pid, _command(pid), inodes[inode])
        for pid, inode in _socket_owners(set(inodes))
    ]  # fmt: skip
    return holders or [Holder(None, "", user) for user in inodes.values()]


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """/proc/net/tcp writes each 32-bit word of an address in the machine's byte order."""
    raw = bytes.fromhex(text)
    words = (raw[i : i + 4] for i in range(0, len(raw), 4))
    address = ipaddress.ip_address(b"".join(w[::-1] if sys.byteorder == "little" else w for w in words))
    return getattr(address, "ipv4_mapped", None) or address


def _overlap(held: ipaddress.IPv4Address | ipaddress.IPv6Address, host: str) -> bool:
    try:
        wanted = ipaddress.ip_address(host)
    except ValueError:
        return True
    return held == wanted or held.is_unspecified or wanted.is_unspecified


def _socket_owners(inodes: set[str]) -> list[tuple[int, str]]:
    links = {f"socket:[{inode}]": inode for inode in inodes}
    owners: list[tuple[int, str]] = []
    for entry in sorted((p for p in _PROC.iterdir() if p.name.isdigit()), key=lambda p: int(p.name)):
        try:
            fds = list((entry / "fd").iterdir())
        except OSError:  # gone meanwhile, or another user's
            continue
        for fd in fds:
            with contextlib.suppress(OSError):  # closed meanwhile
                if (inode := links.get(str(fd.readlink()))) is not None:
                    owners.append((int(entry.name), inode))
                    break
    return owners


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        text = " ".join([Path(words[0]).name, *words[1:]]).strip()
        if not text:
            text = (_PROC / str(pid) / "comm").read_text().strip()
        return text if len(text) <= 60 else text[:59] + "…"
    return ""


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
