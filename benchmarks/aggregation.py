"""Processor milliseconds that the server of a round spends on the sums of two workers of its machine.

    python benchmarks/aggregation.py

A ResNet-18 of 11.2 M elements, one thread: the vector is written where workers look, two sums arrive, are
checked and merged, and FedAvg applies their mean. Processor time of this process, which other work on the
machine changes little; training, rows and the checkpoint do not count.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedfmd.aggregation import ExactSum, Scale, server_optimizer
from fedfmd.machine.process import prepare_process
from fedfmd.nn import kernels
from fedfmd.workers.exchange import Exchange

ELEMENTS = 11_173_962
WEIGHT = 60
ROUNDS = 12
WARM = 2
"""Rounds that do not count."""


class Clock:
    """Collects the processor seconds of named steps, by round."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        before = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - before


def one_round(exchange: Exchange, vector: torch.Tensor, clock: Clock) -> torch.Tensor:
    with clock.step("write the vector"):
        exchange.write(vector)
    with clock.step("start a sum"):
        scale = Scale.for_round(vector, 2 * WEIGHT)
        total = ExactSum.zero(ELEMENTS, scale)
    for node in (0, 1):
        there = ExactSum.zero_in(exchange.place(node).open_sum(), scale)  # the worker's part: not counted
        there.add(vector * 0.01, WEIGHT)
        with clock.step("check"):
            arrived = ExactSum(scale, exchange.sum(node), there.weights, borrowed=True)
            arrived.check(lambda _: None)
        with clock.step("merge"):
            total.merge(arrived)
    with clock.step("mean"):
        mean = total.mean()
    with clock.step("apply"):
        return torch.cat([OPTIMIZER.step(vector, mean), torch.empty(0)])


OPTIMIZER = server_optimizer("fedavg", learning_rate=1.0, momentum=0.9, beta2=0.99, tau=1e-3)


def main() -> None:
    kernels.available()
    prepare_process(1)
    vector = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(0)) * 0.05
    clocks = [Clock() for _ in range(ROUNDS)]
    exchange = Exchange.create(ELEMENTS, [0, 1])
    if exchange is None:
        raise SystemExit("no shared memory")
    try:
        for clock in clocks:
            vector = one_round(exchange, vector, clock)
    finally:
        exchange.close()
    counted = [clock.seconds for clock in clocks[WARM:]]
    medians = {name: statistics.median(one[name] for one in counted) for name in counted[0]}
    for name, seconds in medians.items():
        print(f"{name:20}{1e3 * seconds:8.1f} ms")
    print(f"{'together':20}{1e3 * sum(medians.values()):8.1f} ms")


if __name__ == "__main__":
    main()
