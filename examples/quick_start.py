"""A run from Python, its rows as data frames, and a figure of the trade.

python examples/quick_start.py
python examples/quick_start.py server.rounds=2 client.epochs=1    # any keys of the config
"""

import sys

import fedfmd

result = fedfmd.simulate(
    "configs/quickstart.toml",
    overrides=["backend.kind=inline", *sys.argv[1:]],
    on_round=lambda row: print(f"round {row['round']}: top-1 {row['top1']:.1%}"),
)

rounds = result.rounds[["top1", "macs", "uplink_bytes", "cumulative.macs", "ies.macs"]]
print(rounds.tail(3).to_string())

spent = result.clients.groupby("client")["macs"].sum().sort_values(ascending=False)
share = spent.iloc[0] / spent.sum()
print(f"client {spent.index[0]} paid most: {spent.iloc[0] / 1e9:.1f} GMAC, {share:.0%} of all")
print(f"report: {result.report()}")
