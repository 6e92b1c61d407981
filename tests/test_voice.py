"""What the command line says beside its results."""

import warnings

import pytest

from fedfmd.cli.voice import show_notes
from fedfmd.errors import InputWarning


def test_a_note_is_said_once_however_many_arms_of_a_study_meet_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # and put back at the end
        show_notes()
        for text in ("one", "two", "one", "one"):
            warnings.warn(text, InputWarning, stacklevel=1)
    assert capsys.readouterr().err.splitlines() == ["note: one", "note: two"]
