"""Keys of the secure sum: everything secret of a client in a round follows from 32 random bytes, its root.

X25519 (RFC 7748) lets two clients agree on a key over the server; HKDF with SHA-256 (RFC 5869) makes of it,
and of the root, one key for each purpose; what one client sends another is sealed by ChaCha20-Poly1305
(RFC 8439). No key serves twice, so that every nonce is zero.
"""

from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedfmd.secure.shamir import PRIME, SECRET_BYTES

KEY_BYTES = 32
TAG_BYTES = 16
"""By which a sealed text is longer."""
_NONCE = bytes(12)
_MARGIN_BYTES = 16
"""More bytes than the modulus has, so that a remainder is as good as uniform."""


class BadSecretError(ValueError):
    """A sealed text, or a key, that is not what it should be."""


def derived(secret: bytes, purpose: str, length: int = KEY_BYTES) -> bytes:
    """Return bytes that nobody can tell from random without the ``secret``, others for each ``purpose``."""
    return HKDF(SHA256(), length, salt=None, info=f"fedfmd secure sum {purpose}".encode()).derive(secret)


@dataclass(frozen=True)
class Secrets:
    """What one client keeps to itself in one round."""

    root: bytes
    """32 random bytes."""

    @cached_property
    def masking(self) -> bytes:
        """The private key that pairs of masks stand on; the others hold shares of it."""
        return derived(self.root, "masking")

    @cached_property
    def sealing(self) -> bytes:
        """The private key that seals what the server carries between clients."""
        return derived(self.root, "sealing")

    def own_mask(self, block: int) -> bytes:
        """Return the key of the client's own mask of a block."""
        return derived(self.root, f"own mask {block}")

    def coefficients(self, name: str, count: int) -> list[int]:
        """Return random numbers for the sharing of one secret."""
        return [
            int.from_bytes(derived(self.root, f"share {name} {i}", SECRET_BYTES + _MARGIN_BYTES), "big")
            % PRIME
            for i in range(count)
        ]


def public_key(private: bytes) -> bytes:
    """Return the public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed(private: bytes, public: bytes, purpose: str) -> bytes:
    """Return the key that the owners of two key pairs have in common, for one purpose.

    Raises ``BadSecretError`` for a public key that is none.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError as error:
        raise BadSecretError(f"not a public key: {error}") from None
    return derived(shared, purpose)


def sealed(key: bytes, text: bytes) -> bytes:
    """Return the text as only the owner of the ``key`` can read it; a key seals one text."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, text, None)


def unsealed(key: bytes, text: bytes) -> bytes:
    """Return what was sealed; raises ``BadSecretError`` where it is not what the other has sealed."""
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, text, None)
    except InvalidTag:
        raise BadSecretError("a sealed share is damaged, or not for this client") from None
