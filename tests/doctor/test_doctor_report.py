"""What is passed on holds no secret: planted ones of every kind, in every place that a report is made from."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from plan_machines import machine

from deploykit.cli.app import main
from deploykit.doctor import CheckSpec, Finding, examine
from deploykit.doctor.bundle import check_free, render, write_report
from deploykit.doctor.redact import Redactor, is_secret_name, mask_secrets, this_machine
from deploykit.errors import ConfigError
from deploykit.recipe import load_recipe

# A secret, and a text around it as it may come from an error, a command line or a file.
PLANTED = [
    ("hf_PlantedTokenAbcdef0123", "401 for hf_PlantedTokenAbcdef0123 at the hub"),
    ("sk-planted-0123456789abcdef", "OPENAI says sk-planted-0123456789abcdef is wrong"),
    ("ghp_planted0123456789abcdef", "cloned with ghp_planted0123456789abcdef."),
    ("AKIAPLANTED012345678", "key AKIAPLANTED012345678 of S3"),
    ("nvapi-planted0123456789ab", "nvapi-planted0123456789ab"),
    ("eyJhbGciOi.eyJwbGFudGVk.c2lnbmF0dXJl", "jwt eyJhbGciOi.eyJwbGFudGVk.c2lnbmF0dXJl"),
    ("pl4nted-bearer", "Authorization: Bearer pl4nted-bearer"),
    ("cGxhbnRlZDpwYXNzd29yZA==", "proxy-authorization: basic cGxhbnRlZDpwYXNzd29yZA=="),
    ("bob:pl4nted", "proxy https://bob:pl4nted@proxy.example:3128 refused"),
    ("pl4nted-argument", "process 77: server --api-key pl4nted-argument --port 1"),
    ("pl4nted=equals", "process 78: server --auth-token=pl4nted=equals"),
    ("pl4nted-query", "GET https://hub.example/x?access_token=pl4nted-query&page=2"),
    ("pl4nted json", '{"password": "pl4nted json"}'),
    ("pl4nted-yaml", "api_key: pl4nted-yaml"),
    ("MIIPLANTED", "-----BEGIN RSA PRIVATE KEY-----\nMIIPLANTED\nMIIPLANTED\n-----END RSA PRIVATE KEY-----"),
    ("MIIENDLESS", "-----BEGIN PRIVATE KEY-----\nMIIENDLESS"),
]


@pytest.mark.parametrize(("secret", "text"), PLANTED, ids=[s for s, _ in PLANTED])
def test_credentials_are_masked_by_their_looks_or_by_their_names(secret: str, text: str) -> None:
    masked = mask_secrets(text)
    assert "***" in masked
    for part in secret.split():
        assert part not in masked or part == "json"  # a value in quotes ends at its first space
    assert mask_secrets(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "token in ~/.cache/huggingface/token, no token (public models need none)",
        "max_tokens: 1024, tokens 12345 per step, 93,184 tokens of KV memory",
        "api_keys: [{env: DEPLOYKIT_API_KEY}]",
        "set HF_TOKEN to a token that may read it",
        "commit 0123456789abcdef0123456789abcdef01234567",
        "sha256: b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "tokenizer: tokenizer.json; author: nobody; keyboard: none",
        "pip install --force-reinstall torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130",
        "`ssh -p 2222 -N -L 23333:127.0.0.1:23333 wonder`",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask_secrets(text) == text


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("OPENAI_API_KEY", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("DB_PASSWORD", True),
        ("my_cookie", True),
        ("HF_TOKEN_PATH", False),
        ("SSH_AUTH_SOCK", False),
        ("PWD", False),
        ("TOKENIZERS_PARALLELISM", False),
        ("MAX_TOKENS", False),
        ("CUDA_HOME", False),
    ],
)
def test_variables_that_hold_secrets_are_known_by_their_names(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


def test_people_and_places() -> None:
    redact = Redactor(
        {"MY_TOKEN": "plain-looking-value", "PWD": "/srv/x"},
        home=Path("/home/alice"),
        users=["alice", "Alice Liddell", "root"],
        hosts=["wonder.example.com", "wonder", "198.51.100.7", "localhost"],
        secrets=["from-a-file"],
    )
    assert redact("plain-looking-value and from-a-file in /srv/x") == "*** and *** in /srv/x"
    assert redact("/home/alice/models of alice, Alice Liddell") == "~/models of <user>, <user>"
    assert redact("/home/bob/.cache /Users/dora") == "/home/<user>/.cache /Users/<user>"
    assert redact("C:\\Users\\carl\\x") == "C:\\Users\\<user>\\x"
    assert redact("alice@wonder.example.com from 198.51.100.7") == "<user>@<host> from <host>"
    assert redact("malice is wonderful on localhost") == "malice is wonderful on localhost"
    assert redact("process 7 of user root") == "process 7 of user root"  # nobody's name


def test_nothing_that_was_planted_is_in_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In checks, in the environment, in the recipe, in a token file."""
    home = tmp_path / "home" / "alice"
    (home / ".cache/huggingface").mkdir(parents=True)
    (home / ".cache/huggingface/token").write_text("stored-planted-token\n")
    environ = {
        "HOME": str(home),
        "USER": "alice",
        "HF_TOKEN": "planted-env-token",
        "DEPLOYKIT_API_KEY": "planted-api-key",
        "HTTPS_PROXY": "http://bob:planted-proxy@proxy:1",
        "LD_LIBRARY_PATH": f"{home}/lib:/opt/planted-api-key/lib",
        "HOSTNAME": "wonder-7",
        "SSH_CONNECTION": "198.51.100.7 50522 203.0.113.5 22",
        "UNRELATED_VARIABLE": "not-shown-at-all",
    }
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("socket.gethostname", lambda: "wonder-7.example.com")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "version: 1\ndescription: for alice, with hf_PlantedTokenAbcdef0123\n"
        f"model: {{path: {home}/model}}\nserver: {{api_keys: [{{env: DEPLOYKIT_API_KEY}}]}}\n"
    )
    texts = [text for _, text in PLANTED]
    specs = [
        CheckSpec(f"c{i}", "C", lambda _, t=text: Finding("fail", t, t, t, (t,)), category="C")
        for i, text in enumerate(
            [*texts, f"{home}/x alice@wonder-7 stored-planted-token planted-env-token ```"]
        )
    ]
    given = load_recipe(recipe)
    report = examine(given, specs=specs, machine=machine(), recipes=[])
    text = render(report, given=given, environ=environ, redact=this_machine(environ))
    secrets = [part for secret, _ in PLANTED for part in secret.split() if part != "json"]
    secrets += [
        "planted-env-token",
        "planted-api-key",
        "planted-proxy",
        "stored-planted-token",
        "not-shown-at-all",
    ]
    for secret in [*secrets, str(home), "alice", "wonder-7", "198.51.100.7", "203.0.113.5"]:
        assert secret not in text, secret
    assert "HF_TOKEN=***" in text
    assert "DEPLOYKIT_API_KEY" in text  # that there is one is no secret
    assert text.count("```") % 2 == 0  # nothing that was found ends a block
    shown = json.dumps([vars_of(check) for check in report.checks])
    for secret in secrets[: len(PLANTED)]:
        assert secret not in shown  # masked in every output, not in a report alone


