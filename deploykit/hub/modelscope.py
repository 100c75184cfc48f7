"""ModelScope repositories: its own SDK says what is there, over our own requests; the bytes are fetched by our parts.

The SDK is the package modelscope_hub, which `modelscope` itself asks; importing `modelscope` would import torch.
`MODELSCOPE_API_TOKEN` opens private models, `MODELSCOPE_ENDPOINT` (or the older `MODELSCOPE_DOMAIN`) names a mirror.
The login that the SDK stores is a pickle: it isn't read.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploykit.errors import DeploykitError
from deploykit.hub import http
from deploykit.hub.choose import choose
from deploykit.hub.http import Client, Problem
from deploykit.hub.repo import COMMIT, RepoSource, patiently
from deploykit.hub.types import PinnedFile, Resolved

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_CANDIDATES = 3


class ModelScopeSource(RepoSource):
    hub = "modelscope"
    token = "MODELSCOPE_API_TOKEN"  # noqa: S105 - the variable's name
    mirror = "MODELSCOPE_ENDPOINT"

    def resolve(self) -> Resolved:
        """Pins a branch by looking at it at the commit that changed it last: the files must be the same there."""
        revision = self.ref.revision
        client = self.connect()
        try:
            api = self._api(client)
            entries = self._list(api, revision)
            files = choose(self.ref, _pinned(entries))
            if COMMIT.fullmatch(revision):
                return Resolved(revision, files)
            for commit in _newest_commits(entries):
                with contextlib.suppress(DeploykitError):  # nothing there, or no model
                    if set(choose(self.ref, _pinned(self._list(api, commit)))) == set(files):
                        return Resolved(commit, files)
        except Problem as problem:
            what = "the hub couldn't be reached" if problem.status is None else "the hub refused"
            raise self.explain(problem, what) from problem
        finally:
            client.close()
        raise DeploykitError(
            f"ModelScope doesn't say which commit {revision} is",
            where=str(self.ref),
            why="none of the commits that its listing names has the same files",
            fix="name a commit as the revision; the model's page lists them",
        )

    def _list(self, api: Any, revision: str) -> list[dict[str, Any]]:
        try:
            found = patiently(lambda: api.legacy.list_repo_files(self.ref.repo, "model", revision))
        except (DeploykitError, Problem):
            raise
        except Exception as e:
            raise Problem(f"its answer can't be read ({type(e).__name__})") from e
        entries = [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []
        if not entries:  # ModelScope's way to say that there is no such revision
            raise DeploykitError(
                f"the repository has no revision {revision}, or no files there",
                where=str(self.ref),
                fix="check the spelling; ModelScope's usual branch is master",
            )
        return entries

    def connect(self) -> Client:
        token = http.check_token(os.environ.get(self.token, "").strip(), self.token)
        secrets = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}
        return Client(self._config().endpoint, secrets)

    def url_of(self, file: PinnedFile, revision: str) -> str:
        url: str = self._urls.legacy.get_download_url(self.ref.repo, "model", file.name, revision)
        return url

    @functools.cached_property
    def _urls(self) -> Any:
        """The SDK without a connection: it knows the form of an address."""
        return self._api(None)

    def _api(self, client: Client | None) -> Any:
        """The SDK, its requests sent by `client` and nothing else."""
        import requests
        from modelscope_hub import HubApi

        api = HubApi(self._config())
        adapter = _adapter(client)
        for session in vars(api.legacy).values():
            if isinstance(session, requests.Session):
                session.trust_env = False  # no .netrc: the only secret is ours
                session.adapters.clear()
                session.mount("http://", adapter)
                session.mount("https://", adapter)
        return api

    def _config(self) -> Any:
        from modelscope_hub import HubConfig

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MODELSCOPE_DOMAIN still works
            # No token: ours is added by the client, to the hub's own address alone. No folder: nothing is written.
            return HubConfig(token="", config_dir=Path(os.devnull) / "modelscope", cache_dir=self.cache)


def _adapter(client: Client | None) -> Any:
    """A transport for the SDK's HTTP library that hands every request to `client`."""
    import requests
    from requests.adapters import BaseAdapter
    from requests.structures import CaseInsensitiveDict

    class Adapter(BaseAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
            if client is None or request.method != "GET" or request.url is None:
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
