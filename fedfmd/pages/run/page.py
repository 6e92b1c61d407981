"""One self-contained HTML page: no network, no plotting library, every word of a run escaped.

The page is about 75 kB of style and script of our own plus the data; a general plotting library would add
almost 5 MB to every report, and would know neither our themes nor the tables behind the figures. A
content-security policy admits only the scripts named by their hash.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from fedfmd import units
from fedfmd.pages.palette import style_sheet
from fedfmd.pages.run.head import comparison_head, run_head
from fedfmd.pages.run.payload import page_data, unique_labels
from fedfmd.pages.run.sections import all_sections
from fedfmd.results.runs import Run

LIVE_POLICY = "connect-src 'self'; "
FOOTER = """Accuracies are fractions of the test set, or of clients' own images where that is said. Measured
seconds and simulated device seconds are never added. Bytes are payload unless they are called wire bytes. The
figures for print are in <code>figures</code>, all data in <code>tables</code>, beside this page."""


def render_page(runs: Sequence[Run], live: str = "") -> str:
    """Return the page for one run, or the comparison of several; ``live`` is the panel of a served page."""
    labels = unique_labels(runs)
    data = page_data(runs, labels)
    head = run_head(runs[0]) if len(runs) == 1 else comparison_head(runs, labels)
    title = f"{runs[0].name}: federated run" if len(runs) == 1 else f"{len(runs)} federated runs compared"
    script = asset("page.js") + asset("federated.js") + asset("clients.js")
    return html_document(
        title, live + head, all_sections(runs, labels), FOOTER, data, script, live=bool(live)
    )


def html_document(
    title: str, top: str, main: str, footer: str, data: Any, script: str = "", *, live: bool = False
) -> str:
    """Return a whole page: ``top``, ``main`` and ``footer`` are HTML, ``title`` is text.

    ``script`` reads ``data`` and defines figures and tables, which ``board.js`` draws by ``chart.js``.
    A ``live`` page is one that is served, and ``watch.js`` keeps it and its panel up to date; no other page
    connects to anything.
    """
    scripts = [units.script() + asset("chart.js"), *([script, asset("board.js")] if script else [])]
    scripts += [asset("watch.js")] if live else []
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"{LIVE_POLICY if live else ''}script-src {' '.join(map(_hash, scripts))}"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="fedfmd">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style_sheet()}{asset("page.css")}</style>
</head>
<body>
<a class="skip" href="#results">Skip to the results</a>
{top}
<main id="results">
<noscript><p class="notes">The figures of this page are drawn by a script, which is switched off here. The
same figures are in the folder <code>figures</code> beside this page, their data in <code>tables</code>.</p>
</noscript>
{main}
</main>
<footer><p>{footer}</p></footer>
<script type="application/json" id="report-data">{safe_json(data)}</script>
{"".join(f"<script>{text}</script>" for text in scripts)}
</body>
</html>
"""


def safe_json(data: Any) -> str:
    """Return JSON that cannot end the ``<script>`` element it stands in, or start a comment in it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def asset(name: str) -> str:
    """Return one of the style and script files of a page."""
    return (files("fedfmd.pages") / "assets" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
