"""Keys and certificates of a deployment: two authorities, two server certificates, and each client's own.

Elliptic curves (P-384) throughout. One authority is for what clients meet, the gate; the other for what is
inside the server, the SuperLink, which no client has to trust. The authorities' keys are needed again only
for other certificates: keep ``ca/`` off the server. A client's private keys stay with it; the SuperLink gets
the public half of its ``node.key``. Its certificate, ``client.crt``, is for a gate that asks for one, and for
a gate of its own on ``localhost`` that presents it.
"""

import ipaddress
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedfmd.deployment.layout import AUTHORITY, INSIDE, NODE_KEY, Certified, KeyFiles
from fedfmd.errors import UserError
from fedfmd.files import regular_file, write_guarded

Key = ec.EllipticCurvePrivateKey
CURVE = ec.SECP384R1
VALID_DAYS = 365
"""Of a certificate, at most: none outlives the authority that signed it."""
AUTHORITY_DAYS = 3650
"""Of an authority: with it every client's folder is handed over anew."""
SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
LONGEST_NAME = 253
HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?")
KEPT = "bring it back from where it is kept"
LOCAL = ("localhost", "127.0.0.1")
"""What processes on the same machine call each other."""


@dataclass(frozen=True)
class Authority:
    """Who signs certificates."""

    key: Key
    certificate: x509.Certificate


def make_keys(
    folder: Path,
    clients: Iterable[int],
    server_names: Sequence[str] = (),
    *,
    renewed: Collection[Path] = (),
) -> None:
    """Write ``ca/``, ``server/``, ``gate/``, ``public/`` and each client's ``client-N/`` below ``folder``.

    ``server_names`` are host names and addresses by which clients reach the gate. What is there stays, so
    that keys for more clients can be added, but for the folders that are to be ``renewed``; private keys are
    readable by their owner only. Each folder is whole or missing, and a client belongs from the moment that
    its public key is there, so after a kill the same call makes what is missing. Raises ``UserError`` for a
    server name that cannot stand in a certificate.
    """
    files, local = KeyFiles(folder), [_general_name(name) for name in LOCAL]
    names = [_general_name(name) for name in dict.fromkeys(("gate", *LOCAL, *server_names))]
    outside, inside = _authority(files.outside, "fedfmd authority"), _authority(files.inside, "fedfmd inside")

    def lacking(own: Path) -> bool:
        return own in renewed or not own.exists()

    if lacking(files.server.key.parent):
        own = [_general_name("superlink"), *local]
        with _whole(files.server.key.parent) as made:
            _make_certificate(made / files.server.key.name, inside, "superlink", own, SERVER)
            write_guarded(made / AUTHORITY, _pem_of(inside.certificate), 0o444)
    if lacking(files.gate.key.parent):
        with _whole(files.gate.key.parent) as made:
            _make_certificate(made / files.gate.key.name, outside, "gate", names, SERVER)
            write_guarded(made / AUTHORITY, _pem_of(outside.certificate), 0o444)
            write_guarded(made / INSIDE, _pem_of(inside.certificate), 0o444)
    for client in clients:
        if lacking(files.of_client(client)):
            with _whole(files.of_client(client)) as made:
                _make_node_key(made / NODE_KEY)
                key = made / files.client(client).key.name
                _make_certificate(key, outside, f"client-{client}", local, BOTH)
                write_guarded(made / AUTHORITY, _pem_of(outside.certificate), 0o444)
        _publish(files.of_client(client) / NODE_KEY, files.public_key(client))


def read_certificate(file: Path, cure: str) -> x509.Certificate:
    """Read a certificate; raises ``UserError`` that ends with the ``cure`` for a file that holds none."""
    try:
        return x509.load_pem_x509_certificate(_content(file, cure))
    except ValueError:
        raise UserError(f"{file}: holds no certificate in PEM: it is empty or damaged; {cure}") from None


def read_node_key(file: Path, cure: str) -> Key:
    """Read the key by which the SuperLink knows a client; raises as ``read_certificate`` does."""
    return _read_key(file, cure, serialization.load_ssh_private_key, "private key of OpenSSH")


def check_node_key(public: Path, cure: str) -> None:
    """Raise as ``read_certificate`` does for what is not the public half of a client's key."""
    try:
        found = serialization.load_ssh_public_key(_content(public, cure))
    except (ValueError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, ec.EllipticCurvePublicKey):
        raise UserError(f"{public}: holds no public key of OpenSSH: it is empty or damaged; {cure}")


