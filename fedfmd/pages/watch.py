"""The pages of ``fedfmd watch``: a list of runs, and a run's report with a live panel above it."""

from html import escape

from fedfmd.pages.run.page import html_document, render_page
from fedfmd.pages.training import load_training, render_training
from fedfmd.results.catalogue import Entry
from fedfmd.results.runs import load_run

FOOTER = "Served by <code>fedfmd watch</code> from the run directories; nothing here changes them."


def run_page(one: Entry, events: str) -> str:
    """Return a run's report, which follows ``events``; raises ``UserError`` for a damaged config."""
    panel = _panel(events, f'class="live" data-reported="{one.done} {one.status}"')
    if one.kind == "central":
        return render_training([load_training(one.folder)], live=panel)
    return render_page([load_run(one.folder)], live=panel)


def list_page(title: str, events: str) -> str:
    """Return the page that lists runs and studies as ``events`` names them."""
    top = f"""<header class="top"><p class="eyebrow"><span>fedfmd watch</span></p>
<h1>{escape(title)}</h1></header>
{_panel(events, 'class="live list"')}"""
    main = '<p class="empty" hidden>Nothing has been run here yet; runs are shown as they start.</p>'
    return html_document(title, top, main, FOOTER, {}, live=True)


def missing_page(reason: str = "This run is no longer there.") -> str:
    """Return the page for what cannot be shown."""
    top = '<header class="top"><h1>Not found</h1></header>'
    main = f'<p>{escape(reason)}</p><p><a href="/">All runs</a></p>'
    return html_document("Not found", top, main, FOOTER, {})


def _panel(events: str, attributes: str) -> str:
    return (
        f'<aside id="live" {attributes} data-events="{escape(events)}" aria-label="What goes on now"></aside>'
    )
