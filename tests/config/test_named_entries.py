"""Keys that go on with the name of an entry of a list, as that of a tier."""

from typing import Any

import pytest

from fedfmd.config.documents import drop_key, has_key, leaves, set_key, split_override
from fedfmd.config.experiment import changed, changed_keys, parse_config
from fedfmd.errors import UserError

TIERS = {"devices": {"kind": "tiers", "tiers": [{"name": "strong"}, {"name": "weak"}, {"name": "weak.old"}]}}


def test_a_key_names_a_tier():
    config = changed(
        TIERS, ["devices.tiers.weak.budget.macs_fraction=0.25", "devices.tiers.weak.old.share=3.0"]
    )
    shown = [(tier.name, tier.share, tier.budget.macs_fraction) for tier in config.devices.tiers]
    assert shown == [("strong", 1.0, None), ("weak", 1.0, 0.25), ("weak.old", 3.0, None)]
    assert "budget" not in TIERS["devices"]["tiers"][1]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "devices.tiers.weka.share=2.0",
            "devices.tiers has no entry of that name (there: strong, weak, weak.old)",
        ),
        ("devices.tiers.weak=2.0", "is a whole table; name a key of it, as devices.tiers.weak.KEY"),
        ("devices.tiers.weak.shere=2.0", "did you mean share?"),
    ],
)
def test_a_name_that_is_not_there_is_refused(override, expected):
    with pytest.raises(UserError) as caught:
        changed(TIERS, [override])
    assert expected in str(caught.value)


def test_without_tiers_the_message_says_what_they_are():
    with pytest.raises(
        UserError, match=r"must be a list of tables, each with a name; then devices.tiers.NAME"
    ):
        changed({"devices": {"kind": "tiers"}}, ["devices.tiers.weak.share=2.0"])


def test_a_value_that_is_set_is_not_shared():
    value: dict[str, object] = {"name": "a"}
    document: dict[str, object] = {}
    set_key(document, "list", [value], "test")
    set_key(document, "list.a.x", 1, "test")
    assert document == {"list": [{"name": "a", "x": 1}]}
    assert value == {"name": "a"}


def test_places_by_name():
    document = {"list": [{"name": "a", "x": 1}, {"name": "b", "x": 2}]}
    assert has_key(document, ("list", "b", "x"))
    assert not has_key(document, ("list", "c", "x"))
    drop_key(document, ("list", "b", "x"))
    assert document["list"][1] == {"name": "b"}


def test_a_key_of_a_tier_that_does_not_count_is_called_by_its_name():
    tier = {"name": "weak", "availability": 0.5}
    with pytest.raises(UserError, match=r"devices\.tiers\.weak\.availability = 0\.5: counts only with"):
        parse_config({"devices": {"kind": "tiers", "tiers": [tier]}})


@pytest.mark.parametrize(
    "override", ['algorithms."pkg.mine:Algo".alpha=0.1', "algorithms.pkg.mine:Algo.alpha=0.1"]
)
def test_an_algorithm_of_ones_own_is_set_as_toml_writes_it(override: str) -> None:
    document: dict[str, Any] = {}
    set_key(document, "algorithms.feddyn.alpha", 0.2, "test")
    set_key(document, *split_override(override), "test")
    assert document == {"algorithms": {"feddyn": {"alpha": 0.2}, "pkg.mine:Algo": {"alpha": 0.1}}}


def test_a_difference_in_a_tier_has_the_key_that_sets_it():
    before = parse_config(TIERS)
    assert changed_keys(before, changed(TIERS, ["devices.tiers.weak.old.budget.macs_fraction=0.25"])) == {
        "devices.tiers.weak.old.budget.macs_fraction": (None, 0.25)
    }
    fewer = parse_config({"devices": {"kind": "tiers", "tiers": TIERS["devices"]["tiers"][:2]}})
    assert all(key.startswith("devices.tiers.weak.old.") for key in changed_keys(before, fewer))


@pytest.mark.parametrize(
    "value", [[], {}, [1, 2], [{"name": "a"}, {"name": "a"}], [{"name": ["a"]}], [{"name": "a"}, {}], "text"]
)
def test_a_list_without_names_of_its_own_is_a_value(value):
    assert leaves({"key": value}) == {"key": value}
