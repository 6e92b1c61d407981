"""Partitions: disjoint, covering, reproducible, and distributed as their names say."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfmd import registry
from fedfmd.data.arrays import IntArray
from fedfmd.data.datasets import load_dataset
from fedfmd.data.partition import Partition, make_partition
from fedfmd.data.prepared import open_prepared, write_client_file
from fedfmd.errors import UserError
from fedfmd.seeds import derive, numpy_rng

LISTED = ("iid", "dirichlet", "label-dirichlet", "shards", "quantity")
ALL = (*LISTED, "sampled")
LABELS = np.random.default_rng(5).permutation(np.arange(6000) % 10)


def _all_indices(partition: Partition) -> IntArray:
    return np.concatenate([partition.indices(client) for client in range(partition.num_clients)])


@pytest.mark.parametrize("clients", [1, 7, 60])
@pytest.mark.parametrize("scheme", LISTED)
def test_clients_are_disjoint_and_cover_the_samples(scheme: str, clients: int) -> None:
    partition = make_partition(LABELS, scheme=scheme, clients=clients, seed=0, alpha=0.5)
    held = _all_indices(partition)
    assert len(np.unique(held)) == len(held)
    assert len(held) == len(LABELS) - partition.about["unassigned"]
    assert 0 <= partition.about["unassigned"] < (clients * 2 if scheme == "shards" else 1)
    assert partition.sizes.tolist() == [len(partition.indices(c)) for c in range(clients)]
    assert [partition.size(c) for c in range(clients)] == partition.sizes.tolist()


@pytest.mark.parametrize("scheme", ALL)
def test_the_seed_decides(scheme: str) -> None:
    first, again, other = (make_partition(LABELS, scheme=scheme, clients=20, seed=seed) for seed in (1, 1, 2))
    assert first.sha256 == again.sha256 != other.sha256
    assert np.array_equal(_all_indices(first), _all_indices(again))
    assert not np.array_equal(np.sort(_all_indices(first)), _all_indices(other))
    assert any(first.indices(c).tolist() != other.indices(c).tolist() for c in range(20))


@pytest.mark.parametrize("scheme", ALL)
def test_a_saved_partition_loads_equal(scheme: str, tmp_path: Path) -> None:
    partition = make_partition(LABELS, scheme=scheme, clients=20, seed=1)
    partition.save(tmp_path / "partition")
    loaded = Partition.load(tmp_path / "partition")
    assert loaded.manifest() == partition.manifest()
    assert np.array_equal(_all_indices(loaded), _all_indices(partition))
    assert [p.name for p in tmp_path.iterdir()] == ["partition"]


@pytest.mark.parametrize("scheme", ALL)
def test_a_client_outside_the_population_is_refused(scheme: str) -> None:
    partition = make_partition(LABELS, scheme=scheme, clients=20, seed=1)
    for client in (-1, 20):
        with pytest.raises(IndexError, match="0 to 19"):
            partition.indices(client)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "label-dirichlet", "shards", "quantity", "sampled"])
def test_the_validation_set_is_a_seeded_share_that_no_client_holds(scheme: str, tmp_path: Path) -> None:
    def made(seed: int, share: float = 0.1) -> Partition:
        return make_partition(LABELS, scheme=scheme, clients=20, seed=seed, validation=share)

    partition, other = made(1), made(2)
    kept = set(partition.validation.tolist())
    assert len(kept) == len(LABELS) // 10
    held = {int(i) for client in range(20) for i in partition.indices(client)}
    assert not kept & held
    assert scheme == "sampled" or len(held) + partition.about["unassigned"] == len(LABELS) - len(kept)
    assert partition.manifest()["validation"] == sorted(kept)
    assert kept != set(other.validation.tolist())
    partition.save(tmp_path / "saved")
    loaded = Partition.load(tmp_path / "saved")
    assert loaded.sha256 == partition.sha256
    assert np.array_equal(loaded.validation, partition.validation)
    assert "validation" not in made(1, 0.0).manifest()
    assert made(1, 0.0).sha256 != partition.sha256


def test_manifest_tells_scheme_parameters_and_sizes() -> None:
    manifest = make_partition(LABELS, scheme="quantity", clients=5, seed=3, alpha=2.0, min_size=50).manifest()
    assert {k: manifest[k] for k in ("scheme", "seed", "clients", "samples", "alpha", "min_size")} == {
        "scheme": "quantity",
        "seed": 3,
        "clients": 5,
        "samples": 6000,
        "alpha": 2.0,
        "min_size": 50,
    }
    assert sum(manifest["sizes"]) == 6000
    assert manifest["smallest"] == min(manifest["sizes"]) >= 50
    assert len(manifest["sha256"]) == 64
    assert "shards_per_client" not in manifest


def test_iid_sizes_are_equal_and_labels_even_though_the_set_is_sorted() -> None:
    labels = np.sort(LABELS)
    partition = make_partition(labels, scheme="iid", clients=20, seed=0)
    assert set(partition.sizes.tolist()) == {300}
    counts = partition.label_counts(labels, 10)
    assert counts.min() > 10
    assert counts.sum(0).tolist() == [600] * 10


@pytest.mark.parametrize("self_balancing", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_dirichlet_keeps_the_smallest_size_and_records_the_mask(alpha: float, self_balancing: bool) -> None:
    partition = make_partition(
        LABELS,
        scheme="dirichlet",
        clients=20,
        seed=0,
        alpha=alpha,
        min_size=12,
        self_balancing=self_balancing,
    )
    assert partition.sizes.min() >= 12
    assert partition.manifest()["self_balancing"] is self_balancing
    if self_balancing:
        assert partition.sizes.max() <= 300 + 600


def _concentration(scheme: str, alpha: float) -> float:
    """Mean share of a client's most frequent label."""
    partition = make_partition(LABELS, scheme=scheme, clients=20, seed=0, alpha=alpha, min_size=1)
    counts = partition.label_counts(LABELS, 10)
    return float((counts.max(1) / counts.sum(1)).mean())


