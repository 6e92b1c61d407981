"""A study as one self-contained HTML page, made of the parts of a run's report."""

from collections.abc import Sequence

from fedfmd.pages.run.page import asset, html_document
from fedfmd.pages.study.head import study_head
from fedfmd.pages.study.looks import Looks
from fedfmd.pages.study.payload import study_data
from fedfmd.pages.study.sections import study_sections
from fedfmd.results.findings import Findings
from fedfmd.results.trials import Trial
from fedfmd.studies.plan import Study
from fedfmd.studies.runner import RunOutcome

FOOTER = """Accuracies are fractions of the test set, or of clients' own images where that is said. Nothing is
chosen on the test set: the best round and the cost to a target are chosen by validation images, and absent
without any. Measured seconds depend on what else the machine did; MACs and bytes do not. The figures for
print are in <code>figures</code>, all data in <code>tables</code>, beside this page."""


def render_study(
    study: Study,
    findings: Findings,
    looks: Looks,
    trials: Sequence[Trial],
    outcomes: Sequence[RunOutcome],
    notes: Sequence[str] = (),
) -> str:
    """Return the page; ``notes`` stand on top, with what its own parts have to say."""
    return html_document(
        f"{study.name}: a study",
        study_head(study, findings.first, looks, trials, outcomes, notes),
        study_sections(study, findings, looks, trials, outcomes),
        FOOTER,
        study_data(findings, looks, trials),
        asset("study.js"),
    )
