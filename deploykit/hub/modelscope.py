"""ModelScope repositories: its own SDK says what is there, in a process of its own; the bytes are fetched by our parts.

`MODELSCOPE_API_TOKEN` opens private models, `MODELSCOPE_ENDPOINT` (or the older `MODELSCOPE_DOMAIN`) names a mirror.
"""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec

from deploykit.errors import DeploykitError
from deploykit.hub import http
from deploykit.hub.http import Client, Problem
from deploykit.hub.modelscope_sdk import LIMITS, TOKEN, Failure, Request, Told, secrets_of
from deploykit.hub.repo import RepoSource, patiently
from deploykit.hub.types import PinnedFile, Resolved

_ASK_S = 300.0  # for one question: a handful of answers, each bounded in time by itself


class ModelScopeSource(RepoSource):
    hub = "modelscope"
    token = TOKEN
    mirror = "MODELSCOPE_ENDPOINT"
    _told: Told | None = None

    def resolve(self) -> Resolved:
        secrets_of(os.environ.get(TOKEN, ""))  # refused before a process is started for it
        try:
            self._told = patiently(self._ask)
        except Problem as problem:
            what = "the hub couldn't be reached" if problem.status is None else "the hub refused"
            raise self.explain(problem, what) from problem
        if self._told.resolved is None:
            raise DeploykitError("ModelScope's SDK gave no answer", where=str(self.ref))
        return self._told.resolved

    def _ask(self) -> Told:
        ref = self.ref
        limits = {name: getattr(http, name) for name in LIMITS}
        request = Request(ref.repo, ref.revision, ref.file, ref.allow_bin, ref.pinned, limits)
        told = _run(msgspec.json.encode(request), str(ref))
        if told.failure is not None:
            raise _error(told.failure)
        return told

    def _answered(self) -> Told:
        if self._told is None:
            self.resolve()
        if self._told is None:
            raise DeploykitError("ModelScope's SDK gave no answer", where=str(self.ref))
        return self._told

    def connect(self) -> Client:
        return Client(self._answered().endpoint, secrets_of(os.environ.get(TOKEN, "")))

    def url_of(self, file: PinnedFile, revision: str) -> str:
        return self._answered().urls[file.name]


def _run(request: bytes, where: str) -> Told:
    """The SDK's answer, from a process that ends with it."""
    command = [sys.executable, "-m", "deploykit.hub.modelscope_sdk"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        output, errors = process.communicate(request, _ASK_S)
    except subprocess.TimeoutExpired:
        raise Problem(f"ModelScope's SDK took longer than {_ASK_S:.0f} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    try:
        return msgspec.json.decode(output, type=Told)
    except msgspec.MsgspecError:
        last = next(
            (line for line in reversed(errors.decode(errors="replace").splitlines()) if line.strip()), ""
        )
        raise DeploykitError(
            "ModelScope's SDK failed",
            where=where,
            why=last[:300] or f"its process ended with code {process.returncode}",
            fix="pip install -U modelscope; or take the model from another source",
        ) from None


def _error(failure: Failure) -> Exception:
    if not failure.is_problem:
        return DeploykitError(
            failure.what, where=failure.where, why=failure.why, fix=failure.fix, exit_code=failure.exit_code
        )
    problem = Problem(failure.what, status=failure.status, again=failure.again, wait=failure.wait)
    problem.code = failure.code
    return problem
