"""Lines typed at the prompt, parameters, and event streams."""

from __future__ import annotations

import pytest

from deploykit.chat.client import base_url
from deploykit.chat.commands import Command, Message, Unknown, is_open, parse
from deploykit.chat.conversation import Conversation
from deploykit.chat.params import PARAMS, describe, parse_assignment
from deploykit.chat.sse import MAX_EVENT, Event, SSEError, SSEParser
from deploykit.errors import ConfigError


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("hello", Message("hello")),
        ("  hello  ", Message("hello")),
        ("   ", None),
        ('""""""', None),
        ("exit", Message("exit")),  # a word is a word
        ("/help", Command("help")),
        ("/?", Command("help")),
        ("/quit", Command("bye")),
        ("/set temperature=0.2", Command("set", "temperature=0.2")),
        ("/system You are\nbrief.", Command("system", "You are\nbrief.")),
        ("//help is a command", Message("/help is a command")),
        ("/hlep", Unknown("hlep", "help")),
        ("/xyzzy", Unknown("xyzzy", None)),
        ('"""\nline one\n/line two\n"""', Message("line one\n/line two")),
        ("one \\\ntwo", Message("one \ntwo")),
    ],
)
def test_a_line_means(line, parsed):
    assert parse(line) == parsed


@pytest.mark.parametrize(
    ("text", "is_it"),
    [('"""', True), ('"""a', True), ('"""a\nb"""', False), ("a\\", True), ("a\\\\", False), ("a", False)],
)
def test_enter_goes_on_in_an_open_block(text, is_it):
    assert is_open(text) is is_it


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("temperature=0", ("temperature", 0.0)),
        (" top_p = 0.9 ", ("top_p", 0.9)),
        ("top_k=40", ("top_k", 40)),
        ("seed=18446744073709551615", ("seed", 2**64 - 1)),
        ("stop=END", ("stop", ["END"])),
        ('stop=["\\n", "a=b"]', ("stop", ["\n", "a=b"])),
        ("temperature=default", ("temperature", None)),
    ],
)
def test_a_parameter_is_typed(text, value):
    assert parse_assignment(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "temperature=2.1",
        "temperature=nan",
        "temperature=",
        "temperature",
        "top_p=0",
        "top_k=1.5",
        "top_k=-1",
        "seed=18446744073709551616",
        "max_tokens=0",
        "stop=[1]",
        'stop=[""]',
        "stop=[",
        "min_p=inf",
    ],
)
def test_a_value_out_of_range_is_refused_with_its_range(text):
    with pytest.raises(ConfigError) as caught:
        parse_assignment(text)
    name = text.partition("=")[0]
    assert PARAMS[name].allowed in str(caught.value)


def test_an_unknown_parameter_names_the_near_one():
    with pytest.raises(ConfigError, match="unknown parameter `temprature`") as caught:
        parse_assignment("temprature=1")
    assert caught.value.fix == "did you mean `temperature`?"
    assert "0.25" in describe({"top_p": 0.25})


def test_a_conversation_undoes_and_asks_again():
    talk = Conversation(system="Be brief.")
    talk.ask("one")
    talk.answer("first")
    messages = talk.ask("two")
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert talk.take_back() == "two"  # it failed: nothing was answered
    assert talk.take_back() == "one"
    assert talk.take_back() is None
    assert talk.ask("three") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "three"},
    ]


STREAM = 'data: {"a": "é"}\n\n: comment\r\nid: 7\r\nevent: error\r\ndata: x\r\ndata:y\r\n\r\n\n\ndata: z\r\rdata: cut'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_cut_from_any_chunks(size):
    parser, events = SSEParser(), []
    data = b"\xef\xbb\xbf" + STREAM.encode()
    for i in range(0, len(data), size):
        events += parser.feed(data[i : i + size])
    assert events == [Event('{"a": "é"}'), Event("x\ny", "error"), Event("z")]


def test_an_event_without_end_or_of_no_text_is_refused():
    with pytest.raises(SSEError):
        SSEParser().feed(b"data: " + b"x" * (MAX_EVENT + 1))
    with pytest.raises(SSEError):
        SSEParser().feed(b"data: \xff\xfe\n\n")


@pytest.mark.parametrize(
    ("typed", "base"),
    [
        ("http://127.0.0.1:23333", "http://127.0.0.1:23333/v1"),
        ("http://127.0.0.1:23333/", "http://127.0.0.1:23333/v1"),
        ("https://host/api/v1/", "https://host/api/v1"),
        ("http://host/v1/chat/completions", "http://host/v1"),
    ],
)
def test_the_base_of_a_url(typed, base):
    assert base_url(typed) == base


@pytest.mark.parametrize(
    "typed", ["http://", "ftp://host", "http://a:b@host", "http://host:99999", "http://h?x=1"]
)
def test_a_bad_url_is_refused(typed):
    with pytest.raises(ConfigError):
        base_url(typed)
