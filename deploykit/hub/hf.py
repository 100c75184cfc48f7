"""Hugging Face repositories: huggingface_hub says what is there and who we are, the bytes are fetched by our own parts.

`HF_TOKEN` (or `HUGGING_FACE_HUB_TOKEN`, or a stored login), `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean to
huggingface_hub.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from deploykit.errors import DeploykitError
from deploykit.hub import http
from deploykit.hub.choose import choose
from deploykit.hub.http import Client, Problem
from deploykit.hub.repo import COMMIT, RepoSource, patiently
from deploykit.hub.types import PinnedFile, Resolved

_SHA256 = re.compile(r"[0-9a-f]{64}")
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)  # of the answer that is being read


class HfSource(RepoSource):
    hub = "hf"
    token = "HF_TOKEN"  # noqa: S105 - the variable's name
    mirror = "HF_ENDPOINT"

    def resolve(self) -> Resolved:
        self._token()  # before an error of the HTTP client could show what is wrong with it
        try:
            info = patiently(self._model_info)
        except Problem as problem:
            raise self.explain(problem, _what(problem, "the hub couldn't be reached")) from problem
        commit = info.sha
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise DeploykitError("the hub named no commit", where=str(self.ref))
        if COMMIT.fullmatch(self.ref.revision) and commit != self.ref.revision:
            why = f"it was asked for {self.ref.revision} and answered with {commit}"
            raise DeploykitError("the hub answered with another commit", where=str(self.ref), why=why)
        files = (_pinned(s) for s in info.siblings or ())
        return Resolved(commit, choose(self.ref, [f for f in files if f is not None]))

    def _model_info(self) -> Any:
        hub = _library()
        token = _deadline.set(time.monotonic() + http.ANSWER_S)
        try:
            return hub.HfApi(endpoint=_endpoint()).model_info(
                self.ref.repo, revision=self.ref.revision, files_metadata=True, timeout=http.API_READ_S
            )
        except (DeploykitError, Problem):
            raise
        except Exception as e:
            raise self._translate(e) from e
        finally:
            _deadline.reset(token)

    def _translate(self, error: Exception) -> Exception:
        """huggingface_hub's and its HTTP client's errors as ours."""
        from huggingface_hub import errors

        where = str(self.ref)
        if isinstance(error, errors.GatedRepoError):
            fix = "accept the model's terms on its page, then set HF_TOKEN"
            return DeploykitError("the repository asks for its terms to be accepted", where=where, fix=fix)
        if isinstance(error, errors.RevisionNotFoundError):
            return DeploykitError(f"the repository has no revision {self.ref.revision}", where=where)
        if isinstance(error, errors.RepositoryNotFoundError):
            fix = "check the spelling; for a private repository set HF_TOKEN"
            return DeploykitError("there is no such repository, or it is private", where=where, fix=fix)
        if isinstance(error, errors.OfflineModeIsEnabled):
            return DeploykitError(
                "Hugging Face is set to offline", where=where, why=str(error).splitlines()[0]
            )
        response = getattr(error, "response", None)
        if (status := getattr(response, "status_code", None)) is not None:
            wait = http.retry_after(getattr(response, "headers", {}))
            return Problem(f"it answered {status}", status=status, again=status in http.BUSY, wait=wait)
        if isinstance(error, (ValueError, TypeError, KeyError, AttributeError, RecursionError)):
            return Problem(f"its answer can't be read ({type(error).__name__})")
        return Problem(f"{type(error).__name__}: {_first_line(error)}")

    def connect(self) -> Client:
        token = self._token()
        secrets = {"Authorization": f"Bearer {token}"} if token else {}
        return Client(self.url_of(PinnedFile("config.json"), "main"), secrets)

    def _token(self) -> str | None:
        from huggingface_hub import constants, get_token

        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        return http.check_token(token, self.token) if token else None

    def url_of(self, file: PinnedFile, revision: str) -> str:
        import huggingface_hub

        return huggingface_hub.hf_hub_url(self.ref.repo, file.name, revision=revision, endpoint=_endpoint())


def _pinned(sibling: Any) -> PinnedFile | None:
    """A file of the listing; a sum that is none is left out, so that nothing is compared with nonsense."""
    name, size, lfs = sibling.rfilename, sibling.size, sibling.lfs
    if not isinstance(name, str) or not (size is None or (isinstance(size, int) and 0 <= size < 1 << 50)):
        return None
    sha256 = getattr(lfs, "sha256", None)
    if isinstance(sha256, str) and _SHA256.fullmatch(sha256):
        return PinnedFile(name, size, sha256)
    blob = sibling.blob_id
    sha1 = blob if lfs is None and isinstance(blob, str) and COMMIT.fullmatch(blob) else None
    return PinnedFile(name, size, None, sha1)


def _what(problem: Problem, unreachable: str) -> str:
    return unreachable if problem.status is None else "the hub refused"


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "")[:300]


def _library() -> Any:
    """huggingface_hub, held to our questions, its answers bounded in time and size while we are the ones who ask."""
    import httpx
    import huggingface_hub

    client = huggingface_hub.get_session()
    hooks = client.event_hooks
    if not any(hook.__name__ == "bound_answer" for hook in hooks["response"]):

        class Bounded(httpx.SyncByteStream):
            def __init__(self, stream: Any, deadline: float) -> None:
                self._stream = stream
                self._deadline = deadline

            def __iter__(self) -> Iterator[bytes]:
                size = 0
                for piece in self._stream:
                    size += len(piece)
                    http.check_answer(size, self._deadline)
                    yield piece

            def close(self) -> None:
                self._stream.close()

        def ask_plainly(request: httpx.Request) -> None:
            if _deadline.get() is None:
                return  # another part of this process asks for something of its own
            if "/api/models/" not in request.url.path:
                raise Problem(f"huggingface_hub asked for {request.url.path} by itself")
            request.headers["Accept-Encoding"] = "identity"
            request.headers["User-Agent"] = http.user_agent()

        def bound_answer(response: httpx.Response) -> None:
            if (deadline := _deadline.get()) is not None:
                if response.headers.get("content-encoding", "identity").lower() != "identity":
                    raise Problem("the answer is compressed, which wasn't asked for")
                response.stream = Bounded(response.stream, deadline)

        client.event_hooks = {
            "request": [*hooks["request"], ask_plainly],
            "response": [*hooks["response"], bound_answer],
        }
    return huggingface_hub
