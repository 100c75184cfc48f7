"""What ModelScope's SDK says of a repository, asked in a process of its own: `python -m deploykit.hub.modelscope_sdk`.

Importing `modelscope` imports torch wherever that is installed, and neither a light command nor a server may pay for
it. This process lives for one question: it tells the SDK that there is no torch, lets it ask over our own bounded
requests, and writes the answer to its standard output. The login that the SDK stores is a pickle: it isn't read.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from deploykit.errors import DeploykitError
from deploykit.hub import http
from deploykit.hub.choose import choose
from deploykit.hub.http import Client, Problem
from deploykit.hub.repo import COMMIT
from deploykit.hub.types import ModelScopeRef, PinnedFile, Resolved

TOKEN = "MODELSCOPE_API_TOKEN"  # noqa: S105 - the variable's name
LIMITS = ("CONNECT_S", "API_READ_S", "ANSWER_S", "MAX_ANSWER")  # of `http`
_ABSENT = ("torch", "transformers", "tensorflow")  # nothing of them is needed to list files
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_CANDIDATES = 3


class Request(msgspec.Struct, frozen=True):
    """What the process is asked, on its standard input."""

    repo: str
    revision: str
    file: str | None = None
    allow_bin: bool = False
    pinned: tuple[PinnedFile, ...] = ()
    limits: dict[str, int | float] = {}  # the asking process's own


class Failure(msgspec.Struct, frozen=True):
    """A request that failed (`again` and what follows are a Problem's), or an error for people where it has `why`."""

    what: str
    is_problem: bool
    where: str | None = None
    why: str | None = None
    fix: str | None = None
    exit_code: int = 1
    status: int | None = None
    again: bool = False
    wait: float | None = None
    code: str | None = None


class Told(msgspec.Struct, frozen=True):
    """What the SDK said."""

    endpoint: str = ""
    resolved: Resolved | None = None
    urls: dict[str, str] = {}  # of the files at the commit
    failure: Failure | None = None


def secrets_of(token: str) -> Mapping[str, str]:
    """The headers that open private models."""
    token = http.check_token(token.strip(), TOKEN)
    return {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}


def main() -> int:
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no part of the answer
    with output:
        output.write(answer(sys.stdin.buffer.read()))
    return 0


def answer(request: bytes) -> bytes:
    """What is told of a `Request`, both as JSON. It changes this process for good: nothing else may run in it."""
    try:
        with tempfile.TemporaryDirectory(prefix="deploykit-modelscope-") as home:
            told = _ask(msgspec.json.decode(request, type=Request), home)
    except Problem as p:
        failure = Failure(p.text, True, status=p.status, again=p.again, wait=p.wait, code=p.code)
        told = Told(failure=failure)
    except DeploykitError as e:
        told = Told(failure=Failure(e.what, False, e.where, e.why, e.fix, e.exit_code))
    return msgspec.json.encode(told)


def _ask(request: Request, home: str) -> Told:
    for name, value in request.limits.items():
        if name in LIMITS:
            setattr(http, name, value)
    # An empty token: ours is added by the client, to the hub's own address alone.
    secrets = secrets_of(os.environ.pop(TOKEN, ""))
    os.environ.pop("MODELSCOPE_CREDENTIALS_PATH", None)
    os.environ["MODELSCOPE_HOME"] = home  # nothing is read from a person's own, nothing written there
    os.environ["MODELSCOPE_CACHE"] = home
    os.environ.setdefault("MODELSCOPE_LOG_LEVEL", "40")
    modules: dict[str, Any] = sys.modules
    for name in _ABSENT:
        modules[name] = None  # what Python itself takes for "not installed"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MODELSCOPE_DOMAIN still works
        from modelscope.hub.api import HubApi
        from modelscope.hub.file_download import get_file_download_url

        api = HubApi(token="")
        hub = api._api  # modelscope's own door to the listing with its sums; the public one drops them
        endpoint = str(api.endpoint)
        client = Client(endpoint, secrets)
        _carry(hub.legacy, client)
    ref = ModelScopeRef(request.repo, request.revision, request.file, request.allow_bin, request.pinned)
    with contextlib.closing(client):
        resolved = _resolve(ref, hub)
    urls = {
        f.name: get_file_download_url(ref.repo, f.name, resolved.revision, endpoint) for f in resolved.files
    }
    return Told(endpoint, resolved, urls)


def _resolve(ref: ModelScopeRef, hub: Any) -> Resolved:
    """Pins a branch by looking at it at the commit that changed it last: the files must be the same there."""
    entries = _list(ref, hub, ref.revision)
    files = choose(ref, _pinned(entries))
    if COMMIT.fullmatch(ref.revision):
        return Resolved(ref.revision, files)
    for commit in _newest_commits(entries):
        with contextlib.suppress(DeploykitError):  # nothing there, or no model
            if set(choose(ref, _pinned(_list(ref, hub, commit)))) == set(files):
                return Resolved(commit, files)
    raise DeploykitError(
        f"ModelScope doesn't say which commit {ref.revision} is",
        where=str(ref),
        why="none of the commits that its listing names has the same files",
        fix="name a commit as the revision; the model's page lists them",
    )


def _list(ref: ModelScopeRef, hub: Any, revision: str) -> list[dict[str, Any]]:
    try:
        found = hub.legacy.list_repo_files(ref.repo, "model", revision)
    except (DeploykitError, Problem):
        raise
    except Exception as e:
        raise Problem(f"its answer can't be read ({type(e).__name__})") from e
    entries = [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []
    if not entries:  # ModelScope's way to say that there is no such revision
        raise DeploykitError(
            f"the repository has no revision {revision}, or no files there",
            where=str(ref),
            fix="check the spelling; ModelScope's usual branch is master",
        )
    return entries


def _carry(legacy: Any, client: Client) -> None:
    """Let the SDK's requests be sent by `client` and nothing else."""
    import requests

    adapter = _adapter(client)
    for session in vars(legacy).values():
        if isinstance(session, requests.Session):
            session.trust_env = False  # no .netrc: the only secret is ours
            session.adapters.clear()
            session.mount("http://", adapter)
            session.mount("https://", adapter)


def _adapter(client: Client) -> Any:
    """A transport for the SDK's HTTP library that hands every request to `client`."""
    import requests
    from requests.adapters import BaseAdapter
    from requests.structures import CaseInsensitiveDict

    class Adapter(BaseAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
            if request.method != "GET" or request.url is None:
                raise Problem(f"the SDK asked for {request.method} {request.url}")
            headers = {"Accept": "application/json"}
            status, answer, body = client.get(request.url, headers)
            response = requests.Response()
            response.status_code = status
            response.headers = CaseInsensitiveDict(answer)
            response.raw = io.BytesIO(body)
            response.url = request.url
            response.request = request
            return response

        def close(self) -> None:
            """The client belongs to who made it."""

    return Adapter()


def _pinned(entries: Sequence[dict[str, Any]]) -> list[PinnedFile]:
    """The files of a listing that say what they are; ModelScope gives the sha256 of every one."""
    files = []
    for entry in entries:
        name, size, sha256 = entry.get("Path"), entry.get("Size"), entry.get("Sha256")
        if entry.get("Type") == "tree" or not isinstance(name, str):
            continue
        if type(size) is not int or not 0 <= size < 1 << 50:
            continue
        good = isinstance(sha256, str) and _SHA256.fullmatch(sha256)
        files.append(PinnedFile(name, size, sha256 if good else None))
    return files


def _newest_commits(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Commits that changed a file, the last one first."""
    dated = [
        (date if type(date := e.get("CommittedDate")) is int else 0, commit)
        for e in entries
        if isinstance(commit := e.get("Revision"), str) and COMMIT.fullmatch(commit)
    ]
    return list(dict.fromkeys(commit for _, commit in sorted(dated, reverse=True)))[:_MAX_CANDIDATES]


if __name__ == "__main__":
    sys.exit(main())
