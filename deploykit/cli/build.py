"""`deploykit build`: compile the native engine."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from deploykit.cli._options import Json
from deploykit.errors import EXIT_OK, ConfigError, DeploykitError

if TYPE_CHECKING:
    from deploykit.build import Build, Progress


def build(
    cpu: Annotated[bool, typer.Option("--cpu", help="For the CPU (the default).")] = False,
    cuda: Annotated[
        str | None,
        typer.Option(
            "--cuda",
            metavar="ARCH",
            help="For the CPU and NVIDIA GPUs of compute capability ARCH: 80, 86, 89, 90a, 100a, …",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Compilers at once; by default one a core, and no more than the memory holds.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Build again, even where it is built already.")
    ] = False,
    json_: Json = False,
) -> int:
    """Compile the native engine into the cache folder, once for each state of its sources.

    Needs a C++ compiler and no network. `deploykit up` does the same when its plan picked the native engine.
    """
    from deploykit.build import Target
    from deploykit.build import build as make

    if cpu and cuda:
        raise ConfigError(
            "--cpu and --cuda exclude each other", fix="leave one out: a CUDA build runs on CPUs too"
        )
    target = Target("cuda", cuda.removeprefix("sm_").removeprefix("compute_")) if cuda else Target()
    phases = set()
    with _ended_by_sigterm(), _display() as show:

        def report(progress: Progress) -> None:
            phases.add(progress.phase)
            show(progress)

        with _saying_interrupted():
            made = make(target, jobs=jobs, force=force, report=report)
    _print(made, "configure" in phases, json_)
    return EXIT_OK


def _print(made: Build, compiled: bool, json_: bool) -> None:
    import msgspec

    from deploykit.build.store import read_manifest

    manifest = read_manifest(made.folder)
    if manifest is None:
        raise DeploykitError("the native library vanished as it was built", where=str(made.folder))
    if json_:
        data = {
            "target": made.target.name,
            "built": compiled,
            "seconds": manifest.seconds,
            "key": made.key,
            "folder": str(made.folder),
            "library": str(made.library),
            "module": str(made.module),
            "log": str(made.log) if made.log else None,
            "abi_version": manifest.abi_version,
            "devices": manifest.devices,
        }
        print(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())
        return
    how = f"built in {manifest.seconds:.0f} s" if compiled else "built already; --force builds it again"
    print(f"native library for {made.target.name}: {how}")
    print(f"  {made.library}")


@contextlib.contextmanager
def _saying_interrupted() -> Iterator[None]:
    """One line where a signal ended it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print(
            "interrupted: there is no new library; the next build goes on from what is compiled",
            file=sys.stderr,
        )
        raise


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the compilers too, as Ctrl-C does."""

    def end(*_: object) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _display() -> Iterator[Callable[[Progress], None]]:
    """What goes on, on stderr: a bar on a terminal, lines elsewhere."""
    from deploykit.cli._output import coloured

    if coloured(sys.stderr):
        with _bar() as report:
            yield report
    else:
        yield _print_plain


def _print_plain(progress: Progress) -> None:
    from deploykit.cli._output import safe

    count = f"[{progress.done}/{progress.total}] " if progress.total else ""
    print(f"{count}{safe(progress.text)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from deploykit.cli._output import safe

    console = Console(file=sys.stderr, highlight=False)
    with Bar(
        SpinnerColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=None)

        def report(progress: Progress) -> None:
            text = safe(progress.text)
            if progress.phase in ("note", "wait"):
                console.print(text, markup=False)
            bar.update(task, description=text, completed=progress.done, total=progress.total or None)

        yield report
