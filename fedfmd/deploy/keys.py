"""Keys and certificates of a deployment: one authority, one server certificate, one key pair a client.

Elliptic curves (P-384) throughout. The authority's key is needed again only for another server certificate:
keep it off the server. A client's private key stays with it; the SuperLink gets the public half.
"""

import ipaddress
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey
CURVE = ec.SECP384R1
VALID_DAYS = 365
ALWAYS_NAMED = ("superlink", "localhost", "127.0.0.1")
"""The service's name, and what the SuperLink's own processes call it."""


def make_keys(folder: Path, clients: Iterable[int], server_names: Sequence[str] = ()) -> None:
    """Write ``ca/``, ``server/``, ``public/`` and a ``client-N/`` for each client below ``folder``.

    ``server_names`` are host names and addresses by which clients reach the server. What is there stays, so
    that keys for more clients can be added; private keys are readable by their owner only.
    """
    authority_file = folder / "ca" / "ca.key"
    if not authority_file.exists():
        _make_authority(folder)
    certificate = (folder / "public" / "ca.crt").read_bytes()
    if not (folder / "server" / "server.key").exists():
        authority = serialization.load_pem_private_key(authority_file.read_bytes(), password=None)
        assert isinstance(authority, ec.EllipticCurvePrivateKey)
        issuer = x509.load_pem_x509_certificate(certificate)
        _make_server(folder / "server", authority, issuer, [*ALWAYS_NAMED, *server_names])
        _write(folder / "server" / "ca.crt", certificate, 0o444)
    for client in clients:
        if not (folder / f"client-{client}" / "node.key").exists():
            _make_client(folder, client)
            _write(folder / f"client-{client}" / "ca.crt", certificate, 0o444)


def _make_authority(folder: Path) -> None:
    key, name = ec.generate_private_key(CURVE()), _name("fedfmd authority")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = _usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _certificate(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA384())
    )
    _write(folder / "ca" / "ca.key", _pem(key), 0o400)
    _write(folder / "public" / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o444)


def _make_server(folder: Path, authority: Key, issuer: x509.Certificate, names: Iterable[str]) -> None:
    key = ec.generate_private_key(CURVE())
    known_as = x509.SubjectAlternativeName([_general_name(name) for name in dict.fromkeys(names)])
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    certificate = (
        _certificate(_name("superlink"), issuer.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(known_as, critical=False)
        .add_extension(issued_by, critical=False)
        .sign(authority, hashes.SHA384())
    )
    _write(folder / "server.key", _pem(key), 0o400)
    _write(folder / "server.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o444)


def _make_client(folder: Path, client: int) -> None:
    key = ec.generate_private_key(CURVE())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    _write(folder / f"client-{client}" / "node.key", private, 0o400)
    _write(folder / "public" / f"client-{client}.pub", public + b"\n", 0o444)


def _certificate(subject: x509.Name, issuer: x509.Name, key: Key) -> x509.CertificateBuilder:
    now = datetime.now(UTC) - timedelta(minutes=5)  # clocks of devices differ a little
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=VALID_DAYS))
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a new file that never had other rights than ``mode``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
