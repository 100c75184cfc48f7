"""Whether a library is what this version can use, asked in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from deploykit.build.types import LIBRARY, Target

_CHILD = Path(__file__).with_name("_child.py")
_LIMIT_S = 60.0


class Answer(msgspec.Struct, frozen=True):
    """What the child found."""

    error: str = ""
    abi_version: int = 0  # the library's
    header_version: int = 0  # of the headers that the module was compiled with
    devices: tuple[str, ...] = ()  # cpu, cuda
    isas: tuple[str, ...] = ()  # of this CPU, best first
    library: str = ""  # the file that the linker took; "" where it is linked into the module


@dataclass(frozen=True)
class Verdict:
    """`why` is None where the library can be used."""

    answer: Answer
    why: str | None


def ask(module: Path, *, limit_s: float = _LIMIT_S) -> Answer:
    """Import `module` in a child and ask it for its facts. Never raises: what went wrong is the answer's error."""
    # -P: this room's own files (types.py) must not stand in for the standard library's.
    command = [sys.executable, "-P", str(_CHILD), str(module)]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=limit_s, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return Answer(error=f"loading it did not end within {limit_s:g} s")
    except OSError as error:
        return Answer(error=f"{sys.executable} can't be started: {error.strerror or error}")
    if done.returncode < 0:
        return Answer(error=f"loading it ends the process with {_signal_name(-done.returncode)}")
    try:
        return msgspec.json.decode(done.stdout, type=Answer)
    except msgspec.DecodeError:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return Answer(
            error=lines[-1] if lines else f"loading it ends the process with code {done.returncode}"
        )


def judge(module: Path, target: Target, abi_version: int, *, limit_s: float = _LIMIT_S) -> Verdict:
    """Whether the library at `module` can be used for `target`."""
    answer = ask(module, limit_s=limit_s)
    return Verdict(answer, _why_not(answer, module, target, abi_version))


def _why_not(answer: Answer, module: Path, target: Target, abi_version: int) -> str | None:
    if answer.error:
        return answer.error
    for part, version in (("library", answer.abi_version), ("module", answer.header_version)):
        if version != abi_version:
            return f"the {part} speaks version {version} of the interface, {abi_version} is needed"
    if target.kind not in answer.devices:
        return f"it is built for {' and '.join(answer.devices) or 'nothing'}, not for {target.kind}"
    here = os.path.realpath(module.parent)
    if answer.library and os.path.dirname(os.path.realpath(answer.library)) != here:  # noqa: PTH120
        return f"it takes another lib{LIBRARY}: {answer.library}"
    return None


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (an instruction that this CPU doesn't have)" if number == signal.SIGILL else name
