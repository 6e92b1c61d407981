"""The building blocks against their published vectors and an independent count."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rounds import PLACES

from fedfmd.secure.blocks import blocks_of
from fedfmd.secure.keys import BadSecretError, Secrets, agreed, public_key, sealed, unsealed
from fedfmd.secure.shamir import PRIME, join, split
from fedfmd.secure.stream import CHUNK, add_mask
from fedfmd.secure.sums import SummedFigures


@given(
    secret=st.binary(min_size=32, max_size=32), coefficients=st.lists(st.integers(0, PRIME - 1), max_size=4)
)
def test_any_shares_that_are_enough_give_the_secret(secret: bytes, coefficients: list[int]) -> None:
    points = (1, 2, 5, 70, 9)
    shares = split(secret, points, coefficients)
    for chosen in combinations(points, len(coefficients) + 1):
        assert join({point: shares[point] for point in chosen}) == secret


def test_fewer_shares_fit_every_secret() -> None:
    """Two shares of three that are needed: for any other secret there is a polynomial through them, too."""
    shares = split(bytes(31) + b"\7", (1, 2, 3), (11, 13))
    for other in (0, 8, 2**256 - 1):
        # the third share that would make the two belong to ``other``, by Lagrange at 0 over points 1, 2, 3
        one, two = (int.from_bytes(shares[point], "big") for point in (1, 2))
        third = (other - 3 * one + 3 * two) % PRIME
        found = join({1: shares[1], 2: shares[2], 3: third.to_bytes(33, "big")})
        assert int.from_bytes(found, "big") == other


def test_the_modulus_is_a_prime() -> None:
    """Miller and Rabin's test with the first 20 primes as bases."""
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71):
        powers = [pow(base, odd * 2**i, PRIME) for i in range(twos)]
        assert powers[0] == 1 or PRIME - 1 in powers


def test_x25519_as_in_the_standard() -> None:
    """RFC 7748, section 6.1."""
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4b2f1ba2c1e6b1d0d8f5d7f8b5f8f0")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert public_key(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert agreed(alice, public_key(bob), "x") == agreed(bob, public_key(alice), "x")
    assert agreed(alice, public_key(bob), "x") != agreed(alice, public_key(bob), "y")


def test_the_mask_is_the_stream_of_the_standard() -> None:
    """RFC 8439, appendix A.1, vector 1: key and nonce zero, counter zero."""
    words = torch.zeros(8, dtype=torch.int64)
    add_mask(words, bytes(32), 0)
    assert words.numpy().tobytes().hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )


@pytest.mark.parametrize("words", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17])
def test_a_mask_comes_off_and_is_long_enough(words: int) -> None:
    start = torch.arange(words) * 2**40 - 2**50
    masked = start.clone()
    add_mask(masked, b"k" * 32, 3)
    mask = masked - start
    assert len(mask.unique()) == words
    add_mask(masked, b"k" * 32, 3, -1)
    assert torch.equal(masked, start)
    other = torch.zeros(words, dtype=torch.int64)
    add_mask(other, b"k" * 32, 4)
    assert not (other == mask).any()


def test_a_sealed_text_is_for_one_reader() -> None:
    text = sealed(b"a" * 32, b"secret")
    assert unsealed(b"a" * 32, text) == b"secret"
    with pytest.raises(BadSecretError):
        unsealed(b"b" * 32, text)
    with pytest.raises(BadSecretError):
        unsealed(b"a" * 32, text[:-1] + bytes([text[-1] ^ 1]))


def test_secrets_follow_from_the_root_and_are_all_different() -> None:
    one, same, other = Secrets(b"1" * 32), Secrets(b"1" * 32), Secrets(b"2" * 32)
    assert one.masking == same.masking
    found = {
        secret
        for secrets in (one, other)
        for secret in (secrets.masking, secrets.sealing, secrets.own_mask(0), secrets.own_mask(1))
    }
    assert len(found) == 8


def test_blocks_are_what_the_same_parts_share() -> None:
    seats = dict(enumerate(["", "", "", "front", "front", "spread"]))
    blocks = blocks_of(seats, 60, lambda part: PLACES[part], 3)
    held = [{part for part in PLACES if PLACES[part] is None or place in PLACES[part]} for place in range(60)]
    found: dict[int, frozenset[str]] = {}
    for block in blocks.model:
        assert block.places is not None
        found |= dict.fromkeys(block.places.tolist(), block.parts)
    assert [found[place] for place in range(60)] == held
    assert sum(block.words for block in blocks.model) == 60


def test_no_summed_loss_is_beyond_what_a_ledger_holds() -> None:
    """Each of the words is what clients say; nobody can check them one by one."""
    assert SummedFigures.read(torch.tensor([20, 4, 2**21])).mean_loss == 0.5
    for loss in (2**62, -(2**62)):
        assert SummedFigures.read(torch.tensor([20, 1, loss])).mean_loss is None
