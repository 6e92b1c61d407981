"""What clients keep for testing: apart from training, stratified, seeded, at least one, in the manifest."""

from pathlib import Path

import numpy as np
import pytest

from fedfmd.data.datasets import load_dataset
from fedfmd.data.holdout import holdout_size, holdout_split, stratified_counts
from fedfmd.data.partition import Partition, make_partition
from fedfmd.data.prepared import open_prepared, write_client_file
from fedfmd.errors import UserError
from fedfmd.modules import look_in

LABELS = np.arange(600) % 10
SCHEMES = ("iid", "dirichlet", "label-dirichlet", "shards", "quantity", "sampled")


def made(scheme: str, share: float = 0.2, seed: int = 0, clients: int = 12) -> Partition:
    return make_partition(LABELS, scheme=scheme, clients=clients, seed=seed, min_size=5, holdout=share)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nobody_trains_on_what_somebody_is_tested_on(scheme: str) -> None:
    partition, whole = made(scheme), made(scheme, share=0.0)
    clients = range(partition.num_clients)
    trained = np.concatenate([partition.indices(c) for c in clients])
    tested = np.concatenate([partition.holdout(c) for c in clients])
    assert not set(trained.tolist()) & set(tested.tolist())
    for client in clients:
        own, kept = partition.indices(client), partition.holdout(client)
        assert len(own) == partition.size(client) == partition.sizes[client]
        assert len(kept) == partition.holdout_size(client) == holdout_size(len(own) + len(kept), 0.2)
        if scheme != "sampled":  # the same clients, each with its samples in two parts
            assert sorted([*own.tolist(), *kept.tolist()]) == sorted(whole.indices(client).tolist())


SHARING = """
import numpy as np


def everything(labels, clients):
    return [np.arange(len(labels)) for _ in range(clients)]


def two_each(labels, clients):
    return [[client, client + 1] for client in range(clients)]
"""


@pytest.fixture
def sharing(tmp_path: Path) -> str:
    (tmp_path / "sharing_schemes.py").write_text(SHARING)
    look_in(tmp_path)
    return "sharing_schemes"


def test_nobody_trains_on_what_is_held_out_where_clients_share_images(sharing: str) -> None:
    partition = made(f"{sharing}:everything", clients=3)
    tested = [set(partition.holdout(client).tolist()) for client in range(3)]
    trained = [set(partition.indices(client).tolist()) for client in range(3)]
    assert tested[0] == tested[1] == tested[2]
    assert len(tested[0]) == 120
    assert not set.union(*trained) & set.union(*tested)
    manifest = partition.manifest()
    assert (manifest["unassigned"], manifest["shared"]) == (0, 600)
    assert "shared" not in made("iid").manifest()


def test_a_draw_that_leaves_a_sharing_client_nothing_to_test_on_is_refused(sharing: str) -> None:
    with pytest.raises(UserError, match=r"partition.holdout = 0.2: clients share images, .* of 12 clients"):
        made(f"{sharing}:two_each")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_label_keeps_its_share_to_within_one_sample(scheme: str) -> None:
    partition = made(scheme)
    for client in range(partition.num_clients):
        own, kept = (LABELS[part] for part in (partition.indices(client), partition.holdout(client)))
        counts, tested = (np.bincount(part, minlength=10) for part in (np.concatenate([own, kept]), kept))
        exact = counts * len(kept) / counts.sum()
        assert bool((np.abs(tested - exact) < 1).all())


def test_the_seed_decides_and_the_manifest_and_the_file_say_who_keeps_what(tmp_path: Path) -> None:
    for scheme in ("dirichlet", "sampled"):
        one, again, other = made(scheme), made(scheme), made(scheme, share=0.3)
        kept = [one.holdout(c).tolist() for c in range(12)]
        assert one.manifest()["holdout"] == kept == [again.holdout(c).tolist() for c in range(12)]
        assert one.manifest()["holdout_share"] == 0.2
        assert one.sha256 == again.sha256 != other.sha256
        one.save(tmp_path / scheme)
        loaded = Partition.load(tmp_path / scheme)
        assert loaded.sha256 == one.sha256
        assert [loaded.holdout(c).tolist() for c in range(12)] == kept
        assert "holdout" not in made(scheme, share=0.0).manifest()


@pytest.mark.parametrize(
    ("samples", "share", "kept"),
    [(2, 0.01, 1), (3, 0.5, 2), (2, 0.5, 1), (1, 0.5, 0), (10, 0.2, 2), (10, 0.0, 0), (50, 0.5, 25)],
)
def test_at_least_one_is_kept_and_at_least_one_is_left(samples: int, share: float, kept: int) -> None:
    assert holdout_size(samples, share) == kept
    tested, trained = holdout_split(np.zeros(samples, dtype=np.int64), share, 0)
    assert (len(tested), len(tested) + len(trained)) == (kept, samples)


def test_largest_remainders_are_given_first() -> None:
    rng = np.random.default_rng(0)
    assert stratified_counts(np.array([7, 2, 1]), 3, rng).tolist() == [2, 1, 0]
    for _ in range(20):
        counts = rng.integers(0, 9, 6)
        counts[0] += 1
        total = int(rng.integers(0, counts.sum() + 1))
        given = stratified_counts(counts, total, rng)
        assert given.sum() == total
        assert bool((given <= counts).all())


def test_a_client_that_has_one_sample_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"partition.holdout = 0.2: 1 of 6 clients have fewer than two images"
    ):
        make_partition(np.zeros(11, dtype=np.int64), scheme="iid", clients=6, seed=0, holdout=0.2)
    with pytest.raises(UserError, match=r"samples_per_client = 1: at least 2"):
        make_partition(LABELS, scheme="sampled", clients=6, seed=0, samples_per_client=1, holdout=0.2)


def test_validation_goes_before_and_is_nobodys_holdout() -> None:
    partition = make_partition(LABELS, scheme="iid", clients=6, seed=0, holdout=0.2, validation=0.1)
    held = np.concatenate([partition.holdout(c) for c in range(6)])
    assert len(partition.validation) == 60
    assert not set(held.tolist()) & set(partition.validation.tolist())


def test_a_real_clients_file_has_its_holdout_as_test_part(tmp_path: Path) -> None:
    dataset = load_dataset("embedded", root=tmp_path, train_samples=200, test_samples=20)
    partition = make_partition(dataset.train_labels, scheme="iid", clients=4, seed=0, holdout=0.2)
    write_client_file(dataset, partition, 1, tmp_path / "own")
    own = open_prepared(tmp_path / "own")
    assert np.array_equal(own.train_images, dataset.train_images[partition.indices(1)])
    assert np.array_equal(own.test_images, dataset.train_images[partition.holdout(1)])
    assert np.array_equal(own.test_labels, dataset.train_labels[partition.holdout(1)])