def check_issued(files: Certified, authority: Path, cure: str) -> None:
    """Raise ``UserError`` unless a certificate is that of its key, and was issued by an authority.

    ``authority`` is the file with the certificate of that.
    """
    issuer = read_certificate(authority, cure)
    found = read_certificate(files.certificate, cure)
    if found.public_key() != _read_private(files.key, cure).public_key():
        raise UserError(f"{files.certificate}: is not the certificate of {files.key}; {cure}")
    try:
        found.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        raise UserError(f"{files.certificate}: was not issued by {authority}; {cure}") from None


def days_left(certificate: Path, cure: str) -> int:
    """Return for how many days a certificate is still valid, negative once it is not.

    Raises as ``read_certificate`` does.
    """
    return (read_certificate(certificate, cure).not_valid_after_utc - datetime.now(UTC)).days


def _content(file: Path, cure: str) -> bytes:
    try:
        return regular_file(file).read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; {cure}") from None


def _read_private(file: Path, cure: str) -> Key:
    return _read_key(file, cure, serialization.load_pem_private_key, "private key in PEM")


def _read_key(file: Path, cure: str, load: Callable[[bytes, None], object], what: str) -> Key:
    try:
        key = load(_content(file, cure), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # one with a password, too
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{file}: holds no {what}: it is empty or damaged; {cure}")
    return key


def _authority(files: Certified, name: str) -> Authority:
    """Read an authority, made now if missing.

    Raises ``UserError`` if only its key is, if it ended, and where either file is not what belongs there.
    """
    if not files.key.exists():
        if files.certificate.exists():
            raise UserError(f"{files.key}: is needed for new certificates; {KEPT}")
        for file in (files.key, files.certificate):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_guarded(files.key, _pem(ec.generate_private_key(CURVE())), 0o400)
    key = _read_private(files.key, KEPT)
    if not files.certificate.exists():  # after a kill; another one is as good for what the key has signed
        write_guarded(files.certificate, _pem_of(_of_authority(key, name)), 0o444)
    certificate = read_certificate(
        files.certificate, f"bring it back, or delete it: {files.key} issues it again"
    )
    if certificate.public_key() != key.public_key():
        raise UserError(f"{files.key}: is not the key of {files.certificate}; {KEPT}")
    if (until := certificate.not_valid_after_utc) < datetime.now(UTC):
        raise UserError(
            f"{files.certificate}: the authority ended on {until:%Y-%m-%d}, and with it all that it signed; "
            "make the deployment anew, and hand over each client's folder"
        )
    return Authority(key, certificate)


def _of_authority(key: Key, common_name: str) -> x509.Certificate:
    """Return the certificate of an authority, signed by itself."""
    name = _name(common_name)
    return (
        _certificate(name, name, key, _now() + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )


def _make_certificate(
    file: Path,
    authority: Authority,
    common_name: str,
    names: Iterable[x509.GeneralName],
    uses: Iterable[x509.ObjectIdentifier],
) -> None:
    """Write a new key to ``file``, and its certificate beside it."""
    key = ec.generate_private_key(CURVE())
    until = min(_now() + timedelta(days=VALID_DAYS), authority.certificate.not_valid_after_utc)
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    certificate = (
        _certificate(_name(common_name), authority.certificate.subject, key, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(issued_by, critical=False)
        .sign(authority.key, hashes.SHA384())
    )
    write_guarded(file, _pem(key), 0o400)
    write_guarded(file.with_suffix(".crt"), _pem_of(certificate), 0o444)


def _make_node_key(file: Path) -> None:
    """Write a new key by which the SuperLink is to know a client."""
    key = ec.generate_private_key(CURVE())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    write_guarded(file, private, 0o400)


def _publish(private: Path, public: Path) -> None:
    """Put the public half of a client's key in the place of an older one."""
    key = read_node_key(private, "delete its folder: the same command makes it anew").public_key()
    own = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b"\n"
    if not public.exists() or public.read_bytes() != own:
        public.parent.mkdir(parents=True, exist_ok=True)
        write_guarded(public, own, 0o444)


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of ``folder`` at the end."""
    made = folder.with_name(f".{folder.name}.made")
    shutil.rmtree(made, ignore_errors=True)  # a kill's
    made.mkdir(parents=True)
    try:
        yield made
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _now() -> datetime:
    """Return a moment ago: clocks of devices differ a little."""
    return datetime.now(UTC) - timedelta(minutes=5)


def _certificate(subject: x509.Name, issuer: x509.Name, key: Key, until: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now())
        .not_valid_after(until)
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
    """Return a host name or an address for a certificate; raises ``UserError`` for what is neither."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if len(name) > LONGEST_NAME or not HOST_NAME.fullmatch(name):
            raise UserError(
                f"--server-name {name!r}: must be a host name of letters, digits, - and . (an international "
                "one in its xn-- form), or an IP address"
            ) from None
        return x509.DNSName(name)


def _pem_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
