"""What a simulation changes in Flower 1.41's engine, in its own process, and why.

Both are private places of Flower, hence the narrow version in ``pyproject.toml``; a test says when they move.
``flwr run`` works without them: slower between rounds, and less patient with machines that die.
"""

import threading
from queue import Queue
from typing import Any

from flwr.app import Message
from flwr.server.superlink.fleet.vce import vce_api
from flwr.simulation.ray_transport import ray_actor

DELIVERY_SECONDS = 0.002


def improve_simulation() -> None:
    """Deliver messages at once, and hand out workers in turn."""
    vce_api.add_messages_to_queue = deliver_messages
    ray_actor.BasicActorPool.submit = submit_in_turn  # type: ignore[method-assign,assignment]


def deliver_messages(
    state: Any, queue: Queue[Message], nodes_mapping: dict[int, int], f_stop: threading.Event
) -> None:
    """Move messages to the workers' queue; Flower looks for new ones only every 0.1 s."""
    while not f_stop.wait(DELIVERY_SECONDS):
        for node in nodes_mapping:
            for message in state.get_message_ins(node_id=node, limit=1):
                queue.put(message)


def submit_in_turn(pool: Any, actor_fn: Any, job: tuple[Any, Message, str, Any]) -> Any:
    """Give a job to the worker that has been idle longest.

    Flower takes the one that came back last: a worker on a dead machine fails at once, is back at once, and
    would get every job.
    """
    actor = pool.pool.pop(0)
    future = actor_fn(actor, *job)
    pool._future_to_actor[future] = actor
    return future
