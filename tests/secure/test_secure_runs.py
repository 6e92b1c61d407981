"""Whole runs with secure sums: the bits of the plain run, what is told of clients, what it costs."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from orders import order_for
from safetensors.torch import load_file

from fedfmd.config.experiment import changed, parse_config
from fedfmd.errors import RunError, UserError
from fedfmd.experiment import Experiment
from fedfmd.nn.submodel import WHOLE
from fedfmd.planning.bill import costing_in, planned_row
from fedfmd.planning.budget import limits_of
from fedfmd.planning.demand import demand
from fedfmd.records.cost import Cost
from fedfmd.records.rundir import RunDirectory
from fedfmd.registry import register
from fedfmd.rounds.forecast import forecast, opened
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.knowledge import Knowledge
from fedfmd.rounds.lifecycle import execute, open_experiment, start_run
from fedfmd.rounds.secure import VirtualMembers
from fedfmd.rounds.synchronous import SynchronousDispatcher
from fedfmd.secure import Deposit, Invitation, PublicKeys, Question, Revealed, SealedShares, Seat, Session
from fedfmd.wire.plan import ClientPlan
from fedfmd.wire.secure import SecureOrder, graph_seed

CLIENTS = 8
TINY: dict[str, Any] = {
    "data": {"train_samples": 80, "test_samples": 10},
    "partition": {"clients": CLIENTS, "min_size": 3},
    "model": {"name": "resnet8", "width": 0.25, "conv": "static"},
    "client": {"batch_size": 10},
    "server": {"rounds": 2, "cohort": 7},
    "backend": {"kind": "inline"},
    "logging": {"tensorboard": False},
}
SECURE: dict[str, Any] = {"privacy": {"secure": "secagg"}}
COUNTED: dict[str, Any] = {"privacy": {"secure": "secagg", "masks": "counted"}}
LEAVING: dict[str, Any] = {
    "faults": {
        "at": [
            {"round": 1, "client": 1, "kind": "leave-keys"},
            {"round": 1, "client": 2, "kind": "leave-unmasking"},
            {"round": 2, "client": 3, "kind": "leave-shares"},
            {"round": 2, "client": 4, "kind": "nan"},
        ]
    }
}
STRONG: dict[str, Any] = {"name": "strong"}
WEAK: dict[str, Any] = {"name": "weak", "budget": {"macs_fraction": 0.4}}
PARTS: dict[str, Any] = {
    "policy": {"kind": "width", "widths": [1.0, 0.5], "classifier_rows": "holders"},
    "devices": {
        "kind": "tiers",
        "tiers": [STRONG, WEAK],
    },
}
SCAFFOLD: dict[str, Any] = {"client": {"scaffold": True, "momentum": 0.0, "batch_size": 10}}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFMD_CACHE", str(tmp_path_factory.getbasetemp() / "secure-cache"))


def run(out: Path, *changes: dict[str, Any], seed: int = 0) -> RunDirectory:
    document: dict[str, Any] = {"seed": seed, **TINY}
    for change in changes:
        document |= {name: document.get(name, {}) | section for name, section in change.items()}
    directory = start_run(parse_config(document), out)
    execute(directory, InlineExecutor)
    return directory


def tensors(directory: RunDirectory) -> dict[str, bytes]:
    """Return the final model's tensors as bytes."""
    found = load_file(directory.path / "model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in found.items()}


@pytest.mark.parametrize(
    "changes", [[LEAVING], [LEAVING, PARTS], [SCAFFOLD]], ids=["leaving", "parts", "extra sums"]
)
def test_the_model_has_the_bits_of_the_plain_run(tmp_path: Path, changes: list[dict[str, Any]]) -> None:
    """The same cohort, scale and drop-outs, at each stage; masks that are real, and such as are counted.

    With parts every block has three holders in both rounds, so that none is left out.
    """
    plain = run(tmp_path / "plain", *changes)
    runs = [run(tmp_path / "real", *changes, SECURE), run(tmp_path / "counted", *changes, COUNTED)]
    for secure in runs:
        assert tensors(secure) == tensors(plain)
        for row, other in zip(secure.rounds()[1:], plain.rounds()[1:], strict=True):
            assert row["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)
            assert (row["completed"], row["dropped"]) == (other["completed"], other["dropped"])
    real, counted = (directory.client_rows(1) for directory in runs)
    assert [row.secure_stages for row in real] == [row.secure_stages for row in counted]
    assert all(row.secure_seconds > 0 for row in real if row.used)


def test_a_row_tells_nothing_that_one_client_has_measured(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", SECURE, {"server": {"rounds": 1}})
    rows = directory.client_rows(1)
    assert {(row.examples, row.train_loss, row.loss_rms) for row in rows} == {(None, None, None)}
    elements = open_experiment(directory).sent_elements(WHOLE)
    assert {row.uplink_bytes for row in rows if row.used} == {8 * elements}
    assert {row.downlink_bytes for row in rows} == {4 * elements}
    cost = Cost.total(row.cost for row in rows)
    last = directory.rounds()[-1]["cumulative"]
    assert last["bytes"] == cost.bytes > cost.downlink_bytes + cost.uplink_bytes
    assert last["secure_macs"] == cost.secure_macs > 0


def test_too_few_who_answer_repeat_the_round_with_the_reason(tmp_path: Path) -> None:
    """All but two leave with the last stage unanswered, in every attempt: the run stops and says why."""
    leave = [{"round": 1, "client": c, "kind": "leave-unmasking"} for c in range(6)]
    with pytest.raises(RunError, match=r"secure sum: \d told their shares of client 0's secrets, 5 have to"):
        run(tmp_path / "run", SECURE, {"faults": {"at": leave}, "server": {"max_retries": 1}})
    rows = RunDirectory.open(tmp_path / "run").client_rows(1)
    assert {row.attempt for row in rows} == {0, 1}
    assert all(row.status == "dropped" and row.macs for row in rows)
    assert Cost.total(row.cost for row in rows).wasted_macs == sum(row.macs for row in rows)


def test_fewer_than_three_survivors_have_no_sum(tmp_path: Path) -> None:
    faults = [{"round": 1, "client": c, "kind": "raise"} for c in range(6)]
    with pytest.raises(RunError, match=r"secure sum: \d clients sent a masked update, .*min_holders = 3"):
        run(tmp_path / "run", SECURE, {"faults": {"at": faults}, "server": {"max_retries": 0}})


def test_what_too_few_hold_is_not_sent_and_keeps_its_value(tmp_path: Path) -> None:
    """Two strong clients: what they alone hold stays, what all hold moves as in the plain run."""
    few = {"devices": {"tiers": [{"share": 3, **STRONG}, {"share": 9, **WEAK}]}, "server": {"rounds": 1}}
    changes: list[dict[str, Any]] = [PARTS, few]
    found = [run(tmp_path / f"{len(more)}", *changes, *more, seed=1) for more in ([], [SECURE])]
    plain, secure = (open_experiment(directory) for directory in found)
    rows = found[1].client_rows(1)
    strong = [row.client for row in rows if row.plan["width"] == 1.0]
    assert len(strong) == 2
    start, ends = (
        secure.network.build().state_dict(),
        [load_file(d.path / "model.safetensors") for d in found],
    )
    moved = held_alone = 0
    for name, before in start.items():
        same = ends[0][name] == ends[1][name]
        kept = ends[1][name] == before
        assert bool((same | kept).all()), name
        moved += int((same & ~kept).sum())
        held_alone += int((~same).sum())
    assert moved > 0 < held_alone
    weak = next(row for row in rows if row.plan["width"] == 0.5)
    elements = plain.network.part(ClientPlan.from_row(weak.plan, weak.steps).share).layout.elements
    assert {row.uplink_bytes for row in rows if row.used} == {8 * elements}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"server": {"mode": "buffered", "buffer": 3}}, "server.mode = 'sync'"),
        ({"compression": {"uplink": "int8"}}, "compression.uplink = 'none'"),
        ({"server": {"aggregation": "median"}}, "server.aggregation = 'mean'"),
        ({"selection": {"kind": "oort"}}, "looks at no client's loss or accuracy"),
        ({"selection": {"kind": "tifl"}}, "looks at no client's loss or accuracy"),
        ({"partition": {"holdout": 0.2}}, "no client that measures by itself"),
        ({"evaluation": {"clients": 2}}, "no client that measures by itself"),
        ({"policy": {"kind": "kernels", "kernel_mode": "usage"}}, "policy.kernel_mode other than 'usage'"),
        ({"policy": {"kind": "width"}}, "policy.classifier_rows = 'holders'"),
        ({"diagnostics": {"enabled": True}}, "diagnostics.enabled = false"),
        ({"model": {"norm": "bn"}, "evaluation": {"static_norms": True}}, "evaluation.static_norms = false"),
        ({"server": {"cohort": 2}}, "server.cohort at least privacy.min_holders"),
    ],
)
def test_what_needs_a_single_client_is_refused(changes: dict[str, Any], reason: str) -> None:
    document = {"devices": {"kind": "lognormal"}, "model": {"kernels": 4}, **SECURE}
    with pytest.raises(UserError, match=r"privacy\.secure = 'secagg': needs") as caught:
        changed(document, changes)
    assert reason in str(caught.value)


