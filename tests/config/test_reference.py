"""The reference of keys: the page stands as the code makes it, and its samples are configs that work."""

import tomllib
from pathlib import Path

import pytest

from fedfmd.config.experiment import parse_config
from fedfmd.config.reference import STUDY_SAMPLE, page_text, sample, sections, with_reference
from fedfmd.config.study import StudyConfig

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "config.md"


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_reference(text) == text, "python -m fedfmd.config.reference docs/reference/config.md"


@pytest.mark.parametrize("name", sections())
def test_the_sample_of_a_section_works(name: str) -> None:
    text = sample(name)
    assert not text or name in tomllib.loads(text)
    parse_config(tomllib.loads(text))


def test_the_sample_of_a_study_is_one() -> None:
    assert StudyConfig.model_validate(tomllib.loads(STUDY_SAMPLE)).name == "budgets"


def test_a_row_says_range_default_unit_and_condition() -> None:
    rows = {line.split("`")[1]: line for line in page_text().splitlines() if line.startswith("| `")}
    assert rows["alpha"].startswith("| `alpha` | number above 0 | `0.5` | Concentration")
    assert "Only with a partition.scheme that takes alpha" in rows["alpha"]
    assert rows["downlink_bytes"].split(" | ")[1].endswith(", in B")
    assert "`fmdconv`" in rows["conv"]


def test_keys_of_several_sections_are_told_once_and_linked() -> None:
    text = page_text()
    assert text.count("| `bytes_fraction` |") == 1
    assert "### `[devices.median]`\n\nThe keys of [`[[devices.tiers]]`](#devicestiers).\n" in text
    assert "### `[devices.tiers.budget]`\n\nThe keys of [`[budget]`](#budget).\n" in text
