"""Figures in the pages are those of the files that are committed beside them, rounded half up."""

import csv
import gzip
import json
import re
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "benchmarks" / "figures"
DATA = ROOT / "docs" / "results" / "data"
NETWORKS = {
    "ResNet-18 static": "static",
    "static": "static",
    "CondConv": "condconv",
    "DyConv": "dyconv",
    "ODConv": "odconv",
    "FMDConv": "fmdconv",
    "FMDConv, steps within the backward pass": "fmdconv:fused",
    "FMDConv, plain formulation": "fmdconv:plain",
}
ARMS = {
    ("static", "narrower"): "static kind=width",
    ("squeeze-and-excitation", "narrower"): "SE kind=width",
    ("FMDConv, K = 1", "narrower"): "FMDConv K=1 kind=width",
    ("FMDConv, K = 4", "narrower"): "FMDConv K=4 kind=width",
    ("ODConv, K = 4", "narrower"): "ODConv K=4 kind=width",
    ("static", "left out"): "static kind=drop",
    ("FMDConv, K = 4", "left out"): "FMDConv K=4 kind=drop",
    ("KernelWarehouse, 1x", "left out"): "KernelWarehouse 1x kind=drop",
    ("FMDConv, K = 4", "fewer steps"): "FMDConv K=4 kind=partial",
    ("FMDConv, K = 4", "by budget"): "FMDConv K=4 kind=auto",
}
RUNS = {
    ("CIFAR-10 (JPEG copies)", "IID"): "t1-cifar10-iid",
    ("CIFAR-10 (JPEG copies)", "Dirichlet(0.5)"): "t1-cifar10-dirichlet",
    ("CIFAR-10 (JPEG copies)", "2 labels"): "t1-cifar10-2labels",
    ("CIFAR-10 (JPEG copies)", "3 labels"): "t1-cifar10-3labels",
    ("Fashion-MNIST", "IID"): "t1-fashion-mnist-iid",
    ("Fashion-MNIST", "Dirichlet(0.5)"): "t1-fashion-mnist-dirichlet",
    ("Fashion-MNIST", "2 labels"): "t1-fashion-mnist-2labels",
    ("Fashion-MNIST", "3 labels"): "t1-fashion-mnist-3labels",
}


def table(page: str, head: str) -> Iterator[list[str]]:
    """Give the cells of the rows of the table in a page whose head begins so."""
    text = (ROOT / "docs" / page).read_text()
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    assert len(lines) > 2
    for line in lines:
        yield [cell.strip().strip("*") for cell in line.strip()[1:-1].split("|")]


def rounded(value: float | str, places: int = 0) -> str:
    exact = Decimal(str(value)).quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP)
    return f"{exact if exact else abs(exact):,f}"


def steps(name: str) -> dict[str, dict[str, Any]]:
    return {row["network"]: row for row in json.loads((FIGURES / f"step-{name}.json").read_text())["rows"]}


def check_ratio(cell: str, row: dict[str, Any], what: str, unit: str) -> None:
    """Compare a cell such as ``1.20`` or ``1 (91 ms)`` with a measured ratio and the value behind it."""
    ratio, absolute = re.fullmatch(r"([\d.]+)(?: \(([\d,]+) \w+\))?", cell).groups()  # type: ignore[union-attr]
    assert float(ratio) == row[f"{what} x"]
    if absolute:
        assert absolute == rounded(row[f"{what} {unit}"])


def test_steps_of_a_resnet18() -> None:
    measured = {batch: steps(f"resnet18-batch{batch}") for batch in (8, 16, 32, 64)}
    for name, *cells in table("performance.md", "| network | batch 8"):
        of = {batch: rows[NETWORKS[name]] for batch, rows in measured.items()}
        for cell, batch in zip(cells[:4], (8, 16, 32, 64), strict=True):
            check_ratio(cell, of[batch], "step", "ms")
        assert float(cells[4].split()[0]) == of[64]["peak MB x"]
        for cell, batch in zip(cells[5:], (8, 32, 64), strict=True):
            check_ratio(cell, of[batch], "inference", "ms")


