"""Stop strings: found wherever they begin and end, however the text is cut, with nothing held back without need."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.prompt.stops import StopMatcher


def feed(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.push(piece) for piece in pieces)
    return (text if matcher.matched else text + matcher.flush()), matcher.matched


def test_text_before_the_stop() -> None:
    assert feed(["STOP"], ["one ST", "OP two"]) == ("one ", "STOP")
    assert feed(["STOP"], list("one STOP two")) == ("one ", "STOP")
    assert feed(["STOP"], ["one STO", "RE"]) == ("one STORE", None)
    assert feed(["\n\n"], ["a\n", "b\n", "\nc"]) == ("a\nb", "\n\n")
    assert feed([], ["a", "b"]) == ("ab", None)


def test_only_what_could_become_a_stop_is_held_back() -> None:
    matcher = StopMatcher(["</end>"])
    assert matcher.push("text <") == "text "
    assert matcher.push("/en") == ""
    assert matcher.push("try> more") == "</entry> more"
    assert matcher.push("</end") == ""
    assert matcher.flush() == "</end"


def test_overlapping_beginnings() -> None:
    assert feed(["aab"], list("aaaab")) == ("aa", "aab")
    assert feed(["abab!"], list("ababab!x")) == ("ab", "abab!")


def test_the_first_to_be_complete_wins() -> None:
    assert feed(["abcd", "b"], ["xabcd"]) == ("xa", "b")
    assert feed(["abcd", "b"], list("xabcd")) == ("xa", "b")
    assert feed(["bc", "abc"], ["xabc"]) == ("x", "abc")  # those that end together: the longest


def test_a_long_stop_string() -> None:
    stop = "x" * 255 + "y"
    assert feed([stop], ["x" * 1000, "y", "z"]) == ("x" * 745, stop)


@settings(max_examples=400, deadline=None)
@given(
    st.text("abc", max_size=40),
    st.lists(st.text("abc", min_size=1, max_size=5), max_size=4),
    st.lists(st.integers(1, 5), min_size=1, max_size=40),
)
def test_the_result_does_not_depend_on_the_pieces(text: str, stops: list[str], sizes: list[int]) -> None:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(text[start : start + size])
        start += size
    pieces.append(text[start:])
    ends = [(end, -len(s)) for s in stops for end in range(len(s), len(text) + 1) if text[:end].endswith(s)]
    expected = text if not ends else text[: min(ends)[0] + min(ends)[1]]
    for cut in ([text], list(text), pieces):
        assert feed(stops, cut)[0] == expected


@settings(max_examples=200, deadline=None)
@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_is_held_back_is_the_beginning_of_a_stop(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    out = "".join(matcher.push(char) for char in text)
    if matcher.matched is None:
        held = text[len(out) :]
        assert out + held == text
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)
