"""One drawing for three formats: each page is what matplotlib's own canvas of that format draws."""

import io
import re
import zlib

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from fedfmd.pages.paper import legend_above, line_style, named, paper_style, settle
from fedfmd.pages.press import DPI, print_figure

NUMBER = re.compile(rb"-?\d+\.\d+")


def streams(pdf: bytes) -> list[bytes]:
    """Return what is compressed in a PDF file, in its order."""
    found = re.findall(rb"/Filter /FlateDecode.*?stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    return [zlib.decompress(stream) for stream in found]


def everything() -> Figure:
    """Draw every kind of thing that figures of reports have."""
    figure = Figure(figsize=(7.16, 2.6))
    left, middle, right = figure.subplots(1, 3)
    for i in range(3):
        left.plot(range(20), np.sin(np.arange(20) / (3 + i)), markevery=4, label=f"line {i}", **line_style(i))
    left.fill_between(range(20), -0.4, 0.4, step="post", alpha=0.2, linewidth=0)
    left.plot([0, 40], [0, 4], clip_on=True)
    left.set(xlim=(0, 19), ylim=(-1, 1), xlabel="Rounds", ylabel="An axis with a name")
    middle.bar(range(4), [3, 1, 2, 4], hatch="//", edgecolor="black")
    middle.scatter(range(30), np.arange(30) % 5, s=np.arange(30), c=np.arange(30), alpha=0.5)
    middle.errorbar([1, 2], [2, 3], yerr=[0.3, 0.4])
    middle.set_xticks(range(4), ["one", "two", "three", "four"], rotation=30)
    shades = right.imshow(np.arange(35).reshape(5, 7), aspect="auto", interpolation="nearest")
    figure.colorbar(shades, ax=right, label="Shades")
    legend_above(figure, named(left))
    settle(figure)
    return figure


@pytest.fixture(scope="module")
def printed() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The pages of the press, and those of matplotlib's canvases."""
    own = {name: io.BytesIO() for name in ("png", "svg", "pdf")}
    with paper_style():
        figure = everything()
        pages = print_figure(figure)
        figure.set_dpi(DPI)
        FigureCanvasAgg(figure).print_png(own["png"])
        figure.set_dpi(DPI)
        FigureCanvasSVG(figure).print_svg(own["svg"], metadata={"Date": None})
        figure.set_dpi(DPI)
        about = {"CreationDate": None, "Creator": "fedfmd", "Producer": None}
        FigureCanvasPdf(figure).print_pdf(own["pdf"], metadata=about)
    return pages, {name: page.getvalue() for name, page in own.items()}


def test_the_png_differs_by_a_pixel_at_the_edges_of_letters(printed):
    ours, theirs = (np.asarray(Image.open(io.BytesIO(pages["png"])).convert("RGB"), int) for pages in printed)
    assert ours.shape == theirs.shape
    assert (abs(ours - theirs).max(axis=2) > 64).mean() < 0.01
    assert Image.open(io.BytesIO(printed[0]["png"])).info["dpi"] == pytest.approx((DPI, DPI), rel=1e-3)


def drawn(pdf: bytes) -> list[list[bytes]]:
    """What a file draws, numbers to a millionth of a point: the last bit of a sum is not the drawing's."""
    return [
        [b"%.6f" % float(token) if NUMBER.fullmatch(token) else token for token in stream.split()]
        for stream in streams(pdf)
    ]


def test_the_pdf_draws_the_same(printed):
    ours, theirs = (drawn(pages["pdf"]) for pages in printed)
    assert len(ours) > 3
    assert ours == theirs


def test_the_svg_has_the_same_parts_and_text_in_the_fonts_of_a_viewer(printed):
    parts = r"<(?!g\b)(\w+)|>([^<>]+)</text>"  # but for the group of what is an image
    ours, theirs = (re.findall(parts, pages["svg"].decode()) for pages in printed)
    assert ours == theirs
    assert "fedfmd print" not in printed[0]["svg"].decode()
