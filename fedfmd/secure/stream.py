"""Masks: the words of a ChaCha20 stream (RFC 8439), added to words in Z_2^64, where they cancel exactly."""

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from torch import Tensor

WORD_BYTES = 8
CHUNK = 1 << 15
"""Words made at a time, so that they are still in the cache when they are added."""
_ZEROS = bytes(CHUNK * WORD_BYTES)


def add_mask(words: Tensor, key: bytes, block: int, sign: int = 1) -> None:
    """Add the mask of a block under a key to ``words``, int64 (n,), in place; ``sign`` -1 takes it off."""
    stream = Cipher(algorithms.ChaCha20(key, _start(block)), mode=None).encryptor()
    memory = bytearray(len(_ZEROS))
    mask = torch.frombuffer(memory, dtype=torch.int64)
    for piece in words.split(CHUNK):
        stream.update_into(memoryview(_ZEROS)[: len(piece) * WORD_BYTES], memory)
        piece.add_(mask[: len(piece)], alpha=sign)


def _start(block: int) -> bytes:
    """Return counter 0 and the block's nonce, in the order that the cipher takes."""
    return bytes(4) + block.to_bytes(12, "little")
