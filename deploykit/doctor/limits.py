"""Checks of the limits that are set on this process, and of the folders that libraries work in."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from deploykit.doctor import child
from deploykit.doctor.check import Context, Finding, ok, skip
from deploykit.hardware.disk import existing_parent
from deploykit.plan.text import format_bytes

OPEN_FILES = 4096
MIB, GIB = 1 << 20, 1 << 30
_PINNED = 64 * MIB  # page-locked memory that copies to a GPU go through
_SHM = 1 * GIB


def _limit(name: str) -> tuple[int | None, int | None] | None:
    """(soft, hard) of RLIMIT_`name`, None in it for unlimited; None where the system has no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    which = getattr(resource, f"RLIMIT_{name}", None)
    if which is None:
        return None
    soft, hard = resource.getrlimit(which)
    infinite = resource.RLIM_INFINITY
    return (None if soft == infinite else soft, None if hard == infinite else hard)


def _judged(
    name: str, words: Callable[[int], str], judge: Callable[[str, int, int | None], Finding | None]
) -> Finding:
    """The finding about RLIMIT_`name`: `judge(found, soft, hard)` says what is wrong with a limit that there is."""
    limit = _limit(name)
    if limit is None:
        return skip("this system has no such limit")
    soft, hard = limit
    if soft is None:
        return ok("unlimited")
    found = f"{words(soft)} (at most {'unlimited' if hard is None else words(hard)})"
    return judge(found, soft, hard) or ok(found)


def open_files(context: Context) -> Finding:
    def judge(found: str, soft: int, hard: int | None) -> Finding | None:
        if soft >= OPEN_FILES:
            return None
        want = OPEN_FILES if hard is None else min(OPEN_FILES, hard)
        fix = f"ulimit -n {want}" if want > soft else "raise `nofile` in /etc/security/limits.conf"
        return Finding("warn", found, "every connection takes a file descriptor", fix)

    return _judged("NOFILE", str, judge)


def locked_memory(context: Context) -> Finding:
    def judge(found: str, soft: int, hard: int | None) -> Finding | None:
        if len(context.machine.gpus) < 2 or soft >= _PINNED:
            return None
        why = (
            "GPUs that talk over InfiniBand or shared memory pin more than that, and NCCL stops with an error"
        )
        fix = "ulimit -l unlimited, or docker run --ulimit memlock=-1"
        return Finding("warn", found, why, fix)

    return _judged("MEMLOCK", format_bytes, judge)


def shared_memory(context: Context) -> Finding:
    folder = context.root / "dev/shm"
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        if context.machine.system != "Linux":
            return skip("not used on this system")
        why = "processes that share memory (NCCL between GPUs, torch's workers) need it"
        found = f"not there: {error.strerror or error}"
        return Finding("warn", found, why, "mount -t tmpfs tmpfs /dev/shm")
    found = f"{format_bytes(usage.free)} free of {format_bytes(usage.total)}"
    if len(context.machine.gpus) > 1 and usage.total < _SHM:
        why = "NCCL keeps the buffers between GPUs there; Docker gives 64 MiB unless told otherwise"
        return Finding("warn", found, why, "docker run --shm-size=8g, or --ipc=host")
    if usage.free < 16 * MIB:
        why = "processes that share memory need it"
        return Finding("warn", found, why, "remove what is left over in /dev/shm: `ls -la /dev/shm`")
    return ok(found)


def temporary(context: Context) -> Finding:
    """The temporary folder can be written, and what is written there can be run."""
    folder = Path(tempfile.gettempdir())
    why = "downloads are staged and compilers work there"
    try:
        with tempfile.TemporaryDirectory(prefix="deploykit-doctor-") as made:
            script = Path(made) / "run"
            script.write_text("#!/bin/sh\nexit 0\n")
            script.chmod(0o700)
            runs = (
                context.machine.system == "Windows" or child.ask([str(script)], limit_s=1.5).problem is None
            )
    except OSError as error:
        text = f"{folder} can't be written: {error.strerror or error}"
        return Finding("fail", text, why, "make it writable, or set TMPDIR to another folder")
    free = shutil.disk_usage(folder).free
    found = f"{folder}, {format_bytes(free)} free"
    if not runs:
        fix = "mount -o remount,exec " + str(folder) + ", or set TMPDIR to another folder"
        return Finding(
            "warn", f"{found}, mounted noexec", "compilers and Triton run what they write there", fix
        )
    if free < 512 * MIB:
        return Finding("warn", found, why, "free some space there, or set TMPDIR to another folder")
    return ok(f"{found}, writable, runs programs")


def executable_cache(context: Context) -> Finding:
    """Libraries compiled into the cache are loaded from there."""
    there = existing_parent(context.cache)
    try:
        noexec = bool(os.statvfs(there).f_flag & os.ST_NOEXEC)
    except (OSError, AttributeError) as error:
        return skip(f"not known: {error}")
    if noexec:
        why = "the native engine's library is compiled into the cache and loaded from there, which noexec forbids"
        return Finding(
            "fail", f"{there} is mounted noexec", why, "set DEPLOYKIT_CACHE to a folder on another disk"
        )
    return ok("libraries may be loaded from it")
