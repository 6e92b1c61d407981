"""Seconds a round and memory of the engine, beside a plain PyTorch loop and stock Flower.

    python benchmarks/engine.py                      everything, into benchmarks/figures/engine.json
    python benchmarks/engine.py --case S-10          renews this case's rows there
    python benchmarks/engine.py --case S-10 --rounds 6 --repeats 1 --no-record

Workloads: S is a ResNet-8 with 50 images a client, L a ResNet-18 (11.2 M parameters) with 6 a client, both
static, with GroupNorm and one local epoch of SGD; XL is an FMDConv ResNet-18 (44.8 M) with one image a
client, for the memory of its server alone. Every variant trains the same number of images a round in a
fresh process; the first round (warm-up) and the last (evaluation) do not count. The variants take turns,
`--repeats` times: seconds are medians, and so are the ratios, each to the faster plain loop of its own turn.
Memory is the sum of the proportional set sizes (PSS) of all processes of the variant, at its peak; the
server's is also given alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).parent / "figures" / "engine.json"
MARKER = "FEDFMD_BENCHMARK"
CASES = {
    "S-10": {"model": "resnet8", "samples": 50, "cohort": 10, "population": 100},
    "S-100": {"model": "resnet8", "samples": 50, "cohort": 100, "population": 100},
    "L-10": {"model": "resnet18", "samples": 6, "cohort": 10, "population": 100},
    "S-10-million": {"model": "resnet8", "samples": 50, "cohort": 10, "population": 1_000_000},
    "XL-10": {"model": "resnet18", "conv": "fmdconv", "samples": 1, "cohort": 10, "population": 100},
    "XL-100": {"model": "resnet18", "conv": "fmdconv", "samples": 1, "cohort": 100, "population": 100},
}
VARIANTS = ("plain-1x2", "plain-2x1", "inline", "inline-2x1", "ray-2x1", "flower")
"""Processes x threads; `inline` alone is one process of two threads."""
ROUNDS = {"S-10": 12, "S-100": 5, "L-10": 6, "S-10-million": 12, "XL-10": 4, "XL-100": 4}
SKIPPED = {
    "S-10-million": {"flower"},  # a million nodes: registration alone takes longer than the run
    "XL-10": {"plain-1x2", "plain-2x1", "inline", "inline-2x1", "flower"},
    "XL-100": {"plain-1x2", "plain-2x1", "inline", "inline-2x1", "flower"},
}
Case = dict[str, Any]
Times = list[float]


def config_of(case: Case, variant: str, rounds: int) -> Any:
    from fedfmd.config.experiment import parse_config

    return parse_config(
        {
            "name": "benchmark",
            "data": {"train_samples": 10_000, "test_samples": 100},
            "partition": {
                "scheme": "sampled",
                "clients": case["population"],
                "samples_per_client": case["samples"],
            },
            "model": {"name": case["model"], "conv": case.get("conv", "static")},
            "client": {"batch_size": 32},
            "server": {"rounds": rounds, "cohort": case["cohort"]},
            "evaluation": {"every": 1_000_000},
            "backend": {
                "kind": "ray" if variant == "ray-2x1" else "inline",
                "workers": 2 if variant in ("ray-2x1", "inline-2x1") else 1,
                "threads": 1 if variant in ("ray-2x1", "inline-2x1") else 2,
            },
        }
    )


def run_engine(case: Case, variant: str, rounds: int, folder: Path) -> Times:
    """Time every round as the caller sees it: ledgers and checkpoint included."""
    from fedfmd.launch import launching
    from fedfmd.rounds.lifecycle import start_run

    times = [time.perf_counter()]
    config = config_of(case, variant, rounds)

    def on_round(row: dict[str, Any]) -> None:
        del row
        times.append(time.perf_counter())

    with launching(config.backend) as launch:
        launch(start_run(config, folder / "run"), on_round, None)
    return times


class PlainClient:
    """What anybody writes: load the global weights, train, add the result to a sum."""

    def __init__(self, threads: int, folder: Path):
        from fedfmd.machine.process import prepare_process
        from fedfmd.records.rundir import RunDirectory
        from fedfmd.rounds.lifecycle import open_experiment

        prepare_process(threads)
        self.experiment = open_experiment(RunDirectory.open(folder / "run"))
        self.model = self.experiment.network.build()

    def train(self, clients: list[int], state: dict[str, Any]) -> dict[str, Any]:
        """Sum of the clients' weights, float32, as plain loops do it."""
        import torch

        total = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        for client in clients:
            self._train_one(client, state)
            for name, tensor in self.model.state_dict().items():
                total[name] += tensor
        return total

    def _train_one(self, client: int, state: dict[str, Any]) -> None:
        import torch
        from torch.nn.functional import cross_entropy

        experiment = self.experiment
        images, labels = experiment.trained_on(client)
        self.model.load_state_dict(state)
        self.model.train()
        optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True
        )
        rng = torch.Generator().manual_seed(client)
        for batch in torch.randperm(len(labels), generator=rng).split(32):
            inputs = experiment.augment.train_batch(images[batch], rng)
            optimizer.zero_grad()
            cross_entropy(self.model(inputs), labels[batch]).backward()
            optimizer.step()