def vars_of(check: object) -> dict[str, object]:
    import msgspec

    return msgspec.structs.asdict(check)  # type: ignore[type-var]


def test_a_report_says_everything(tmp_path: Path) -> None:
    finding = Finding("warn", "what it saw", "why", "how", ("a table",))
    specs = [CheckSpec("a", "A", lambda _: finding, category="Group")]
    text = render(examine(specs=specs, machine=machine(), recipes=[]), environ={})
    for words in (
        "## Checks",
        "[Group]",
        "what it saw",
        "why: why",
        "fix: how",
        "a table",
        "## Recipes",
        "## Machine",
    ):
        assert words in text
    for words in ('"model": "AMD EPYC"', "## Packages", "msgspec ", "## Environment", "verdict: warn"):
        assert words in text


def test_a_report_is_written_whole_and_takes_no_files_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = examine(specs=[], machine=machine(), recipes=[])
    path = tmp_path / "report.md"
    write_report(report, path, environ={})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().endswith("```\n")
    before = path.read_text()
    with pytest.raises(ConfigError, match="is there already"):
        write_report(report, path, environ={})
    assert path.read_text() == before
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is there already"):
        check_free(path)
    path.unlink()

    def raced(made: str, target: str) -> None:
        path.write_text("somebody else's")
        raise FileExistsError

    monkeypatch.setattr("os.link", raced)
    with pytest.raises(ConfigError, match="is there already"):
        write_report(report, path, environ={})
    assert path.read_text() == "somebody else's"
    path.unlink()

    def no_links(made: str, target: str) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", no_links)
    write_report(report, path, environ={})
    assert path.is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]  # nothing is left over
    with pytest.raises(ConfigError, match="there is no folder"):
        check_free(tmp_path / "absent" / "report.md")


def test_the_command_refuses_before_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never() -> None:
        raise AssertionError

    path = tmp_path / "there.md"
    path.write_text("mine")
    monkeypatch.setattr("deploykit.doctor.examine", never)
    assert main(["doctor", "--report", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_text() == "mine"