@pytest.mark.parametrize("scheme", ["dirichlet", "label-dirichlet", "sampled"])
def test_large_alpha_tends_to_uniform_small_alpha_to_one_label(scheme: str) -> None:
    uniform, middle, single = (_concentration(scheme, alpha) for alpha in (1e4, 0.5, 0.05))
    assert uniform < 0.25
    assert uniform + 0.1 < middle < single - 0.1
    assert single > 0.5


def test_label_shares_have_the_variance_of_the_dirichlet_distribution() -> None:
    """Var of one share of a symmetric Dirichlet over L labels is (1/L)(1 - 1/L)/(L alpha + 1)."""
    alpha, clients = 0.5, 400
    labels = np.arange(40_000) % 10
    sampled = make_partition(
        labels, scheme="sampled", clients=clients, seed=0, alpha=alpha, samples_per_client=400
    )
    shares = sampled.label_counts(labels, 10) / 400
    expected = 0.1 * 0.9 / (10 * alpha + 1)
    assert shares.var() == pytest.approx(expected + 0.09 / 400, rel=0.1)
    label_dirichlet = make_partition(labels, scheme="label-dirichlet", clients=clients, seed=0, alpha=alpha)
    shares = label_dirichlet.label_counts(labels, 10) / 100
    # A label that runs out binds the last draws, which takes a little of the variance.
    assert 0.8 * expected < shares.var() < 1.3 * expected


def test_dirichlet_divides_each_label_by_dirichlet_over_the_clients() -> None:
    alpha, clients = 1.0, 10
    labels = np.arange(50_000) % 100
    partition = make_partition(labels, scheme="dirichlet", clients=clients, seed=0, alpha=alpha)
    shares = partition.label_counts(labels, 100) / 500
    np.testing.assert_allclose(shares.sum(0), 1)
    assert shares.var() == pytest.approx(0.1 * 0.9 / (clients * alpha + 1), rel=0.15)


@pytest.mark.parametrize("held", [1, 2, 3, 10])
def test_labels_gives_each_client_so_many_in_equal_parts(held: int) -> None:
    partition = make_partition(LABELS, scheme="labels", clients=20, seed=0, labels_per_client=held)
    counts = partition.label_counts(LABELS, 10)
    assert ((counts > 0).sum(1) == held).all()
    assert (counts[np.arange(20), np.arange(20) % 10] > 0).all()
    for column, total in zip(counts.T, np.bincount(LABELS).tolist(), strict=True):
        assert column.sum() == total
        assert np.ptp(column[column > 0]) <= 1


