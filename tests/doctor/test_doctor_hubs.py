"""Hubs: asked for headers at a real local address, without credentials; offline, mirrors and tokens as they are set."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploykit.doctor import hubs
from deploykit.doctor.check import CheckSpec, Finding, run_check
from deploykit.recipe import recipe_from_data

Make = Callable[..., Any]
SECRET = "hf_secretsecretsecret"


class Hub(http.server.BaseHTTPRequestHandler):
    status = 200
    asked: list[tuple[str, dict[str, str]]] = []  # noqa: RUF012 - emptied by the fixture

    def do_HEAD(self) -> None:
        self.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.send_response(self.status)
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a hub on this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(Hub, "status", 200)
    Hub.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def sick(finding: Finding, *words: str) -> None:
    assert finding.status == "warn", finding
    assert finding.why
    assert finding.fix
    for word in words:
        assert word in f"{finding.found} {finding.why} {finding.fix}", finding


def test_a_hub_that_answers(context: Make, hub: str) -> None:
    finding = hubs.hugging_face(context(environ={"HF_ENDPOINT": hub, "HF_TOKEN": SECRET}))
    assert finding.status == "ok", finding
    assert f"{hub} (HF_ENDPOINT), answers in " in finding.found
    assert finding.found.endswith("token in HF_TOKEN")
    assert SECRET not in repr(finding)
    [(path, headers)] = Hub.asked
    assert path == "/"
    assert "authorization" not in headers
    assert SECRET not in repr(headers)


@pytest.mark.parametrize(
    ("status", "good"), [(200, True), (302, True), (403, True), (404, True), (502, False)]
)
def test_any_answer_but_a_failure_of_the_hub_is_one(
    context: Make, hub: str, monkeypatch: pytest.MonkeyPatch, status: int, good: bool
) -> None:
    monkeypatch.setattr(Hub, "status", status)
    finding = hubs.hugging_face(context(environ={"HF_ENDPOINT": hub}))
    assert (finding.status == "ok") is good, finding
    assert len(Hub.asked) == 1  # a redirect is not followed


def test_a_hub_that_does_not_answer(context: Make) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
        environ = {"HF_ENDPOINT": nobody, "MODELSCOPE_ENDPOINT": nobody}
        finding = hubs.hugging_face(context(environ=environ))
        sick(finding, "no answer", "HTTPS_PROXY", "HF_ENDPOINT", "DEPLOYKIT_OFFLINE")
        other = hubs.modelscope(context(environ=environ))
        assert other.status == "skip"  # nothing asks it
        assert "only recipes that name it" in other.found
        first = context(environ=environ | {"DEPLOYKIT_USE_MODELSCOPE": "1"})
        sick(hubs.modelscope(first), "asked first", "ModelScope", "MODELSCOPE_ENDPOINT")
        data = {"version": 1, "model": {"sources": [{"modelscope": "a/b"}]}}
        sick(hubs.modelscope(context(environ=environ, given=recipe_from_data(data, "ms"))), "no answer")


def test_a_hub_that_hangs_is_given_up(context: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environ = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        monkeypatch.setattr(hubs, "ANSWER_S", 0.3)
        sick(hubs.hugging_face(context(environ=environ)), "no answer")
        monkeypatch.setattr(hubs, "ANSWER_S", 60)  # as where a name is looked up, which no timeout ends
        done = run_check(CheckSpec("hub", "Hub", hubs.hugging_face, limit_s=0.3), context(environ=environ))
        assert "no answer within 0.3 s" in done.why


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "DEPLOYKIT_OFFLINE"])
def test_offline_mode_asks_nobody(context: Make, hub: str, switch: str) -> None:
    here = context(environ={switch: "1", "HF_ENDPOINT": hub, "MODELSCOPE_ENDPOINT": hub})
    sick(hubs.hugging_face(here), f"offline mode on ({switch})", f"unset {switch}")
    assert hubs.modelscope(here).status == "skip"
    assert Hub.asked == []


def test_tokens_are_told_of_by_their_place(context: Make, hub: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    environ = {"HF_ENDPOINT": hub, "MODELSCOPE_ENDPOINT": hub, "MODELSCOPE_API_TOKEN": "ms-secret"}
    finding = hubs.hugging_face(context(environ=environ | {"HF_HOME": str(tmp_path)}))
    assert f"token in {tmp_path / 'token'}" in finding.found
    assert SECRET not in repr(finding)
    none = hubs.hugging_face(context(environ=environ | {"HF_HOME": str(tmp_path / "none")}))
    assert "no token" in none.found
    other = hubs.modelscope(context(environ=environ))
    assert "token in MODELSCOPE_API_TOKEN" in other.found
    assert "ms-secret" not in repr(other)


def test_an_address_that_is_none(context: Make) -> None:
    finding = hubs.hugging_face(context(environ={"HF_ENDPOINT": "mirror.example"}))
    sick(finding, "no address of a hub", "unset HF_ENDPOINT")


# ---------------------------------------------------------------- the recipe's model


def given(**model: Any) -> Any:
    return recipe_from_data({"version": 1, "model": model}, "given")


def test_a_model_that_is_there_is_not_asked_for(context: Make, model: Path, tmp_path: Path) -> None:
    assert hubs.model_access(context()).status == "skip"
    here = hubs.model_access(context(given=given(path=str(model))))
    assert (here.status, here.found) == ("ok", f"on the disk: path {model}")
    gone = hubs.model_access(context(given=given(path=str(tmp_path / "gone"))))
    assert (gone.status, gone.fix) == ("fail", "correct model.path")


def test_a_model_of_a_hub_is_asked_for_where_the_hub_answers(
    context: Make, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploykit.errors import DeploykitError
    from deploykit.hub import Preview, Resolved
    from deploykit.hub.types import PinnedFile

    here = context(given=given(id="owner/name"), environ={"HF_ENDPOINT": hub})
    files = (PinnedFile("model.safetensors", 3 << 30, None), PinnedFile("config.json", 100, None))
    answer = Preview(source="hf owner/name@main", resolved=Resolved("a" * 40, files))
    monkeypatch.setattr("deploykit.hub.preview", lambda refs, cache: answer)
    assert hubs.model_access(here).found == "hf owner/name@main: 2 files, 3.0 GiB"

    def gated(refs: Any, cache: Path) -> Preview:
        fix = "accept the model's terms on its page, then set HF_TOKEN"
        raise DeploykitError("the repository asks for its terms to be accepted", fix=fix)

    monkeypatch.setattr("deploykit.hub.preview", gated)
    finding = hubs.model_access(here)
    assert finding.status == "fail"
    assert "terms" in finding.found
    assert "HF_TOKEN" in finding.fix

    def never(refs: Any, cache: Path) -> Preview:
        raise AssertionError

    monkeypatch.setattr("deploykit.hub.preview", never)
    offline = context(given=here.given, environ={"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "1"})
    assert hubs.model_access(offline).status == "skip"
    monkeypatch.setattr(Hub, "status", 503)
    assert "doesn't answer" in hubs.model_access(here).found
