"""The central table: networks and convolutions trained by configs/central.toml, beside their costs.

    python benchmarks/central.py resnet20 fmdconv --seed 1 --set data.root=cifar10-jpeg    one run of it
    python benchmarks/central.py --table                                                   Markdown

What a run leaves is kept in docs/results/data/central. Runs may share a machine: IES and RCS are therefore by
MACs of inference. `benchmarks/gpu.py --sections central` measures seconds of an epoch.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from keep import keep_run, other_keys

from fedfmd.config.experiment import load_config
from fedfmd.costs.scores import inverse_efficiency, rate_correct

HERE = Path(__file__).resolve().parent.parent
KEPT = HERE / "docs/results/data/central"
NETWORKS = ("resnet20", "resnet18")
NAMES = {
    "static": "static",
    "se": "squeeze-and-excitation",
    "condconv": "CondConv, K = 4",
    "dyconv": "DyConv, K = 4",
    "odconv": "ODConv, K = 4",
    "fmdconv": "FMDConv, K = 4",
    "kernelwarehouse": "KernelWarehouse, 1x",
}
COLUMNS = (
    "seeds",
    "top-1 (%)",
    "top-5 (%)",
    "parameters (M)",
    "MMACs an image",
    "IES (MMACs)",
    "RCS (1/GMAC)",
)


def make(network: str, conv: str, seed: int, options: list[str]) -> None:
    """Make a run, unless it is there, and keep what it leaves; raise ``CalledProcessError`` if it fails."""
    folder = Path("runs") / f"central-{network}-{conv}-seed{seed}"
    if not (folder / "summary.json").is_file():
        sets = [f"model.name={network}", f"model.conv={conv}", f"seed={seed}", *options]
        arguments = [str(HERE / "configs/central.toml"), *(word for key in sets for word in ("--set", key))]
        command = [sys.executable, "-m", "fedfmd", "train", *arguments, "--out", str(folder)]
        subprocess.run(command, check=True)
    if differing := not_the_tables(network, conv, seed, folder):
        print(f"{folder} is not kept: it is a run with {differing}, where the table has none")
    else:
        keep_run(folder, KEPT / f"{network}-{conv}-seed{seed}")


def not_the_tables(network: str, conv: str, seed: int, folder: Path) -> str:
    """Return the keys in which a run directory is not the table's run, but for places."""
    made = load_config(folder / "config.toml")
    places = {"train.device": made.train.device, "train.threads": made.train.threads} if made.train else {}
    own = {"seed": seed, "data.name": made.data.name, "data.root": made.data.root, **places}
    asked = load_config(HERE / "configs/central.toml", {"model.name": network, "model.conv": conv, **own})
    return other_keys(made, asked)


def table() -> str:
    """Return a Markdown table of the runs that were made, by network."""
    lines = []
    for network in NETWORKS:
        rows = [row for conv in NAMES if (row := _row(network, conv))]
        if rows:
            lines += [f"| {network} | {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * len(COLUMNS)]
            lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    return "\n".join(lines)


def _row(network: str, conv: str) -> list[str] | None:
    files = sorted(KEPT.glob(f"{network}-{conv}-seed*/summary.json"))
    runs = [json.loads(file.read_text()) for file in files]
    if not runs:
        return None
    top1 = [run["final_top1"] for run in runs]
    spread = f" ± {100 * statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
    mean, macs = statistics.fmean(top1), runs[0]["forward_macs"]
    ies, rcs = inverse_efficiency(macs / 1e6, mean), rate_correct(mean, 1, macs / 1e9)
    return [
        NAMES[conv],
        str(len(runs)),
        f"{100 * mean:.2f}{spread}",
        f"{100 * statistics.fmean(run['final_top5'] for run in runs):.2f}",
        f"{runs[0]['parameters'] / 1e6:.2f}",
        f"{macs / 1e6:.1f}",
        f"{ies:.1f}",
        f"{rcs:.1f}",
    ]


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", nargs="?", choices=NETWORKS)
    parser.add_argument("conv", nargs="?", choices=NAMES, default="fmdconv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--table", action="store_true", help="print the table of what was made")
    chosen = parser.parse_args()
    if chosen.network:
        try:
            make(chosen.network, chosen.conv, chosen.seed, chosen.set)
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)
    print(table())


if __name__ == "__main__":
    main()
