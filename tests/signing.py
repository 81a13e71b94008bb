"""Keys and certificates for tests, made anew each time."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CURVES = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}


def make_key(folder: Path, name: str = "key", curve: str = "P-256") -> Path:
    """A private key; the public one beside it, as `<name>.pub`."""
    key = ec.generate_private_key(CURVES[curve]())
    path = folder / f"{name}.pem"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    path.with_suffix(".pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return path


def make_certificates(folder: Path, key: Path, signs: bool = True) -> tuple[Path, Path]:
    """A certificate for a key, issued by one that a root issued; and the root. The first file holds the first two."""
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    root_key, issuer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("Test Root", root_key, "Test Root", root_key, True, True)
    issuer = _certificate("Test Issuer", issuer_key, "Test Root", root_key, True, True)
    leaf = _certificate("Release Team", private, "Test Issuer", issuer_key, False, signs)
    chain, trusted = folder / "chain.pem", folder / "root.pem"
    chain.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in (leaf, issuer)))
    trusted.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    return chain, trusted


def _certificate(name, key, issuer, issuer_key, authority, signs):
    def named(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer)).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2026, 1, 1)).not_valid_after(datetime.datetime(2036, 1, 1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), True)
        .add_extension(x509.KeyUsage(signs, False, not signs, False, False, authority, authority, False, False), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    if name != issuer:
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
    return builder.sign(issuer_key, hashes.SHA256())
