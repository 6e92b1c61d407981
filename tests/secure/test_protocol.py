"""The protocol by its laws: the plain sum to the bit, or no sum; and nothing else is told."""

import random
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import PLACES, Round
from torch import Tensor

from fedfmd.secure import FIGURES, BadSecretError, Question, VoidSumError
from fedfmd.secure.graph import degree_for, needed_shares, neighbours

PARTS = sorted(PLACES)


@st.composite
def federations(draw: st.DrawFn) -> Round:
    """Draw clients with parts, and for each the stage at which it leaves, if it does."""
    clients = draw(st.integers(3, 9))
    seats = {3 * client: draw(st.sampled_from(PARTS)) for client in range(clients)}
    stages = ("keys", "shares", "masked", "unmasking", "never", "never", "never", "never", "never")
    leaves = {client: draw(st.sampled_from(stages)) for client in seats}
    gone = {f"leave_{stage}": {c for c, at in leaves.items() if at == stage} for stage in stages[:4]}
    return Round(seats=seats, **gone)


@settings(max_examples=40, deadline=None)
@given(federation=federations())
def test_the_sum_of_the_survivors_to_the_bit_or_none(federation: Round) -> None:
    """Whoever leaves wherever: with enough answers the plain sum, and else a reason and no sum."""
    if not _enough(federation):
        with pytest.raises(VoidSumError, match="have to"):
            federation.begin().end()
        return
    words = federation.begin().end()
    for block, found in words.items():
        assert len(federation.blocks.holders(block, federation.question.survivors)) >= 3
        assert torch.equal(found, federation.summed(federation.updates, block))
    for block in set(range(len(federation.blocks.model) + 1)) - words.keys():
        assert len(federation.blocks.holders(block, federation.question.survivors)) < 3


def _enough(federation: Round) -> bool:
    """Say by counting alone whether a round has a sum: every pair of clients shares masks in these."""
    told = federation.seats.keys() - set(federation.leave_keys)
    deposited = told - set(federation.leave_shares)
    survivors = deposited - set(federation.leave_masked)
    answers = survivors - set(federation.leave_unmasking)
    return len(survivors) >= 3 and len(answers) >= needed_shares(len(told) - 1, federation.threshold)


@settings(max_examples=25, deadline=None)
@given(federation=federations())
def test_nobody_is_asked_for_both_secrets_of_one_client(federation: Round) -> None:
    with suppress(VoidSumError):
        federation.begin().end()
    own = {share.client for answer in federation.answers for share in answer.own_masks}
    pairs = {share.client for answer in federation.answers for share in answer.masking}
    assert not own & pairs


def test_a_late_arrival_changes_nothing() -> None:
    """A client that was given up, whose masked update then comes, stays out; nobody answers for it anew."""
    federation = Round(seats=dict.fromkeys(range(6), ""), leave_masked={2}).begin()
    federation.end()
    with pytest.raises(VoidSumError, match="closed"):
        federation.session.close(federation.sent.keys())
    everybody = Question(survivors=tuple(range(6)))
    for client in federation.question.survivors:
        member, invitation = federation.members[client], federation.invitations[client]
        with pytest.raises(BadSecretError, match="other survivors"):
            member.reveal(everybody, invitation, federation.blocks)
    with pytest.raises(BadSecretError, match="tells no shares"):
        federation.members[2].reveal(federation.question, federation.invitations[2], federation.blocks)


def test_no_block_of_which_fewer_survive_is_told_a_share_of() -> None:
    """Client 0 alone survives of those who hold all: its own elements stay under its own mask."""
    seats = {0: "", 1: "", 2: "", 3: "front", 4: "front", 5: "front", 6: "front"}
    federation = Round(seats=seats, leave_masked={1, 2}, threshold=0.51).begin()
    words = federation.end()
    (behind,) = (n for n, block in enumerate(federation.blocks.model, 1) if block.parts == {""})
    assert behind in federation.sent[0]
    assert behind not in words
    told = {share.block for answer in federation.answers for share in answer.own_masks}
    assert told == {FIGURES, *words}