def test_labels_leaves_what_nobody_holds_and_refuses_more_than_there_are() -> None:
    partition = make_partition(LABELS, scheme="labels", clients=3, seed=0, labels_per_client=1)
    assert partition.about["unassigned"] == int((LABELS > 2).sum())
    with pytest.raises(UserError, match=r"labels_per_client = 11: at most the 10 labels"):
        make_partition(LABELS, scheme="labels", clients=3, seed=0, labels_per_client=11)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_bound_the_labels_of_a_client(shards: int) -> None:
    partition = make_partition(LABELS, scheme="shards", clients=20, seed=0, shards_per_client=shards)
    labels_held = (partition.label_counts(LABELS, 10) > 0).sum(1)
    # A shard lies within one label, or across one border between two.
    assert labels_held.max() <= 2 * shards
    assert labels_held.mean() <= shards + 0.5
    assert len(set(partition.sizes.tolist())) == 1


@settings(max_examples=30)
@given(
    clients=st.integers(1, 60),
    alpha=st.sampled_from([1e-3, 0.05, 1.0, 100.0]),
    samples=st.integers(60, 400),
    classes=st.integers(1, 12),
    seed=st.integers(0, 5),
)
def test_label_dirichlet_fills_every_client_at_any_alpha(
    clients: int, alpha: float, samples: int, classes: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, samples)
    partition = make_partition(labels, scheme="label-dirichlet", clients=clients, seed=seed, alpha=alpha)
    assert np.sort(_all_indices(partition)).tolist() == list(range(samples))
    assert partition.sizes.max() - partition.sizes.min() <= 1


@settings(max_examples=30)
@given(clients=st.integers(1, 50), alpha=st.sampled_from([1e-3, 0.5, 1e3]), floor=st.integers(1, 10))
def test_quantity_keeps_its_smallest_size_and_covers(clients: int, alpha: float, floor: int) -> None:
    partition = make_partition(
        LABELS[:500], scheme="quantity", clients=clients, seed=0, alpha=alpha, min_size=floor
    )
    assert partition.sizes.min() >= floor
    assert np.sort(_all_indices(partition)).tolist() == list(range(500))


def test_a_population_of_a_million_costs_nothing_and_client_c_is_always_the_same(tmp_path: Path) -> None:
    large, small = (
        make_partition(LABELS, scheme="sampled", clients=n, seed=0, samples_per_client=40)
        for n in (10**6, 50)
    )
    large.save(tmp_path / "partition")
    assert (tmp_path / "partition").stat().st_size < 100_000
    assert len(large.indices(999_999)) == 40 == large.size(999_999)
    assert np.array_equal(large.indices(49), small.indices(49))
    assert large.sizes.shape == (10**6,)
    assert large.sizes.strides == (0,)
    assert "sizes" not in large.manifest()


def test_a_sampled_client_repeats_nothing_while_its_labels_last() -> None:
    partition = make_partition(
        LABELS, scheme="sampled", clients=100, seed=0, alpha=0.1, samples_per_client=100
    )
    assert all(len(np.unique(partition.indices(c))) == 100 for c in range(100))
    tiny = make_partition(LABELS[:20], scheme="sampled", clients=5, seed=0, samples_per_client=100)
    assert all(len(tiny.indices(c)) == 100 for c in range(5))


def test_a_scheme_that_fails_between_two_clients_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_way(labels: np.ndarray, clients: int) -> Iterator[np.ndarray]:
        yield np.arange(len(labels) // clients)
        raise KeyError("of mine")

    part = registry.Registered(half_way, __name__)
    monkeypatch.setitem(registry._parts["partition"], "half-way", part)
    with pytest.raises(
        UserError,
        match=r"'half-way': fails while it gives clients their images: KeyError: 'of mine' \(.*py:",
    ):
        make_partition(np.zeros(40, dtype=np.int64), scheme="half-way", clients=4, seed=0)


def test_label_counts_of_some_clients_are_rows_of_all() -> None:
    partition = make_partition(LABELS, scheme="dirichlet", clients=20, seed=0)
    everything = partition.label_counts(LABELS, 10)
    assert everything.shape == (20, 10)
    assert everything.sum() == 6000
    np.testing.assert_array_equal(partition.label_counts(LABELS, 10, [3, 11]), everything[[3, 11]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheme": "zipf"}, r"partition.scheme = 'zipf': is not known; allowed: .*'iid', "),
        ({"clients": 0}, r"partition.clients = 0: must be at least 1"),
        ({"clients": 6001}, r"partition.clients = 6001: at most the 6000 training images"),
        ({"scheme": "dirichlet", "alpha": 0.0}, r"partition.alpha = 0.0: must be a number above 0"),
        ({"scheme": "sampled", "alpha": -1.0}, r"partition.alpha = -1.0"),
        ({"scheme": "quantity", "alpha": float("nan")}, r"partition.alpha = nan"),
        ({"scheme": "dirichlet", "min_size": 601}, r"partition.min_size = 601: at most 600 with 10 clients"),
        ({"scheme": "quantity", "min_size": 0}, r"partition.min_size = 0: must be at least 1"),
        ({"scheme": "shards", "shards_per_client": 601}, r"partition.shards_per_client = 601: at most 600"),
        ({"scheme": "sampled", "samples_per_client": 0}, r"partition.samples_per_client = 0"),
        (
            {"scheme": "dirichlet", "clients": 500, "alpha": 0.01, "min_size": 11},
            r"partition.min_size = 11: not reached in 1,000 draws with partition.alpha = 0.01.*; lower it, "
            r"raise alpha, take fewer clients, or partition.scheme = .label-dirichlet.",
        ),
        (
            {"scheme": "dirichlet", "clients": 500, "alpha": 0.01, "min_size": 1},
            r"partition.min_size = 1: not reached.* had fewer; raise alpha, take fewer.*label-dirichlet",
        ),
    ],
)
def test_impossible_values_are_one_clear_line(arguments: dict[str, object], message: str) -> None:
    given_arguments = {"scheme": "iid", "clients": 10, "seed": 0, **arguments}
    with pytest.raises(UserError, match=message) as caught:
        make_partition(LABELS, **given_arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"{}" * 40, lambda b: b"\xff" * len(b)],
    ids=["cut", "empty", "text", "noise"],
)
def test_a_damaged_partition_file_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "partition"
    make_partition(LABELS, scheme="iid", clients=10, seed=0).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=str(path)):
        Partition.load(path)
    with pytest.raises(UserError, match="no such partition"):
        Partition.load(tmp_path / "absent")


