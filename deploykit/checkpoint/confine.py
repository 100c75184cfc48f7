"""A process that takes rights away from itself before it looks at what it doesn't trust.

On Linux the kernel holds it: Landlock (no file outside the named ones, nothing written outside one folder) and a
seccomp filter (no sockets, no programs, no other processes). Everywhere: resource limits, and an audit hook that
refuses the same things to Python code. Each that could be set is named in the result.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22
_FILTER = 2  # SECCOMP_MODE_FILTER
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # Landlock's calls, the same on every architecture
# Landlock's access rights (linux/landlock.h)
_EXECUTE, _WRITE, _READ, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_ALL_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_NEWER = (1 << 16) - 1
# Files may be made, written and removed below the output folder; no links, devices, sockets or folders.
_MAKE_REG, _REMOVE_FILE = 1 << 8, 1 << 5
_CLONE_THREAD = 0x10000
_EPERM, _ENOSYS = 1, 38
# Calls that are refused, in the order of their numbers below: socket connect bind listen socketpair execve execveat
# ptrace process_vm_readv process_vm_writev mount setns unshare bpf perf_event_open userfaultfd io_uring_setup keyctl
# kill tgkill tkill pidfd_open pidfd_getfd open_by_handle_at init_module finit_module; on x86 also fork and vfork.
# machine -> (its name for audit, the number of clone, those numbers)
_SECCOMP: dict[str, tuple[int, int, str]] = {
    "x86_64": (
        0xC000003E,
        56,
        "41 42 49 50 53 59 322 101 310 311 165 308 272 321 298 323 425 250 62 234 200 434 438 304 175 313 57 58",
    ),
    "aarch64": (
        0xC00000B7,
        220,
        "198 203 200 201 199 221 281 117 270 271 40 268 97 280 241 282 425 219 129 131 130 434 438 265 105 273",
    ),
}
_CLONE3 = 435  # everywhere


def die_with_parent(parent: int) -> None:
    """End when the process `parent` ends (Linux). Raises ConnectionError where it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise ConnectionError("the process that asked for this is gone")


def confine(
    *, read: Iterable[Path], write: Path, address_space: int, file_size: int, seconds: int
) -> list[str]:
    """From here on only `read` can be read and only below `write` can be written. What was set, by name.

    `address_space` is what the process may map beyond what it has mapped already; all sizes in bytes, and `seconds`
    of processor time. There is no way back.
    """
    places = [p for p in read if p.exists()]
    done = [_limits(address_space, file_size, seconds)]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            done += ["landlock"] if _landlock(libc, places, write) else []
            done += ["seccomp"] if _seccomp(libc) else []
    _audit(write.resolve())
    return [*done, "audit hook"]


def _limits(address_space: int, file_size: int, seconds: int) -> str:
    mapped = _mapped_bytes()
    wanted = {
        resource.RLIMIT_AS: mapped + address_space,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 256,
    }
    for limit, value in wanted.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    signal.signal(
        signal.SIGXFSZ, signal.SIG_IGN
    )  # a write beyond the limit is then an error that can be told
    return "resource limits"


def _mapped_bytes() -> int:
    """Address space of this process, bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 64 << 30  # no such file there: room for what a Python with torch maps


# ---------------------------------------------------------------- Landlock


def _landlock(libc: Any, read: list[Path], write: Path) -> bool:
    abi = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if abi < 1:
        return False
    handled = _ALL_BY_ABI.get(abi, _ALL_NEWER)
    attributes = struct.pack("<Q", handled) + (
        struct.pack("<Q", 3) if abi >= 4 else b""
    )  # 3: TCP bind, connect
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    try:
        make = _WRITE | _READ | _READ_DIR | _MAKE_REG | _REMOVE_FILE | _TRUNCATE
        rules = [(path, _READ | (_READ_DIR | _EXECUTE if path.is_dir() else 0)) for path in read]
        for path, access in [*rules, (write, make)]:
            if not _allow(libc, ruleset, path, access & handled):
                return False
        return bool(libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) == 0)
    finally:
        os.close(ruleset)


def _allow(libc: Any, ruleset: int, path: Path, access: int) -> bool:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("<Qi", access, fd)  # struct landlock_path_beneath_attr, packed
        return bool(libc.syscall(_ADD_RULE, ruleset, ctypes.c_int(1), rule, ctypes.c_uint32(0)) == 0)
    finally:
        os.close(fd)


# ---------------------------------------------------------------- seccomp


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _seccomp(libc: Any) -> bool:
    known = _SECCOMP.get(platform.machine())
    if known is None:
        return False
    architecture, clone, numbers = known
    code = _filter(architecture, clone, [int(n) for n in numbers.split()])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    return bool(libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) == 0)


def _filter(architecture: int, clone: int, refused: list[int]) -> bytes:
    """Classic BPF over struct seccomp_data: number at 0, architecture at 4, the first argument at 16."""
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    allow, deny = 0x7FFF0000, 0x00050000 | _EPERM

    def op(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("<HBBI", code, yes, no, value)

    out = op(load, 0, 0, 4) + op(equal, 1, 0, architecture) + op(give, 0, 0, deny) + op(load, 0, 0, 0)
    if architecture == 0xC000003E:  # the x32 numbers of the same calls
        out += op(0x35, 0, 1, 0x40000000) + op(give, 0, 0, deny)
    for number in refused:
        out += op(equal, 0, 1, number) + op(give, 0, 0, deny)
    out += op(equal, 0, 1, _CLONE3) + op(give, 0, 0, 0x00050000 | _ENOSYS)  # glibc then takes clone
    out += (
        op(equal, 0, 3, clone) + op(load, 0, 0, 16) + op(any_bit, 1, 0, _CLONE_THREAD) + op(give, 0, 0, deny)
    )
    return out + op(give, 0, 0, allow)


# ---------------------------------------------------------------- Python's own


_REFUSED = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.kill",
    "os.symlink",
    "os.link",
    "os.chmod",
    "os.chown",
    "pty.",
    "ctypes.dlopen",
    "shutil.",
    "ftplib.",
    "http.",
    "urllib.",
    "smtplib.",
    "webbrowser.",
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _audit(write: Path) -> None:
    prefix = f"{write}{os.sep}"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
            if arguments[2] & _WRITES and not os.path.abspath(arguments[0]).startswith(prefix):  # noqa: PTH100
                raise PermissionError(f"writing {arguments[0]} is not allowed here")
        elif event in ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate"):
            raise PermissionError(f"{event} is not allowed here")

    sys.addaudithook(hook)