def test_a_block_that_too_few_hold_is_not_sent() -> None:
    seats = {0: "", 1: "", 2: "front", 3: "front", 4: "front"}
    federation = Round(seats=seats).begin()
    sent = [federation.blocks[block].parts for block in federation.sent[0] if block != FIGURES]
    assert sent == [{"", "front"}]
    assert federation.blocks.unsent(0) == 30
    assert federation.blocks.unsent(4) == 0


@settings(max_examples=20, deadline=None)
@given(federation=federations())
def test_no_sum_that_can_be_made_is_one_clients(federation: Round) -> None:
    """Neither a sum that the server ends with, nor a message, nor a difference of two, is an update."""
    try:
        words = federation.begin().end()
    except VoidSumError:
        return
    ends = list(words.values())
    seen = [piece for sent in federation.sent.values() for piece in sent.values()]
    for client, blocks in federation.updates.items():
        for block, own in blocks.items():
            like = [piece for piece in [*ends, *seen] if len(piece) == len(own)]
            assert not any(torch.equal(piece, own) for piece in like), (client, block)
            assert not any(
                torch.equal(one - other, own) for one in like for other in like if one is not other
            )


def test_masked_words_look_uniform() -> None:
    """Of an update that is zero everywhere every bit is a fair coin: 6 standard deviations are allowed."""
    federation = Round(seats=dict.fromkeys(range(4), ""))
    federation.begin()
    member, blocks = federation.members[0], federation.blocks
    words = torch.zeros(200_000, dtype=torch.int64)
    member.mask({1: words}, federation.session.partners(0), blocks)
    bits = torch.stack([(words >> bit & 1).double().mean() for bit in range(64)])
    assert float((bits - 0.5).abs().max()) < 6 * 0.5 / len(words) ** 0.5
    assert len(words.unique()) == len(words)


def test_two_rounds_have_nothing_in_common() -> None:
    """The same update under the keys of another round is another text, and so is the difference of two."""

    def masked(root: int) -> Tensor:
        federation = Round(seats=dict.fromkeys(range(root, root + 4), "")).begin()
        return federation.elements(federation.sent[root + 1]) - federation.elements(
            federation.updates[root + 1]
        )

    assert not (masked(0) == masked(4)).any()


@pytest.mark.parametrize("clients", [3, 4, 10, 55, 56, 100, 1000])
def test_the_graph_goes_both_ways(clients: int) -> None:
    degree = degree_for(clients, parts=False)
    ids = random.Random(clients).sample(range(10_000), clients)
    near = {client: neighbours(client, ids, degree, seed=3) for client in ids[:60]}
    for client, others in near.items():
        assert len(set(others)) == degree
        assert client not in others
        assert all(client in near[other] for other in others if other in near)
    assert degree == clients - 1 or (degree < clients - 1 and degree % 2 == 0)
    assert degree_for(clients, parts=True) == clients - 1


def test_with_neighbours_the_sum_is_the_same() -> None:
    federation = Round(
        seats=dict.fromkeys(range(70), ""), leave_shares={5}, leave_masked={1, 40}, leave_unmasking={2}
    ).begin()
    assert federation.session.degree < 69
    words = federation.end()
    assert all(torch.equal(words[b], federation.summed(federation.updates, b)) for b in words)


def test_shares_of_another_round_are_noticed() -> None:
    """A share that does not belong to the rest gives no silent wrong sum of pairs."""
    federation = Round(seats=dict.fromkeys(range(5), ""), leave_masked={4}).begin()
    federation.question = federation.session.close([0, 1, 2, 3])
    answers = [
        federation.members[c].reveal(federation.question, federation.invitations[c], federation.blocks)
        for c in range(4)
    ]
    answers[0].masking[0].__dict__["share"] = "11" * 33
    words = {b: federation.summed(federation.sent, b) for b in federation.session.visible}
    with pytest.raises(VoidSumError, match="client 4"):
        federation.session.unmask(words, answers)