def test_a_selection_of_ones_own_that_looks_at_history_is_refused_unless_it_judges_nobody() -> None:
    def mine(draw: Any, history: Any) -> None:
        del draw, history

    register("selection", "looks-at-history")(mine)
    register("selection", "judges-nobody", judges=False)(mine)
    assert changed(SECURE, {"selection": {"kind": "judges-nobody"}}).selection.kind == "judges-nobody"
    with pytest.raises(UserError, match="looks at no client's loss"):
        changed(SECURE, {"selection": {"kind": "looks-at-history"}})


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", SECURE, LEAVING)
    part = start_run(whole.config, tmp_path / "part")

    class StopError(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row["round"] == 1:
            raise StopError

    with pytest.raises(StopError):
        execute(part, InlineExecutor, stop)
    again = RunDirectory.open(part.path)
    execute(again, InlineExecutor)
    assert tensors(again) == tensors(whole)


class Recorder(VirtualMembers):
    """Virtual clients whose session and answers are kept."""

    def reveal(self, session: Session, questions: Mapping[int, Question]) -> dict[int, Revealed]:
        self.session = session
        self.answers = super().reveal(session, questions)
        return self.answers


class Recording(InlineExecutor):
    def members(self, experiment: Experiment, round: int, attempt: int) -> Recorder:
        self.found = Recorder(experiment, round, attempt)
        return self.found


NUMBER_BYTES = 4
Sized = PublicKeys | Invitation | SealedShares | Deposit | Question | Revealed


def payload_bytes(message: Sized) -> int:
    """Return the size of a message's keys, shares and numbers, without the text around them."""
    match message:
        case PublicKeys(masking=masking, sealing=sealing):
            return (len(masking) + len(sealing)) // 2
        case Invitation(seats=seats, keys=keys):
            return sum(NUMBER_BYTES + len(seat.part) for seat in seats) + sum(map(payload_bytes, keys))
        case SealedShares(text=text):  # with the other's number
            return NUMBER_BYTES + len(text) // 2
        case Deposit(sealed=sealed):
            return sum(map(payload_bytes, sealed))
        case Question(survivors=survivors):
            return NUMBER_BYTES * len(survivors)
        case Revealed(own_masks=own_masks, masking=pairs):
            own = sum(2 * NUMBER_BYTES + len(one.share) // 2 for one in own_masks)
            return own + sum(NUMBER_BYTES + len(one.share) // 2 for one in pairs)


def test_the_bill_is_the_size_of_the_messages(tmp_path: Path) -> None:
    """Every message of a round with drop-outs, weighed, against the formulas that plans and bills use."""
    config = parse_config(TINY | SECURE | PARTS | LEAVING)
    experiment = open_experiment(start_run(config, tmp_path / "run"))
    executor = Recording(experiment)
    model = experiment.network.build()
    vector = torch.cat([tensor.flatten() for tensor in model.state_dict().values()])
    rows = SynchronousDispatcher(experiment, executor, Knowledge()).attempt(1, 0, vector).rows
    session, answers = executor.found.session, executor.found.answers
    invitations = session.invitations()
    for row in rows:
        client, down, up = row.client, 0, 0
        if client in session.keys:
            down += payload_bytes(invitations[client])
            up += payload_bytes(session.keys[client])
        if client in session.deposits:
            down += sum(map(payload_bytes, session.sealed_for(client)))
            up += payload_bytes(session.deposits[client])
        if client in answers:
            down += payload_bytes(session.question)
            up += payload_bytes(answers[client])
        assert (row.secure_downlink_bytes, row.secure_uplink_bytes) == (down, up), client
        stages = row.secure_stages
        assert down + up == sum(figure or 0 for name, figure in stages.items() if name.endswith("_bytes"))
    assert len(session.visible) > 2


def test_a_virtual_client_is_billed_for_the_keys_that_a_real_one_is_sent(tmp_path: Path) -> None:
    """A worker's order holds the keys of all; each client would be told those of its neighbours, 54 of 99."""
    experiment = open_experiment(start_run(parse_config(TINY | SECURE), tmp_path / "run"))
    of_all = SecureOrder(
        seats=tuple(Seat(client=c, part="") for c in range(100)),
        keys=tuple(PublicKeys(client=c, masking="00" * 32, sealing="11" * 32) for c in range(100)),
    )
    near = of_all.partners(3, graph_seed(experiment.config.seed, 1, 0), parts=False)
    assert len(near) == 54
    order = order_for(3, secure=of_all)
    alone = replace(order, secure=replace(of_all, keys=near))
    sizes = [planned_row(costing_in(experiment, o, 3), o, 3).downlink_wire_bytes for o in (order, alone)]
    assert sizes[0] == sizes[1]


def test_budgets_and_the_plan_count_it(tmp_path: Path) -> None:
    """What would fit without the masks does not fit with them; a fraction is of the whole with them."""
    plain, secure = parse_config(TINY), parse_config(TINY | SECURE)
    with opened(plain) as one, opened(secure) as other:
        share = SynchronousDispatcher(other, InlineExecutor(other), Knowledge()).planner.full
        bare, masked = (demand(e, share, e.participant(0)) for e in (one, other))
        assert masked.in_all.macs == bare.macs + masked.secure.macs > bare.macs
        assert masked.in_all.uplink_bytes == 2 * bare.uplink_bytes + masked.secure.uplink_bytes
        found = forecast(other).totals
    directory = run(tmp_path / "run", SECURE)
    for name in ("secure_macs", "secure_downlink_bytes", "secure_uplink_bytes", "uplink_bytes"):
        assert getattr(found, name) == sum(row[name] for row in directory.rounds()), name
    drop: dict[str, Any] = {"policy": {"kind": "drop"}}
    limited = changed(TINY | SECURE | drop, {"budget": {"uplink_bytes": bare.uplink_bytes * 2}})
    with opened(limited) as experiment:
        planner = SynchronousDispatcher(experiment, InlineExecutor(experiment), Knowledge()).planner
        assert "uplink_bytes" in planner.plan(0, 1, {}).reason  # type: ignore[union-attr]
    fraction = changed(TINY | SECURE | drop, {"budget": {"bytes_fraction": 1.0, "macs_fraction": 1.0}})
    with opened(fraction) as experiment:
        limits = limits_of(experiment, experiment.participant(0))
        assert limits.uplink_bytes == masked.in_all.uplink_bytes
        planner = SynchronousDispatcher(experiment, InlineExecutor(experiment), Knowledge()).planner
        assert planner.plan(0, 1, {}) == planner.full
