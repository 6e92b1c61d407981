"""Markdown against a parser of it: every name comes back as it was written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from fedfmd.pages.markdown import markdown_line, markdown_table

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
MARKED = (
    "<b>bold</b>",
    "a|b",
    "_a_ __b__",
    "$x$ and $y$",
    "*a* `b` ~~c~~",
    "[a](b)",
    "![a](b)",
    "\\",
    "&amp;",
)
LEADING = ("# a", "> a", "- a", "+ a", "1. a", "12) a", "-2.4 [-5.8, +1.0]", "+3", "1.5 x", "---", "* a")


def texts(token: Token) -> str:
    assert {child.type for child in token.children or []} <= {"text", "text_special", "html_inline"}
    assert not any(child.type == "html_inline" for child in token.children or [])
    return "".join(child.content for child in token.children or [])


@pytest.mark.parametrize("name", [*MARKED, *LEADING])
def test_a_name_is_read_as_it_was_written(name: str) -> None:
    head, cell, *_ = (texts(t) for t in READER.parse(markdown_table([[name], [name]])) if t.type == "inline")
    assert head == cell == name
    paragraph = READER.parse(markdown_line(name))
    assert [t.type for t in paragraph] == ["paragraph_open", "inline", "paragraph_close"]
    assert texts(paragraph[1]) == name


@given(
    st.text(alphabet="ab1 .)(][!<>&;#$|_*`~\\-+=:/@", min_size=1)
    .map(lambda t: " ".join(t.split()))
    .filter(bool)
)
def test_so_is_any_text(text: str) -> None:
    inline = [t for t in READER.parse(f"\n{markdown_line(text)}") if t.type == "inline"]
    assert [texts(t) for t in inline] == [text]


def test_math_has_no_dollar_to_begin_with() -> None:
    assert "$" not in markdown_table([["costs $5"], ["$x$"]])