def test_steps_of_small_networks() -> None:
    files = ("resnet8-batch32-thread1", "resnet8-batch32", "resnet20-batch32-thread1", "resnet20-batch32")
    measured = [steps(name) for name in files]
    for name, *cells in table("performance.md", "| a step, of the static"):
        for cell, rows in zip(cells, measured, strict=True):
            check_ratio(cell, rows[NETWORKS[name]], "step", "ms")


def test_seconds_until_there_is_something_to_see() -> None:
    found = json.loads((FIGURES / "start.json").read_text())["results"]
    for cells, one in zip(table("performance.md", "| | seconds | of"), found, strict=True):
        assert cells[1] == rounded(one["seconds"], 2)
        assert float(cells[2]) == float(rounded(one["of_torch"], 2))
        if cells[3]:
            assert cells[3] == f"{rounded(one['peak_memory_bytes'] / 1e9, 2)} GB"


@pytest.mark.parametrize(
    ("study", "head"),
    [
        ("cifar10-budgets", "| convolution | limited clients"),
        ("cifar10-stem", "| with the CIFAR stem | limited clients"),
    ],
)
def test_the_studies_of_budgets(study: str, head: str) -> None:
    with (DATA / study / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))

    def found(arm: str, measure: str, axis: str = "macs") -> dict[str, str]:
        return next(r for r in rows if (r["arm"], r["measure"], r["cost_axis"]) == (arm, measure, axis))

    for convolution, policy, final, against, p, tmac, megabytes, seconds, mean, worst in table(
        "results.md", head
    ):
        arm = ARMS[convolution, policy]
        top1 = found(arm, "final")
        percent = [rounded(100 * float(top1[key]), 1) for key in ("mean", "low", "high")]
        assert final == "{} [{}, {}]".format(*percent)
        if against:
            points = [100 * float(top1[f"paired_{key}"]) for key in ("mean", "low", "high")]
            assert against == "{} [{}, {}]".format(*(("+" if x > 0 else "") + rounded(x, 1) for x in points))
            assert p == rounded(top1["paired_p_holm"], 2)
        costs = [float(found(arm, "cost", axis)["mean"]) for axis in ("macs", "bytes", "device_seconds")]
        assert tmac == rounded(costs[0] / 1e12, 2)
        assert megabytes == rounded(costs[1] / 1e6)
        assert seconds == rounded(costs[2])
        assert mean == rounded(100 * float(found(arm, "clients_mean")["mean"]), 1)
        assert worst == rounded(100 * float(found(arm, "clients_worst10")["mean"]), 1)


def test_what_the_weak_tier_got() -> None:
    folders = {"partial": "MACs-partial", "width": "MACs-width", "kernels": "bytes-kernels"}
    for policy, *cells in table("clients.md", "| weak clients | as it arrives"):
        if "drop" in policy:
            continue
        folder = folders[re.findall(r"`(\w+)`", policy)[0]]
        seeds = [_top1(DATA / "study-clients" / f"{folder}-seed-{seed}") for seed in range(3)]
        models = ("affordable", "finetuned", "local")
        means = {model: [fmean(seed[model].values()) for seed in seeds] for model in models}
        assert cells[:3] == [rounded(100 * fmean(means[model]), 1) for model in models]
        for cell, model in zip(cells[3:5], models, strict=False):
            gains = [100 * (of - alone) for of, alone in zip(means[model], means["local"], strict=True)]
            half = stats.t.ppf(0.975, 2) * stdev(gains) / 3**0.5
            shown = (fmean(gains), fmean(gains) - half, fmean(gains) + half)
            assert [float(x) for x in re.findall(r"[-+][\d.]+", cell)] == pytest.approx(shown, abs=0.0501)
        gain = [sum(seed["finetuned"][c] > seed["local"][c] for c in seed["local"]) for seed in seeds]
        weak = [len(seed["local"]) for seed in seeds]
        assert cells[5] == ", ".join(f"{n} of {of}" for n, of in zip(gain, weak, strict=True))


