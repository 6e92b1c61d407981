"""Compressed updates with error feedback (Seide et al. 2014; Karimireddy et al. 2019).

What enters the sum is what the server makes of the compressed update (``fedfmd.wire.compression``). What was
lost stays on the client, in the places of the whole model, and is added to its next update. Switched on by
``compression.uplink``; feedback by ``compression.error_feedback``.
"""

import torch
from torch import Tensor

from fedfmd.algorithms.base import Algorithm, ClientSide, Finished, Visit, put, taken
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.seeds import generator
from fedfmd.wire.compression import Compressor, compress_with_feedback, compressor
from fedfmd.wire.upload import sent_part, whole_update

RESIDUAL = "residual"


class ErrorFeedback(Algorithm):
    """Compress every update, and let the client remember what that lost."""

    name = "compression"
    switch = 'compression.uplink = "topk"'
    last = True

    def __init__(self, config: ExperimentConfig):
        super().__init__(config)
        self.keeps = (RESIDUAL,) if config.compression.keeps_residual else ()
        self.method = compressor(config.compression, config.own("compression"))

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether updates are compressed."""
        return config.compression.uplink != "none"

    def client(self, visit: Visit) -> ClientSide:
        """Compress this client's update."""
        return Compressing(visit, self.method, self.keeps)


class Compressing(ClientSide):
    """A client with a residual (elements of the whole,), zero before its first round."""

    def __init__(self, visit: Visit, method: Compressor, keeps: tuple[str, ...]):
        self.index, self.elements, self.seed = visit.index, visit.whole.elements, visit.seed
        self.residual, self.method, self.keeps = visit.kept.get(RESIDUAL), method, keeps
        self.local = visit.network.local

    def finish(self, update: Tensor, steps: int) -> Finished:
        """Send what the server makes of the compressed update; keep what was lost."""
        del steps
        own = None if self.residual is None else sent_part(taken(self.residual, self.index), self.local)
        rng = generator(self.seed, "compression")
        leaving = sent_part(update, self.local)
        sent, restored, whole = compress_with_feedback(leaving, own, self.method, rng)
        kept = {name: self._whole(whole_update(whole - restored, self.local)) for name in self.keeps}
        return Finished(update=whole_update(restored, self.local), sent=sent, kept=kept)

    def _whole(self, lost: Tensor) -> Tensor:
        """Put what a part lost beside what the rest of the model has lost before."""
        before = torch.zeros(self.elements) if self.residual is None else self.residual
        return put(lost, before, self.index)
