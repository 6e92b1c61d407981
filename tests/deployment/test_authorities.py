"""Authorities of a deployment: what a kill leaves of its keys is made whole, and what was signed holds."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from fedfmd.deployment.keys import make_keys
from fedfmd.deployment.layout import KeyFiles
from fedfmd.files import write_guarded


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def check_client(files: KeyFiles, client: int) -> None:
    key = files.client(client).key
    certificate(key.with_suffix(".crt")).verify_directly_issued_by(certificate(files.outside.certificate))
    assert {path.stat().st_mode & 0o777 for path in (files.outside.key, key)} == {0o400}
    assert files.public_key(client).is_file()


def test_keys_that_a_kill_has_left_in_parts_are_made_whole_by_the_same_call(tmp_path: Path) -> None:
    """At every file that it writes."""
    for stop in count(1):
        folder, calls = tmp_path / str(stop), count(1)

        def write(*words: Any, last: int = stop, calls: Any = calls) -> None:
            if next(calls) == last:
                raise KeyboardInterrupt
            write_guarded(*words)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fedfmd.deployment.keys.write_guarded", write)
            try:
                make_keys(folder, [0])
            except KeyboardInterrupt:
                make_keys(folder, [0])
        check_client(KeyFiles(folder), 0)
        if next(calls) <= stop:
            break
    assert stop == 16 + 1  # as many files as that


def test_a_lost_certificate_of_an_authority_is_issued_again_by_its_key(tmp_path: Path) -> None:
    files = KeyFiles(tmp_path)
    make_keys(tmp_path, [0])
    signed_with = files.outside.key.read_bytes()
    files.outside.certificate.unlink()
    make_keys(tmp_path, [0, 1])
    assert files.outside.key.read_bytes() == signed_with
    for client in (0, 1):
        check_client(files, client)