def _top1(folder: Path) -> dict[str, dict[int, float]]:
    """Return what each weak client measured last, by model."""
    rows = [row for row in rows_of(folder, "evaluations") if row["tier"] == "weak"]
    last = max(row["round"] for row in rows)
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["round"] == last:
            found.setdefault(row["model"], {})[row["client"]] = row["top1"]
    return found


def test_reproductions() -> None:
    seen = set()
    for run, top1, published, difference in table("results.md", "| run | top-1 (%) | published"):
        data, split, algorithm, *_ = re.split(r", ", run)
        seeds = range(3 if "three seeds" in run else 1)
        folders = [f"{RUNS[data, split]}-{algorithm.lower()}-seed{seed}" for seed in seeds]
        seen |= set(folders)
        values = [final(DATA / folder) for folder in folders]
        mean = sum(values) / len(values)
        assert top1.split(" ±")[0] == rounded(mean, 2)
        assert float(difference) == pytest.approx(mean - float(published.split(",")[0]), abs=0.0501)
    kept = {path.name for path in DATA.glob("t1-*-seed*")}
    assert kept == seen


def final(folder: Path) -> float:
    """Return the last top-1 of a run, in percent."""
    return 100 * float(rows_of(folder)[-1]["top1"])


def rows_of(folder: Path, ledger: str = "rounds") -> list[dict[str, Any]]:
    plain, packed = folder / f"{ledger}.jsonl", folder / f"{ledger}.jsonl.gz"
    text = plain.read_text() if plain.exists() else gzip.decompress(packed.read_bytes())
    return [json.loads(line) for line in text.splitlines()]


def test_tuned_learning_rates() -> None:
    names = {
        "static": "static",
        "squeeze-and-excitation": "SE",
        "FMDConv, K = 1": "FMDConv-K-1",
        "FMDConv, K = 4": "FMDConv-K-4",
        "ODConv, K = 4": "ODConv-K-4",
    }
    first = {"static": "0.02", "FMDConv, K = 4": "0.05", "ODConv, K = 4": "0.05"}
    for name, *cells in table("results.md", "| convolution | validation at 0.02"):
        for rate, cell in zip(("0.02", "0.05", "0.1"), cells, strict=False):
            if not cell:
                continue
            again = DATA / "cifar10-rates" / f"{names[name]}-kind-width-rate-{rate}-seed-0"
            searched = DATA / "cifar10-budgets" / f"{names[name]}-kind-width-seed-0"
            assert again.exists() or rate == first.get(name, "0.05")
            folder = again if again.exists() else searched
            assert cell.strip("*") == rounded(100 * rows_of(folder)[-1]["validation_top1"], 1)


def test_policies_at_the_better_rates() -> None:
    def runs(arm: str, kind: str) -> list[dict[str, Any]]:
        place = "cifar10-rates" if kind == "width" else "cifar10-policies"
        name = f"{arm}-kind-{kind}-rate-0.1" if kind == "width" else f"{arm}-kind-{kind}"
        return [rows_of(DATA / place / f"{name}-seed-{seed}")[-1] for seed in range(3)]

    kinds = {"narrower": "width", "left out": "drop", "fewer steps": "partial", "by budget": "auto"}
    p_values: dict[str, float] = {}
    printed = {cells[0]: cells[1:] for cells in table("results.md", "| limited clients | static, top-1")}
    for name, kind in kinds.items():
        arms = runs("static", kind), runs("FMDConv-K-4", kind)
        static, dynamic = ([100 * row["top1"] for row in arm] for arm in arms)
        assert printed[name][:2] == [interval_text(static), interval_text(dynamic)]
        points = [b - a for a, b in zip(static, dynamic, strict=True)]
        assert printed[name][2] == interval_text(points, "+.1f")
        p_values[name] = stats.ttest_1samp(points, 0).pvalue
        for cell, key, unit, form in zip(
            printed[name][4:], ("macs", "bytes"), (1e12, 1e6), (".2f", ",.0f"), strict=True
        ):
            assert cell == " and ".join(
                f"{fmean(r['cumulative'][key] for r in arm) / unit:{form}}" for arm in arms
            )
    assert list(printed) == list(kinds)
    ranked = sorted(p_values, key=lambda name: p_values[name])
    adjusted = 0.0
    for place, name in enumerate(ranked):
        adjusted = max(adjusted, (len(ranked) - place) * p_values[name])
        assert printed[name][3] == f"{adjusted:.2f}"


