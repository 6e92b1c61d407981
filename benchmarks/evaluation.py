"""Time what clients' measuring costs beside the bare forward passes over the same images in one plain loop.

    python benchmarks/evaluation.py --clients 100 --repeats 7 --json benchmarks/figures/evaluation

Measured: `global`, and `affordable` of two tiers (half of the clients have half the width), from the work
order to the scores. Bare: the same networks, loaded once, over all images in full batches, and nothing else.
The goal is a ratio of at most 1.15.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from common import interleaved, milliseconds, report

from fedfmd.config.experiment import ExperimentConfig, parse_config
from fedfmd.experiment import Experiment
from fedfmd.machine.process import prepare_process
from fedfmd.nn.submodel import WHOLE, Share
from fedfmd.rounds.engine import FederatedRun
from fedfmd.rounds.examination import Examination
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import open_experiment, start_run


def config(args: argparse.Namespace) -> ExperimentConfig:
    """Return two tiers on the embedded images; the weak one affords half the width."""
    return parse_config(
        {
            "name": "evaluation",
            "data": {"train_samples": args.clients * args.samples, "test_samples": 20},
            "partition": {"scheme": "iid", "clients": args.clients, "holdout": 0.2},
            "model": {"name": args.model, "conv": args.conv, "stem": "cifar"},
            "server": {"cohort": 1, "rounds": 1},
            "evaluation": {"clients": "all"},
            "policy": {"kind": "width", "widths": [1.0, 0.5]},
            "devices": {
                "kind": "tiers",
                "tiers": [{"name": "a"}, {"name": "b", "budget": {"macs_fraction": 0.5}}],
            },
            "backend": {"kind": "inline", "threads": args.threads},
        }
    )


class Bare:
    """The same forward passes in one plain loop."""

    def __init__(self, experiment: Experiment, shares: dict[Share, list[int]]):
        self.experiment = experiment
        self.images = {
            share: torch.cat([experiment.tested_on(c)[0] for c in clients])
            for share, clients in shares.items()
        }
        self.models = {share: experiment.network.build_part(share).eval() for share in shares}

    @torch.inference_mode()
    def __call__(self) -> None:
        size = self.experiment.config.evaluation.batch_size
        for share, images in self.images.items():
            for batch in images.split(size):
                self.models[share](self.experiment.augment.eval_batch(batch))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument(
        "--samples", type=int, default=50, help="images of a client, a fifth of them held out"
    )
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--conv", default="fmdconv")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    prepare_process(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        directory = start_run(config(args), Path(folder) / "run")
        experiment = open_experiment(directory)
        run = FederatedRun(experiment, directory, InlineExecutor(experiment))
        examination: Examination = run.examination
        shares: dict[Share, list[int]] = {WHOLE: list(range(args.clients))}
        for client in range(args.clients):
            plan = examination.planner.plan(client, 1, {})
            share = plan.share  # type: ignore[union-attr]
            if not share.whole:
                shares.setdefault(share, []).append(client)
        bare = Bare(experiment, shares)
        timed = interleaved(
            {"bare": bare, "measured": lambda: examination.examine(1, run.model.vector)}, repeats=args.repeats
        )
    times = {name: milliseconds(seconds) for name, seconds in timed.items()}
    row = {
        "clients": args.clients,
        "images": sum(map(len, bare.images.values())),
        "bare ms": times["bare"]["median"],
        "measured ms": times["measured"]["median"],
        "x": round(times["measured"]["median"] / times["bare"]["median"], 3),
        "x of least": round(times["measured"]["least"] / times["bare"]["least"], 3),
    }
    report("What measuring on clients costs beside bare forward passes", [row], args.json)


if __name__ == "__main__":
    main()
