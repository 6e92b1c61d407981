"""One drawing of a figure for three formats: PNG, SVG and PDF are printed at once.

What matplotlib spends on a figure it spends before a renderer is called: on ticks, the layout of text, and
transforms. A canvas of its own does that for each format; here what is drawn goes to all of their renderers.
"""

import io
from typing import Any, cast

import numpy as np
from matplotlib.backend_bases import FigureCanvasBase, GraphicsContextBase, RendererBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.backends.backend_pdf import PdfFile, RendererPdf
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, TransformedBbox, TransformedPath
from PIL import Image

from fedfmd.pages.print_font import FAMILY

Agg, Svg, Pdf, File = cast(Any, (RendererAgg, RendererSVG, RendererPdf, PdfFile))  # untyped in matplotlib
POINTS = 72
"""Dots per inch of the vector formats, and of what is drawn on a press."""
DPI = 300
"""Of PNG, and of images in the vector formats."""
ENLARGED = DPI / POINTS
"""Pixels of PNG per point."""
COMPRESSION = 3
"""Level of zlib for PNG: a tenth larger than by default, in two thirds of the time."""


def print_figure(figure: Figure) -> dict[str, bytes]:
    """Draw a figure whose layout is settled; returns the bytes of each format by suffix, always the same."""
    return lay_on(figure).printed(figure)


def lay_on(figure: Figure) -> "Press":
    """Make a figure measure its text as the press prints it, in points; returns the press."""
    if not isinstance(figure.canvas, Bed):
        figure.set_dpi(POINTS)
        Bed(figure)
    return cast(Bed, figure.canvas).press


class Bed(FigureCanvasBase):
    """The canvas of a figure that is laid out for the press."""

    def __init__(self, figure: Figure) -> None:
        super().__init__(figure)
        self.press = Press()

    def get_renderer(self) -> "Press":
        """Return what measures the text of the figure."""
        return self.press


class Press(RendererBase):
    """Measures text without hinting, and draws on a page of each format at a time, in points from below."""

    def printed(self, figure: Figure) -> dict[str, bytes]:
        """Print a figure; returns the bytes of each format by suffix."""
        inches = figure.get_size_inches()
        width, self._height = inches * POINTS
        svg, pdf = io.StringIO(), io.BytesIO()
        file = File(pdf, metadata={"CreationDate": None, "Creator": "fedfmd", "Producer": None})
        file.newPage(*inches)
        self._agg = Agg(*inches * DPI, DPI)
        self._svg = Svg(width, self._height, svg, image_dpi=DPI, metadata={"Date": None})
        self._pdf = Pdf(file, DPI, *inches[::-1])
        self._vectors: Any = self._svg, self._pdf
        figure.draw(self)
        self._svg.finalize()
        self._pdf.finalize()
        file.finalize()
        file.close()
        return {"png": _png(self._agg), "svg": _named(svg.getvalue()).encode(), "pdf": pdf.getvalue()}

    def flipy(self) -> bool:
        """Return that y grows upwards."""
        return False

    def new_gc(self) -> Any:
        """Return what holds colours and lines: that of PDF, which has more than the others need."""
        return self._pdf.new_gc()

    def get_image_magnification(self) -> float:
        """Return the pixels of images per point."""
        return ENLARGED

    def open_group(self, s: str, gid: str | None = None) -> None:
        """Begin a group of SVG."""
        self._svg.open_group(s, gid)

    def close_group(self, s: str) -> None:
        """End a group of SVG."""
        self._svg.close_group(s)

    def draw_path(self, gc: Any, path: Any, transform: Any, *face: Any) -> None:
        """Draw a path on each page."""
        self._agg.draw_path(_enlarged(gc), path, _larger(transform), *face)
        for page in self._vectors:
            page.draw_path(gc, path, transform, *face)

    def draw_markers(
        self, gc: Any, marker_path: Any, marker_trans: Any, path: Any, trans: Any, *more: Any
    ) -> None:
        """Draw a marker at the points of a path on each page."""
        self._agg.draw_markers(_enlarged(gc), marker_path, _larger(marker_trans), path, _larger(trans), *more)
        for page in self._vectors:
            page.draw_markers(gc, marker_path, marker_trans, path, trans, *more)

    def draw_path_collection(  # type: ignore[override]
        self,
        gc: Any,
        master: Any,
        paths: Any,
        transforms: Any,
        offsets: Any,
        offset_trans: Any,
        *looks: Any,
        **more: Any,
    ) -> None:
        """Draw a collection of paths on each page."""
        self._agg.draw_path_collection(
            _enlarged(gc), _larger(master), paths, transforms, offsets, _larger(offset_trans), *looks, **more
        )
        for page in self._vectors:
            page.draw_path_collection(gc, master, paths, transforms, offsets, offset_trans, *looks, **more)

    def draw_quad_mesh(self, gc: Any, master: Any, *mesh: Any) -> None:
        """Draw a mesh, as that of a bar of colours, as an image: viewers show gaps between its vectors."""
        columns, rows, corners, offsets, offset_trans, *looks = mesh
        page = Agg(self._agg.width, self._agg.height, DPI)
        page.draw_quad_mesh(
            _enlarged(gc), _larger(master), columns, rows, corners, offsets, _larger(offset_trans), *looks
        )
        drawn = np.asarray(page.buffer_rgba())[::-1]  # from below
        ys, xs = (np.flatnonzero(drawn[..., 3].any(axis=axis)) for axis in (1, 0))
        image = drawn[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        below = self._height - (len(drawn) - ys[0]) / ENLARGED
        self.draw_image(self.new_gc(), xs[0] / ENLARGED, below, image)

    def draw_image(self, gc: Any, x: float, y: float, im: Any, transform: Any = None) -> None:
        """Draw an image, which has the pixels of the PNG, on each page."""
        self._agg.draw_image(_enlarged(gc), x * ENLARGED, y * ENLARGED, im)
        for page in self._vectors:
            page.draw_image(gc, x, y, im, transform)

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, *more: Any, **kw: Any
    ) -> None:
        """Draw text on each page."""
        below = self._height - y
        self._agg.draw_text(_enlarged(gc), x * ENLARGED, below * ENLARGED, s, prop, angle, *more, **kw)
        self._svg.draw_text(gc, x, below, s, prop, angle, *more, **kw)
        self._pdf.draw_text(gc, x, y, s, prop, angle, *more, **kw)


def _larger(transform: Any) -> Affine2D:
    """Return a transform to points as one to pixels."""
    return Affine2D(transform.get_matrix()).scale(ENLARGED)


def _enlarged(gc: Any) -> Any:
    """Return a graphics context whose clipping is in pixels; lines are in points for every renderer."""
    large: Any = GraphicsContextBase()
    large.copy_properties(gc)
    box = gc.get_clip_rectangle()
    if box is not None:
        large.set_clip_rectangle(TransformedBbox(box, Affine2D().scale(ENLARGED)))
    path, transform = gc.get_clip_path()
    large.set_clip_path(None if path is None else TransformedPath(path, _larger(transform)))
    return large


def _png(page: Any) -> bytes:
    image = io.BytesIO()
    shown = Image.fromarray(np.asarray(page.buffer_rgba())).convert("RGB")
    shown.save(image, "png", dpi=(DPI, DPI), compress_level=COMPRESSION)
    return image.getvalue()


def _named(svg: str) -> str:
    """Return an SVG without the family that no viewer has: those that it was made from follow it."""
    return svg.replace(f"{FAMILY!r}, ", "")