def interval_text(values: list[float], form: str = ".1f") -> str:
    """Write the mean and its interval by Student's t."""
    low, high = stats.t.interval(0.95, len(values) - 1, fmean(values), stats.sem(values))
    return f"{fmean(values):{form}} [{low:{form}}, {high:{form}}]"


def test_the_companion_of_the_study_of_budgets() -> None:
    static, dynamic = (
        {row["round"]: row for row in rows_of(DATA / f"cifar10-resnet20-{name}-seed0")}
        for name in ("static", "fmdconv")
    )
    for number, *cells in table("results.md", "| after rounds | static"):
        pair = static[int(number)], dynamic[int(number)]
        percent = [rounded(100 * row["top1"], 1) for row in pair]
        sent = [rounded(row["cumulative"]["bytes"] / 1e6) for row in pair]
        assert cells == [*percent, *sent]


def central(conv: str) -> list[dict[str, Any]]:
    """Give the summaries of three seeds."""
    files = [DATA / f"central/resnet20-{conv}-seed{seed}/summary.json" for seed in range(3)]
    return [json.loads(file.read_text()) for file in files]


def test_the_central_table() -> None:
    ended = {conv: central(conv) for conv in ("static", "odconv", "fmdconv")}
    names = {"static": "static", "ODConv, K = 4": "odconv", "FMDConv, K = 4": "fmdconv"}
    for name, seeds, top1, top5, parameters, macs, ies, rcs in table("results.md", "| ResNet-20 | seeds"):
        runs = ended[names[name]]
        first, finals = [100 * run["final_top1"] for run in runs], [run["final_top5"] for run in runs]
        assert int(seeds) == len(runs)
        assert top1 == f"{rounded(fmean(first), 2)} ± {rounded(stdev(first), 2)}"
        assert top5 == rounded(100 * fmean(finals), 2)
        assert parameters == rounded(runs[0]["parameters"] / 1e6, 2)
        cost = runs[0]["forward_macs"] / 1e6
        assert macs == rounded(cost, 1)
        assert [ies, rcs] == [rounded(100 * cost / fmean(first), 1), rounded(10 * fmean(first) / cost, 1)]
    below = {
        conv: sorted(
            static["final_top1"] - run["final_top1"]
            for static, run in zip(ended["static"], runs, strict=True)
        )
        for conv, runs in ended.items()
    }
    fmdconv, odconv = (
        f"{rounded(100 * below[conv][0])} to {rounded(100 * below[conv][-1])}"
        for conv in ("fmdconv", "odconv")
    )
    said = f"FMDConv ends {fmdconv} points below the static network, and ODConv {odconv}."
    assert said in (ROOT / "docs" / "results.md").read_text()


def test_without_the_fall_of_temperatures() -> None:
    warm, static, fallen = (
        [100 * run["final_top1"] for run in central(conv)] for conv in ("fmdconv-to10", "static", "fmdconv")
    )
    gain, gap = stats.ttest_rel(warm, fallen), stats.ttest_rel(warm, static)
    gains, gaps = gain.confidence_interval(), gap.confidence_interval()
    said = (
        f"{rounded(fmean(warm), 2)} ± {rounded(stdev(warm), 2)}%: "
        f"{rounded(fmean(warm) - fmean(fallen), 1)} points "
        f"above the fall to 1 (95% interval {rounded(gains.low, 1)} to {rounded(gains.high, 1)}, by seed; "
        f"p = {rounded(gain.pvalue, 2)}), and "
        f"{rounded(fmean(static) - fmean(warm), 1)} below the static network "
        f"({rounded(-gaps.low, 1)} below to {rounded(gaps.high, 1)} above; p = {rounded(gap.pvalue, 2)})"
    )
    assert said in " ".join((ROOT / "docs" / "results.md").read_text().split())
