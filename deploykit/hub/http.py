"""GET requests to one hub: bounded in time and size, with credentials that never leave the hub's own address.

Redirects are followed here and not by the HTTP library: a hub sends its large files from other hosts, and what opens
the hub (a token, a cookie) is dropped before a request goes anywhere else. Transfers aren't compressed, so that the
sizes a hub announces are the sizes that arrive.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from deploykit.errors import ConfigError, DeploykitError

if TYPE_CHECKING:
    import httpx

CONNECT_S = 5.0  # for a connection: a machine without a network goes on to the next source soon
READ_S = 20.0  # between two pieces of a file
API_READ_S = 10.0  # for an API to begin its answer, and between two pieces of it
ANSWER_S = 60.0  # for a whole answer of a hub's API
MAX_ANSWER = 64 << 20  # bytes of an answer of a hub's API: a listing of 100,000 files is a fifth of it
MAX_WAIT_S = 60.0  # a hub that asks for a longer pause is given up
BACKOFF_S = 0.5  # before the second try, doubled before each other one
TRIES = 5  # without progress
BUSY = (408, 425, 429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 8
_SECRET_HEADERS = ("authorization", "cookie", "proxy-authorization")
_PORTS = {"http": 80, "https": 443}

Sleep = Callable[[float], object]


class Problem(Exception):
    """A request that failed, before it is known what it was for. `again` tells whether another try may help."""

    def __init__(
        self, text: str, *, status: int | None = None, again: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.again = again
        self.wait = wait  # seconds that the hub asked for
        self.code: str | None = None  # the hub's own word for it


class Client:
    """One hub. `secrets` are headers such as Authorization, sent to `endpoint`'s origin and nowhere else."""

    def __init__(self, endpoint: str, secrets: Mapping[str, str] | None = None) -> None:
        import httpx

        try:
            self._origin = origin(endpoint)
        except Problem as e:
            raise ConfigError(f"{endpoint[:80]!r} can't be the address of a hub", why=e.text) from e
        self._secrets = dict(secrets or {})
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=16)
        headers = {"User-Agent": user_agent(), "Accept-Encoding": "identity"}
        self._http = httpx.Client(follow_redirects=False, limits=limits, headers=headers, verify=_tls())

    def close(self) -> None:
        self._http.close()

    @contextlib.contextmanager
    def open(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        located: dict[str, str] | None = None,
        read_s: float | None = None,
    ) -> Iterator[httpx.Response]:
        """The answer at the end of the redirects, its body unread; a status of 400 and above raises Problem.

        `located` remembers where a URL led to, so that the next part of a file is asked for there at once.
        """
        import httpx

        target = (located or {}).get(url, url)
        timeout = httpx.Timeout(READ_S if read_s is None else read_s, connect=CONNECT_S, pool=None)
        try:
            for _ in range(_MAX_REDIRECTS):
                request = self._http.build_request(
                    "GET", target, headers=self._headers(target, headers), timeout=timeout
                )
                response = self._http.send(request, stream=True)
                with contextlib.closing(response):
                    if response.status_code in _REDIRECTS:
                        target = _next(target, response.headers.get("location", ""))
                        continue
                    if response.status_code >= 300:
                        raise _refusal(response)
                    if response.headers.get("content-encoding", "identity").lower() != "identity":
                        raise Problem("the answer is compressed, which wasn't asked for")
                    if located is not None and target != url:
                        located[url] = target
                    yield response
                    return
            raise Problem(f"the hub redirects more than {_MAX_REDIRECTS} times")
        except httpx.TimeoutException as e:
            raise Problem(f"no answer in time ({type(e).__name__})", again=True) from e
        except httpx.TransportError as e:
            raise Problem(_reason(e), again=True) from e
        except (httpx.InvalidURL, httpx.StreamError) as e:
            raise Problem(_reason(e)) from e

    def _headers(self, url: str, headers: Mapping[str, str] | None) -> dict[str, str]:
        asked = {k: v for k, v in (headers or {}).items() if k.lower() not in _SECRET_HEADERS}
        return {**asked, **self._secrets} if origin(url) == self._origin else asked

    def get(
        self, url: str, headers: Mapping[str, str] | None = None
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and the whole body of an API's answer, which is small and comes soon or not at all."""
        deadline = time.monotonic() + ANSWER_S
        with self.open(url, headers, read_s=API_READ_S) as response:
            body = bytearray()
            for piece in response.iter_raw():
                body += piece
                check_answer(len(body), deadline)
            return response.status_code, response.headers.multi_items(), bytes(body)


def user_agent() -> str:
    """What a hub learns of us: the name and the version, and nothing of the machine."""
    import deploykit

    return f"deploykit/{deploykit.__version__}"


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once: reading the certificates takes longer than fetching a small file."""
    import httpx

    return httpx.create_ssl_context()


def check_answer(size: int, deadline: float) -> None:
    """Raises Problem for an answer of an API that grew too large or takes too long."""
    if size > MAX_ANSWER:
        raise Problem(f"the answer is larger than {MAX_ANSWER >> 20} MiB")
    if time.monotonic() > deadline:
        raise Problem(f"the answer took longer than {ANSWER_S:.0f} s")


def check_token(token: str, name: str) -> str:
    """The token, if it can be sent; an error that doesn't show it otherwise."""
    if not token.isascii() or not token.isprintable() or " " in token:
        fix = f"set {name} again, without spaces and line breaks inside"
        raise ConfigError(f"{name} holds no token: it has characters that no token has", fix=fix)
    return token


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what credentials belong to."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as e:
        raise Problem(f"the address {url[:80]!r} can't be read") from e
    return parts.scheme, host.rstrip(".").lower(), port or _PORTS.get(parts.scheme, 0)


def _next(url: str, location: str) -> str:
    """Where a redirect leads. From an encrypted address to an unencrypted one is refused."""
    target = urljoin(url, location)
    scheme, host, _ = origin(target)
    if not location or scheme not in _PORTS or not host:
        raise Problem("the hub redirects to nowhere")
    if urlsplit(url).scheme == "https" and scheme == "http":
        raise Problem("the hub redirects to an unencrypted address")
    return target


def _refusal(response: httpx.Response) -> Problem:
    status = response.status_code
    problem = Problem(
        f"it answered {status} {response.reason_phrase}".rstrip(),
        status=status,
        again=status in BUSY,
        wait=retry_after(response.headers),
    )
    problem.code = response.headers.get("x-error-code")
    return problem


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks for, given in seconds or as a date."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def pause(attempt: int, problem: Problem, sleep: Sleep) -> None:
    """Wait before try number `attempt + 1`, as long as the hub asks for. Raises the problem where that is too long."""
    wait = problem.wait if problem.wait is not None else BACKOFF_S * 2 ** (attempt - 1)
    if wait > MAX_WAIT_S:
        problem.text += f" and asks to wait {wait:.0f} s"
        raise problem
    sleep(wait + random.uniform(0, BACKOFF_S / 4))  # noqa: S311 - spreads clients, hides nothing


def explain(problem: Problem, *, what: str, where: str, token: str, mirror: str) -> DeploykitError:
    """A person's text for a request that failed for good. `token` and `mirror` are the variables that may help."""
    status = problem.status
    if status in (401, 403):
        fix = f"accept the model's terms on its page if it has some, and set {token} to a token that may read it"
        return DeploykitError(f"{what}: access refused", where=where, why=problem.text, fix=fix)
    if status in (404, 410):
        fix = f"check the spelling of the id, the revision and the file; for a private model set {token}"
        return DeploykitError(f"{what}: not found", where=where, why=problem.text, fix=fix)
    if status is not None:
        return DeploykitError(what, where=where, why=problem.text, fix="try again later")
    fix = f"check the connection or the proxy; {mirror} names a mirror"
    return DeploykitError(what, where=where, why=problem.text, fix=fix)


def _reason(error: Exception) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:300]
