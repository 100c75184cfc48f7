"""What a model writes can't act on the terminal, wherever its sequences are cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.chat.sanitize import TerminalSanitizer, sanitize

FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain\ttext\nwith ünïcödé 你好 🙂", "plain\ttext\nwith ünïcödé 你好 🙂"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[H\x1b[?1049hcleared", "cleared"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]52;c;Y3VybCBldmls\x1b\\after", "after"),
        ("\x9d0;title\x9cafter", "after"),
        ("\x1bP+q544e\x1b\\after", "after"),
        ("\x1b_Gi=1;AAAA\x1b\\after", "after"),
        ("\x1b(0lqk\x1b(B", "lqk"),
        ("\x1bcreset", "reset"),
        ("over\rwrite\x08\x08", "overwrite"),
        ("bell\x07 del\x7f", "bell del"),
        ("bidi \u202eevil\u202c", "bidi evil"),
        ("half a pair \ud83d.", "half a pair \ufffd."),
        ("\x1b]0;never closed\nnext line", "\nnext line"),
        ("\x1b[31", ""),
        ("\x1b[3\x1b[1mtwice", "twice"),
        ("\x1b[31\u00e9", "\u00e9"),
    ],
)
def test_sequences_are_stripped_and_text_stays(raw, shown):
    assert sanitize(raw) == shown


@given(
    st.text(st.sampled_from("\x1b[]P_^X\\;0123m?\x07\x9b\x9c\x9d\x90\x18\n\t ab\u202eé\ud800"), max_size=40)
)
def test_any_split_gives_the_same_and_never_a_control(text):
    whole = sanitize(text)
    assert not FORBIDDEN.search(whole)
    for size in (1, 2, 3):
        clean = TerminalSanitizer()
        pieces = [clean.feed(text[i : i + size]) for i in range(0, len(text), size)]
        assert "".join(pieces) == whole


def test_a_sequence_without_end_hides_a_bounded_part():
    assert sanitize("\x1b]0;" + "x" * 100_000).endswith("x" * 90_000)