def plain_worker(folder: Path, orders: Any, replies: Any) -> None:
    worker = PlainClient(1, folder)
    replies.put(None)
    for clients, state in iter(orders.get, None):
        replies.put(worker.train(clients, state))


def run_plain(case: Case, variant: str, rounds: int, folder: Path) -> Times:
    from fedfmd.rounds.lifecycle import start_run
    from fedfmd.rounds.packing import pack_clients
    from fedfmd.selection.cohort import Selector

    config = config_of(case, variant, rounds)
    start_run(config, folder / "run")
    train, stop = _plain_trainer(variant, folder)
    state = {n: t.clone() for n, t in PlainClient(2, folder).model.state_dict().items()}
    times = [time.perf_counter()] * 2
    for round in range(1, rounds + 1):
        groups = pack_clients(
            dict.fromkeys(Selector(config).draw(round).chosen, 1.0), 2 if "2x1" in variant else 1
        )
        totals = train([list(group) for group in groups], state)
        state = {name: sum(t[name] for t in totals) / case["cohort"] for name in state}
        times.append(time.perf_counter())
    stop()
    return times


def _plain_trainer(variant: str, folder: Path) -> tuple[Callable[..., Any], Callable[[], None]]:
    if variant == "plain-1x2":
        client = PlainClient(2, folder)
        return lambda groups, state: [client.train(group, state) for group in groups], lambda: None
    from torch import multiprocessing

    context = multiprocessing.get_context("spawn")
    queues = [(context.Queue(), context.Queue()) for _ in range(2)]
    workers = [context.Process(target=plain_worker, args=(folder, *pair)) for pair in queues]
    for worker in workers:
        worker.start()
    for _, replies in queues:
        replies.get()

    def train(groups: list[list[int]], state: dict[str, Any]) -> list[Any]:
        used = queues[: len(groups)]
        for (orders, _), group in zip(used, groups, strict=True):
            orders.put((group, state))
        return [replies.get() for _, replies in used]

    def stop() -> None:
        for orders, _ in queues:
            orders.put(None)
        for worker in workers:
            worker.join()

    return train, stop


