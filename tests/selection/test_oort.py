"""Oort against its rules, written down a second time over plain dictionaries."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.records.rows import ClientRow
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.seeds import numpy_rng
from fedfmd.selection.cohort import Selector
from fedfmd.selection.history import SelectionHistory
from fedfmd.selection.oort import Profiles
from fedfmd.training.losses import example_losses

CLIENTS, COHORT, ROUNDS = 40, 8, 90
SIZES = [10 + 7 * (client % 9) for client in range(CLIENTS)]
SECONDS = [1.0 + (client * 17 % 23) / 3 for client in range(CLIENTS)]
KEYS = {
    "pacer_rounds": 10,
    "preferred_percentile": 0.5,
    "blacklist_after": 12,
    "cut_off": 0.9,
    "window": 2.0,
    "clip_percentile": 0.9,
}


def loss(client: int, round: int) -> float:
    """Return a client's root mean square loss: most fall, some stay high, some are outliers."""
    return (20.0 if client == 3 else 1.0) * (0.2 + (client % 5) / 2 * math.exp(-round / 15))


def config_of(**changes: Any) -> ExperimentConfig:
    return parse_config(
        {
            "partition": {"clients": CLIENTS},
            "server": {"cohort": COHORT},
            "devices": {"kind": "lognormal"},
            "selection": {k: v for k, v in ({"kind": "oort"} | KEYS | changes).items() if v is not None},
        }
    )


class Oracle:
    """Oort's training selector: an arm per client, with its utility, last round, count and duration."""

    def __init__(self, without: str = ""):
        self.without = without
        self.arms: dict[int, dict[str, float]] = {}
        self.history = [0.0]
        self.percentile, self.explore = 0.5, 0.9
        self.exploited: list[int] = []

    def select(self, round: int) -> list[int]:
        rng = numpy_rng(0, "cohort", round, 0)
        self.pace(round)
        durations = sorted(self.arms[c]["duration"] if c in self.arms else SECONDS[c] for c in range(CLIENTS))
        limit = durations[min(int(CLIENTS * self.percentile), CLIENTS - 1)]
        if self.without == "speed" or self.percentile >= 1:
            limit = math.inf
        often = sorted((-arm["count"], c) for c, arm in self.arms.items() if arm["count"] > 12)
        banned = set() if self.without == "blacklist" else {c for _, c in often[: int(0.3 * CLIENTS)]}
        fresh = [c for c in range(CLIENTS) if c not in self.arms]
        self.explore = max(0.2, self.explore * 0.98)
        share = self.explore if fresh else 0.0
        score = self.score(round, limit, [c for c in sorted(self.arms) if c not in banned])
        places = min(int(COHORT * (1 - share) + 1e-9), len(score))
        chosen: list[int] = []
        if places:
            order = sorted(score, key=lambda c: (-score[c], c))
            least = 0.9 * score[order[min(places, len(order) - 1)]]
            good = order if self.without == "cut-off" else [c for c in order if score[c] >= least]
            p = np.array([score[c] for c in good])
            chosen = [good[i] for i in rng.choice(len(good), places, replace=False, p=p / p.sum())]
        self.exploited = list(chosen)
        places = min(COHORT - len(chosen), len(fresh))
        worth = {c: SIZES[c] * min(1, limit / SECONDS[c]) ** 2 for c in fresh}
        best = sorted(fresh, key=lambda c: (-worth[c], c))
        best = best if self.without == "window" else best[: 2 * places]
        if places:
            p = np.array([worth[c] for c in best])
            chosen += [best[i] for i in rng.choice(len(best), places, replace=False, p=p / p.sum())]
        while len(chosen) < COHORT:  # the last few that were never used are fewer than the places
            client = int(rng.integers(CLIENTS))
            chosen += [client] if client not in banned | set(chosen) else []
        return sorted(chosen)

    def score(self, round: int, limit: float, clients: list[int]) -> dict[int, float]:
        if not clients:
            return {}
        utilities = sorted(self.arms[c]["utility"] for c in clients)
        clip = utilities[min(int(0.9 * len(utilities)), len(utilities) - 1)]
        if self.without == "clip":
            clip = math.inf
        least = 0.999 * utilities[0]
        found = {}
        for c in clients:
            arm = self.arms[c]
            bonus = 0 if self.without == "bonus" else math.sqrt(0.1 * math.log(round) / arm["last"])
            value = (min(arm["utility"], clip) - least) / max(utilities[-1] - least, 1e-4) + bonus
            found[c] = value * min(1, limit / arm["duration"]) ** 2
        return found

    def pace(self, round: int) -> None:
        if self.without == "pacer" or round < 20 or round % 10:
            return
        now, before = sum(self.history[-10:]), sum(self.history[-20:-10])
        if abs(now - before) <= 0.1 * before:
            self.percentile = min(1, self.percentile + 0.05)
        elif abs(now - before) >= 5 * before:
            self.percentile = max(0.05, self.percentile - 0.05)

    def learn(self, round: int, chosen: list[int]) -> None:
        for c in chosen:
            count = self.arms[c]["count"] + 1 if c in self.arms else 1
            utility = SIZES[c] * loss(c, round)
            self.arms[c] = {"utility": utility, "last": round, "count": count, "duration": SECONDS[c]}
        gained = [self.arms[c]["utility"] for c in self.exploited]
        self.history.append(sum(gained) / max(1, len(gained)))


