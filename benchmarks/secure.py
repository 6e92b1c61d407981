"""Time what a client does for a secure sum of 45 M elements, beside one local epoch, with one thread.

    python benchmarks/secure.py --json benchmarks/figures/secure

The network is an FMDConv ResNet-18 with four kernels, 45 M elements; the epoch is one of 500 colour images of
32 x 32 pixels in batches of 32: one step, with all that a worker does for a client, counted 500 / 32 times.
That overstates it by what is done once; `benchmarks/step.py` has bare steps. In a cohort of 10 a client adds
10 masks, its own and 9 of pairs; in one of 100, with `--cohort 100`, 55. Masking includes the agreement on
keys; rounding turns the update into integers, which the plain sum does, too. At the server each survivor's
own mask comes off, "one mask". Seconds of CPU time, least and median of the repeats, which take turns after a
warm-up.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from common import Row, interleaved, report
from torch import Tensor

from fedfmd.aggregation import Scale, rounded
from fedfmd.config.experiment import parse_config
from fedfmd.machine.process import prepare_process
from fedfmd.nn import Temperatures
from fedfmd.rounds.lifecycle import open_experiment, start_run
from fedfmd.secure import Secrets, Session, SumMember, blocks_of
from fedfmd.secure.stream import add_mask
from fedfmd.training.worker import Worker
from fedfmd.wire.packages import WorkOrder

SCALE = Scale(range_exponent=7, weight_exponent=9)
IMAGES, BATCH = 500, 32


def step(folder: Path) -> tuple[Callable[[], object], int]:
    """Return one step of local training, and the elements of its state."""
    config = parse_config(
        {
            "data": {"train_samples": BATCH, "test_samples": 10},
            "partition": {"scheme": "iid", "clients": 1},
            "model": {"name": "resnet18", "conv": "fmdconv"},
            "client": {"batch_size": BATCH, "augment": False},
            "server": {"cohort": 1},
            "backend": {"kind": "inline"},
        }
    )
    experiment = open_experiment(start_run(config, folder / "run"))
    worker, elements = Worker(experiment), experiment.network.exchanged_elements
    vector = torch.cat([tensor.flatten() for tensor in experiment.network.build().state_dict().values()])
    order = WorkOrder(
        round=1,
        attempt=0,
        clients=(0,),
        learning_rate=0.01,
        temperatures=Temperatures(),
        scale=SCALE,
    )
    return lambda: worker.train(order, vector), elements


class Cohort:
    """A round of so many clients, up to their masked updates."""

    def __init__(self, clients: int, elements: int):
        self.blocks = blocks_of(dict.fromkeys(range(clients), ""), elements, {"": None}.__getitem__, 3)
        self.members = {client: SumMember(client, Secrets(os.urandom(32)), 0.66) for client in range(clients)}
        keys = {client: member.keys() for client, member in self.members.items()}
        self.session = Session(self.blocks, keys, 0.66, seed=0)
        self.invitations = self.session.invitations()
        deposits = [m.deposit(self.invitations[client], self.blocks) for client, m in self.members.items()]
        self.session.take_deposits(deposits)
        self.question = self.session.close(range(clients))

    def stages(self, words: Tensor) -> dict[str, Callable[[], object]]:
        """Return what client 0 does, by stage; masking leaves its marks on ``words``."""
        member, invitation, blocks = self.members[0], self.invitations[0], self.blocks
        partners = self.session.partners(0)

        def reveal() -> None:
            fresh = SumMember(0, member.secrets, 0.66)
            fresh.held = {shares.sender: shares for shares in self.session.sealed_for(0)}
            fresh.reveal(self.question, invitation, blocks)

        return {
            "keys": member.keys,
            "shares": lambda: member.deposit(invitation, blocks),
            "masks": lambda: member.mask({1: words}, partners, blocks),
            "recovery": reveal,
        }


def main() -> None:
    """Measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--cohort", type=int, default=10)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    prepare_process(1)
    with tempfile.TemporaryDirectory() as folder:
        train, elements = step(Path(folder))
        words, update = torch.zeros(elements, dtype=torch.int64), torch.randn(elements)
        stages = Cohort(given.cohort, elements).stages(words)
        runs: dict[str, Callable[[], object]] = {
            "step": train,
            "rounding": lambda: rounded(update, 50, elements, SCALE),
            "one mask": lambda: add_mask(words, bytes(32), 1),
            **stages,
        }
        seconds = interleaved(runs, repeats=given.repeats)
    steps = seconds.pop("step")
    seconds = {"local epoch": [IMAGES / BATCH * one for one in steps], **seconds}
    whole = min(seconds["local epoch"])
    rows: list[Row] = [
        {
            "what": name,
            "median [s]": round(sorted(found)[len(found) // 2], 4),
            "least [s]": round(min(found), 4),
            "of an epoch": f"{min(found) / whole:.1%}",
        }
        for name, found in seconds.items()
    ]
    report(f"{elements:,} elements, {IMAGES} images, a cohort of {given.cohort}", rows, given.json)


if __name__ == "__main__":
    main()