def run_flower(case: Case, variant: str, rounds: int, folder: Path) -> Times:
    """Flower's own FedAvg: one message a client, one node a client."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    from fedfmd.rounds.lifecycle import start_run

    start_run(config_of(case, variant, rounds), folder / "run")
    times = [time.perf_counter()]
    server_app, client_app = ServerApp(), ClientApp()
    kept: dict[str, PlainClient] = {}

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        if "client" not in kept:
            kept["client"] = PlainClient(1, folder)
        client = kept["client"]
        state = message.content["arrays"].to_torch_state_dict()
        client._train_one(int(context.node_config["partition-id"]), state)
        content = RecordDict(
            {
                "arrays": ArrayRecord(client.model.state_dict()),
                "metrics": MetricRecord({"num-examples": case["samples"]}),
            }
        )
        return Message(content, reply_to=message)

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        del context

        def on_round(server_round: int, arrays: ArrayRecord) -> None:
            del server_round, arrays
            times.append(time.perf_counter())

        strategy = FedAvg(
            fraction_train=case["cohort"] / case["population"],
            fraction_evaluate=0.0,
            min_available_nodes=case["population"],
        )
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(PlainClient(2, folder).model.state_dict()),
            num_rounds=rounds,
            evaluate_fn=on_round,
        )

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=case["population"],
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"address": "local", "num_cpus": 2, "include_dashboard": False},
        },
    )
    return times


class PeakMemory(threading.Thread):
    """Watches the memory of every process that inherited the marker."""

    def __init__(self, marker: str):
        super().__init__(daemon=True)
        self.marker = f"{MARKER}={marker}".encode()
        self.peak_bytes = 0
        self.server_peak_bytes = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.5):
            sizes = {process: self._pss(process) for process in Path("/proc").iterdir()}
            servers = (size for process, size in sizes.items() if size and self._is_server(process))
            self.peak_bytes = max(self.peak_bytes, sum(sizes.values()))
            self.server_peak_bytes = max(self.server_peak_bytes, sum(servers))

    def _pss(self, process: Path) -> int:
        try:
            if not process.name.isdigit() or self.marker not in (process / "environ").read_bytes():
                return 0
            lines = (process / "smaps_rollup").read_text().splitlines()
            return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
        except OSError:
            return 0

    def _is_server(self, process: Path) -> bool:
        try:
            return b"--inside" in (process / "cmdline").read_bytes()
        except OSError:
            return False


def measure(case_name: str, variant: str, rounds: int) -> dict[str, Any]:
    """Run one variant in a fresh process."""
    marker = uuid.uuid4().hex
    environment = {
        **os.environ,
        MARKER: marker,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    memory = PeakMemory(marker)
    memory.start()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--inside", folder, "--case", case_name, "--variant", variant]
        done = subprocess.run(
            [*command, "--rounds", str(rounds)], env=environment, capture_output=True, text=True, check=False
        )
    memory.done.set()
    if done.returncode:
        raise SystemExit(f"{case_name} {variant} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    times = json.loads(done.stdout.splitlines()[-1])
    seconds = [b - a for a, b in pairwise(times)]
    counted = seconds[2:-1]
    return {
        "case": case_name,
        "variant": variant,
        "seconds_a_round": statistics.median(counted),
        "seconds_fastest": min(counted),
        "seconds_until_first_round": seconds[0],
        "seconds_first_round": seconds[1],
        "peak_memory_bytes": memory.peak_bytes,
        "server_peak_memory_bytes": memory.server_peak_bytes,
        "rounds": len(counted),
    }


def inside(arguments: argparse.Namespace) -> None:
    case, folder, (variant,) = CASES[arguments.case], Path(arguments.inside), arguments.variant
    run = {"plain": run_plain, "flower": run_flower}.get(variant.split("-")[0], run_engine)
    times = run(case, variant, arguments.rounds, folder)
    print()
    print(json.dumps(times))


def with_ratios(turn: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put each variant beside the faster plain loop of the same turn; null without one."""
    best = min((r["seconds_a_round"] for r in turn if r["variant"].startswith("plain")), default=None)
    return [{**r, "ratio_to_plain": r["seconds_a_round"] / best if best else None} for r in turn]


def combined(turns: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Give the medians over the turns, and the most memory."""
    rows = []
    for same in zip(*turns, strict=True):
        row = dict(same[0], turns=[r["seconds_a_round"] for r in same])
        for key, value in same[0].items():
            if isinstance(value, float):
                row[key] = statistics.median(r[key] for r in same)
            if key.endswith("memory_bytes"):
                row[key] = max(r[key] for r in same)
        rows.append(row)
    return rows


def table(results: list[dict[str, Any]]) -> str:
    head = f"{'case':14}{'variant':12}{'s/round':>9}{'of plain':>10}{'1st round':>11}"
    lines = [f"{head}{'memory GB':>11}{'server GB':>11}"]
    for r in results:
        ratio = r["ratio_to_plain"]
        lines.append(
            f"{r['case']:14}{r['variant']:12}{r['seconds_a_round']:9.3f}"
            f"{'-' if ratio is None else format(ratio, '.2f'):>10}{r['seconds_first_round']:11.2f}"
            f"{r['peak_memory_bytes'] / 1e9:11.2f}{r['server_peak_memory_bytes'] / 1e9:11.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--variant", choices=VARIANTS, nargs="+", default=VARIANTS)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        inside(arguments)
        return
    results: list[dict[str, Any]] = []
    for case in [arguments.case] if arguments.case else CASES:
        variants = [v for v in arguments.variant if v not in SKIPPED.get(case, ())]
        rounds = arguments.rounds or ROUNDS[case]
        turns = [[measure(case, v, rounds) for v in variants] for _ in range(arguments.repeats)]
        rows = combined([with_ratios(turn) for turn in turns])
        print(table(rows) if not results else table(rows).partition("\n")[2], flush=True)
        results += rows
    if not arguments.no_record:
        record(results)


def record(results: list[dict[str, Any]]) -> None:
    """Write the rows down, beside those of other cases from the same machine and versions."""
    from fedfmd.machine.environment import describe_environment

    environment = describe_environment()
    before = json.loads(FIGURES.read_text())
    same = all(
        before["environment"].get(key) == environment[key] for key in ("packages", "processor", "cores")
    )
    measured = {row["case"] for row in results}
    kept = [row for row in before["results"] if same and row["case"] not in measured]
    document = {"environment": environment, "load": os.getloadavg(), "results": [*kept, *results]}
    FIGURES.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
