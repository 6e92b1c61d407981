"""The processes that train together, started by `torchrun`; alone, a process is a world of one."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fedfmd.errors import RunError, UserError

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class World:
    """Who this process is among the others."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank on this machine: the number of the GPU to use."""
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one process that prints and writes."""
        return self.rank == 0

    def share(self, samples: int) -> tuple[int, int]:
        """Return start and stop of this process's part of ``samples``; the parts differ by one at most."""
        return self.rank * samples // self.size, (self.rank + 1) * samples // self.size

    def wrap(self, model: nn.Module) -> nn.Module:
        """Let the gradients of ``model`` be averaged over the processes."""
        return DistributedDataParallel(model) if self.size > 1 else model

    def total(self, values: Tensor) -> Tensor:
        """Sum ``values`` over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the leader's values."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def led(self, action: Callable[[], Result]) -> Result:
        """Let only the leader do something; everybody gets its result, or its error."""
        if self.size == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.leads:
            try:
                outcome = [action(), None]
            except (UserError, RunError) as error:
                outcome = [None, error]
        dist.broadcast_object_list(outcome, 0)
        if outcome[1] is not None:
            raise outcome[1]
        result: Result = outcome[0]
        return result


@contextmanager
def joined() -> Iterator[World]:
    """Meet the other processes that `torchrun` has started, if it has; part from them at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield World(
            rank=dist.get_rank(),
            size=size,
            local_rank=local_rank,
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", size)),
        )
    finally:
        dist.destroy_process_group()