def test_a_clients_own_file_holds_its_pictures_and_no_others(tmp_path: Path) -> None:
    dataset = load_dataset("embedded", root=tmp_path, train_samples=300, test_samples=20)
    partition = make_partition(dataset.train_labels, scheme="dirichlet", clients=4, seed=0)
    path = tmp_path / "client-2.safetensors"
    write_client_file(dataset, partition, 2, path)
    own = open_prepared(path)
    assert np.array_equal(own.train_images, dataset.train_images[partition.indices(2)])
    assert np.array_equal(own.train_labels, dataset.train_labels[partition.indices(2)])
    assert own.test_images.shape == (0, 3, 32, 32)
    assert (own.mean, own.std, own.classes) == (dataset.mean, dataset.std, dataset.classes)
    assert path.stat().st_size < 3200 * partition.size(2) + 4096


FLWR: dict[str, tuple[str, dict[str, Any]]] = {
    "iid": ("IidPartitioner", {}),
    "dirichlet": ("DirichletPartitioner", {"alpha": 0.3, "min_partition_size": 5, "self_balancing": False}),
    "balanced": ("DirichletPartitioner", {"alpha": 0.3, "min_partition_size": 5, "self_balancing": True}),
    "shards": ("ShardPartitioner", {"num_shards_per_partition": 3}),
}
"""The partitioners that ours are like, and their own names for the same parameters."""


@pytest.mark.parametrize("kind", FLWR)
@pytest.mark.parametrize("clients", [7, 20])
def test_partitions_are_those_of_flwr_datasets_to_the_sample(kind: str, clients: int) -> None:
    import datasets
    from flwr_datasets import partitioner

    labels, scheme = LABELS, "dirichlet" if kind == "balanced" else kind
    ours = make_partition(
        LABELS, scheme=scheme, clients=clients, seed=4, alpha=0.3, min_size=5,
        self_balancing=kind == "balanced", shards_per_client=3,
    )  # fmt: skip
    order = numpy_rng(4, "partition-order").permutation(len(labels))
    name, parameters = FLWR[kind]
    seeded = {"partition_by": "label", "seed": derive(4, f"partition-{scheme}")} if parameters else {}
    theirs = getattr(partitioner, name)(num_partitions=clients, **parameters, **seeded)
    table = datasets.Dataset.from_dict({"index": order, "label": labels[order]})
    theirs.dataset = table.with_format("numpy")
    for client in range(clients):
        assert ours.indices(client).tolist() == theirs.load_partition(client)["index"][:].tolist()


def test_dirichlet_redraws_beyond_eleven_draws() -> None:
    """A minimum that one draw in some fifty meets: flwr-datasets would give up."""
    for seed in range(4):
        partition = make_partition(LABELS, scheme="dirichlet", clients=20, seed=seed, alpha=0.3, min_size=90)
        assert int(partition.sizes.min()) >= 90
