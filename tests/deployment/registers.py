"""A deployment to try things on, and a SuperLink that registers its clients."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedfmd.data.agreement import Agreement

AGREED = Agreement(("bird", "cat", "dog"), 16)
CONFIG: dict[str, Any] = {
    "name": "own",
    "data": {"name": "embedded", "train_samples": 100},
    "partition": {"scheme": "dirichlet", "alpha": 0.3},
    "server": {"cohort": 10},
}


class SuperLink:
    """What Flower's command line says, with a node for each key; it can be killed after its next answer."""

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.gone: set[str] = set()
        self.asked: list[str] = []
        self.killed = False

    def __call__(self, words: Sequence[str]) -> str:
        if words[1] == "list":
            listed = [{"node-id": node, "status": "online"} for node in self.nodes]
            return json.dumps(
                {
                    "nodes": listed + [{"node-id": n, "status": "unregistered"} for n in self.gone],
                    "success": True,
                }
            )
        self.asked.append(" ".join(words[1:2]))
        if words[1] == "unregister":
            self.nodes.pop(words[2])
            self.gone.add(words[2])
            return '{"success": true}'
        key, node = Path(words[2]).read_text(), str(7_000_000_000_000_000_000 + len(self.names))
        if key in self.nodes.values():
            return '{"success": false, "error-message": "Public key already in use"}'
        self.nodes[node], self.names[node] = key, words[words.index("--name") + 1]
        if self.killed:
            raise KeyboardInterrupt
        return f'Loading ...\n{{"success": true, "node-id": {node}}}'
