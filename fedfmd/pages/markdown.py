"""Markdown: texts and tables in which a name is read as it was written, whatever it holds."""

import re
from collections.abc import Sequence

MARKS = {
    "\\": r"\\", "`": r"\`", "*": r"\*", "_": r"\_", "|": r"\|",
    "&": "&amp;", "<": "&lt;", "$": "&#36;", "~": "&#126;",
}  # fmt: skip
"""What has a meaning anywhere in a line; not every dialect lets a backslash stand before the last four."""
OPENS = re.compile(r"^(\d*)([#>]|[+-](?= |$)|-(?=[ -]*$)|(?<=\d)[.)](?= |$))")
"""How a line starts that is a heading, a quotation, a rule or an item of a list."""


def markdown_text(text: str) -> str:
    """Escape a text within a line, such as the cell of a table."""
    line = "".join(MARKS.get(character, character) for character in " ".join(text.split()))
    return line.replace("](", r"]\(")


def markdown_line(text: str) -> str:
    """Escape a text that stands alone in a line: a paragraph, or an item of a list."""
    return OPENS.sub(r"\1\\\2", markdown_text(text), count=1)


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Lay out a head and rows of cells; the first column holds names, the others figures."""
    head, *body = ([markdown_text(cell) for cell in line] for line in lines)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *body))