def oracle_counts(without: str = "") -> Counter[int]:
    oracle, counts = Oracle(without), Counter[int]()
    for round in range(1, ROUNDS + 1):
        chosen = oracle.select(round)
        oracle.learn(round, chosen)
        counts.update(chosen)
    return counts


def counts_of(config: ExperimentConfig) -> Counter[int]:
    history, counts, profiles = SelectionHistory(), Counter[int](), Profiles(SIZES, SECONDS)
    for round in range(1, ROUNDS + 1):
        drawn = Selector(config, history, profiles).draw(round)
        rows = [
            ClientRow(
                round=round, client=c, examples=SIZES[c], device_seconds=SECONDS[c], loss_rms=loss(c, round)
            )
            for c in drawn.chosen
        ]
        history.update(rows, drawn=drawn)
        history = SelectionHistory.from_json(history.to_json())
        counts.update(drawn.chosen)
    return counts


def test_selection_counts_are_those_of_the_rules() -> None:
    found = counts_of(config_of())
    assert found == oracle_counts()
    for without in ("speed", "blacklist", "cut-off", "window", "clip", "bonus", "pacer"):
        assert found != oracle_counts(without), without


def test_each_key_changes_who_is_asked() -> None:
    found = counts_of(config_of())
    for key, value in {
        "exploration": 0.3,
        "exploration_decay": 0.5,
        "exploration_least": 0.9,
        "clip_percentile": 0.5,
        "staleness_bonus": 0.0,
        "cut_off": 0.1,
        "window": 1.0,
        "slowness_exponent": 0.0,
        "preferred_percentile": 0.1,
        "pacer_rounds": 3,
        "pacer_step": 0.5,
        "pacer_flat": 0.0,
        "pacer_sharp": 0.2,
        "blacklist_after": 0,
        "blacklist_share": 0.05,
    }.items():
        assert counts_of(config_of(**{key: value})) != found, key
    fixed = config_of(preferred_seconds=2.0, pacer_rounds=None, preferred_percentile=None)
    assert counts_of(fixed) != found


def test_who_never_answers_is_not_explored_for_ever() -> None:
    """Half of the clients have budgets that no plan fits: after one try each, the others are asked."""
    config, history, profiles = config_of(), SelectionHistory(), Profiles(SIZES, SECONDS)
    for round in range(1, 21):
        drawn = Selector(config, history, profiles).draw(round)
        rows = [
            ClientRow(round=round, client=c, examples=SIZES[c], status="dropped" if c % 2 else "completed")
            for c in drawn.chosen
        ]
        history.update(rows, drawn=drawn)
        if round > 6:
            assert any(client % 2 == 0 for client in drawn.chosen)
    assert history.silent == set(range(1, CLIENTS, 2))
    assert [client for client in drawn.chosen if client % 2] == []


def test_the_loss_is_the_root_of_the_mean_square_of_the_first_epoch(tmp_path: Path) -> None:
    """One step of all examples: the losses are those of the initial model."""
    logits, labels = torch.randn(2, 6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    each = example_losses(logits, labels)
    for i in range(6):
        both = sum(cross_entropy(exit[i : i + 1], labels[i : i + 1]) for exit in logits)
        assert torch.isclose(each[i], torch.as_tensor(both))
    directory = start_run(
        parse_config(
            {
                "data": {"train_samples": 100, "test_samples": 20},
                "partition": {"scheme": "sampled", "clients": 3, "samples_per_client": 10},
                "model": {"width": 0.25, "conv": "static"},
                "client": {"batch_size": 10, "epochs": 3, "learning_rate": 1e-6, "augment": False},
                "server": {"rounds": 1, "cohort": 3},
                "devices": {"kind": "lognormal"},
                "selection": {"kind": "oort"},
                "backend": {"kind": "inline"},
            }
        ),
        tmp_path / "run",
    )
    execute(directory, InlineExecutor)
    for row in directory.client_rows(1):
        assert row.loss_rms is not None
        assert row.loss_rms >= row.train_loss - 1e-5 == pytest.approx(row.loss_rms, rel=0.05)
