"""Signatures in the form of OpenSSF Model Signing 1.0: an in-toto statement of every file's SHA-256, in a sigstore bundle.

Signing is done by the `model_signing` library. Checking one is not, for whoever checks a bundle need install no more
than this package: it is one DSSE envelope, and the elliptic curves are those of `cryptography`. The library's own
command accepts what is signed here, on the unpacked bundle as on the published model. `med42.lineage.keyless` has what
is different where sigstore certifies an identity instead.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from med42.errors import Med42Error
from med42.lineage.keyless import Identity, KeylessSigner, check_keyless, configure, find_identity, not_signed

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

# Files named by the environment: a key is of the place that signs, and nothing that a recipe, record or log may hold.
KEY, CERTIFICATE = "MED42_SIGNING_KEY", "MED42_SIGNING_CERTIFICATE"
SIGNING_STAGES = ("push_model", "seal_audit")  # the only ones that see them
MODEL_SIGNATURE = "model.sig"  # beside the files of a published model
LARGEST = 8 << 20

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE, _PREDICATE_TYPE = "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0"


@dataclass(frozen=True)
class Signer:
    """A private key on this machine, with a certificate for it if there is one.

    Attributes:
        key: PEM file of an elliptic curve key (P-256, P-384 or P-521), without a password.
        certificate: PEM file of its certificate, then of those between it and the root.
        public: what a bundle holds of it, PEM: the public key, or the certificates.
        identity: who signs, in words that a record may hold.
    """

    key: Path
    certificate: Path | None
    public: bytes
    identity: str


def find_signer(signed: bool | Literal["sigstore"] = False) -> Signer | KeylessSigner | None:
    """The signer that the environment names; None where it names none.

    Args:
        signed: the recipe's `audit.signed`: whether there must be one, or that it must be one without a key.

    Raises:
        Med42Error: a file that is not there, no such key, or a certificate for another key; none where one is needed.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if signed == "sigstore":
        return find_identity()
    if not os.environ.get(KEY):
        if signed:
            raise Med42Error(KEY, "no signing key", "the path of one, as the recipe's audit.signed asks",
                             "Give the key to the stages that push and seal, or set audit.signed to false.")
        return None
    key, certificate = Path(os.environ[KEY]), Path(os.environ[CERTIFICATE]) if os.environ.get(CERTIFICATE) else None
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:  # the words of OpenSSL's errors could hold bytes of the file
        raise Med42Error(KEY, f"a key that cannot be read ({type(error).__name__})", "a PEM file without a password",
                         "Check the path, its mode and the form of the key.") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise Med42Error(KEY, "another kind of key", "an elliptic curve key on P-256, P-384 or P-521",
                         "Make one: openssl ecparam -name prime256v1 -genkey -noout.")
    public = private.public_key()
    if certificate is None:
        return Signer(key, None, _pem(public), f"key {fingerprint(public)}")
    try:
        chain = _certificates(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise Med42Error(CERTIFICATE, f"no certificate ({type(error).__name__})", "a PEM file", "Check the path.") from error
    if _pem(_public_key(chain[0])) != _pem(public):
        raise Med42Error(CERTIFICATE, f"a certificate for another key ({chain[0].subject.rfc4514_string()})",
                         f"one for key {fingerprint(public)}", "Give the certificate of this key first in its file.")
    return Signer(key, certificate, b"".join(map(_pem, chain)), _name(chain[0]))


def sign_folder(folder: Path, signature: Path, signer: Signer | KeylessSigner) -> None:
    """Sign every file of a folder but the signature itself.

    Raises:
        Med42Error: sigstore's services do not sign, or are not there.
    """
    from model_signing import hashing, signing

    # What a hub adds (.gitattributes) and the signature itself stay outside; links, by which a folder may be laid out, are followed.
    config = signing.Config().set_hashing_config(
        hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=True).set_allow_symlinks(True))
    if isinstance(signer, KeylessSigner):
        try:
            configure(config, signer).sign(folder, signature)
        except Med42Error:
            raise
        except Exception as error:  # each service has a client with errors of its own
            raise not_signed(error, signer) from None
        return
    if signer.certificate is None:
        config.use_elliptic_key_signer(private_key=signer.key).sign(folder, signature)
        return
    with tempfile.TemporaryDirectory() as scratch:  # the library takes the certificate and those above it from files of their own
        first, others = Path(scratch, "first.pem"), Path(scratch, "others.pem")
        chain = _certificates(signer.certificate.read_bytes())
        first.write_bytes(_pem(chain[0]))
        others.write_bytes(b"".join(map(_pem, chain[1:])))
        config.use_certificate_signer(private_key=signer.key, signing_certificate=first,
                                      certificate_chain=[others] if chain[1:] else []).sign(folder, signature)


def sign_entries(entries: Mapping[str, bytes], name: str, signer: Signer | KeylessSigner) -> bytes:
    """A signature of named contents, as of a folder called `name` that holds them."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, signature = Path(scratch, name), Path(scratch, "signature.json")
        for entry, content in entries.items():
            (folder / entry).parent.mkdir(parents=True, exist_ok=True)
            (folder / entry).write_bytes(content)
        sign_folder(folder, signature, signer)
        return signature.read_bytes()


def check_signature(signature: bytes, public: bytes, digests: Mapping[str, str], where: object,
                    trusted: bytes | Identity | None = None) -> str:
    """Check a signature of named contents.

    Args:
        signature: the sigstore bundle.
        public: the public key or certificates that lie beside it, PEM; empty where it was made without a key.
        digests: SHA-256 of every content that must be signed, by name.
        where: for errors.
        trusted: the key or the root certificates that whoever checks trusts, PEM, or the identity that they expect; None to take
            what lies beside it, or any identity that sigstore certified.

    Returns:
        Who signed: a key by its fingerprint, a certificate's subject, or an identity.

    Raises:
        Med42Error: it was not signed by that key or identity, or says something else.
    """
    if len(signature) > LARGEST:
        raise Med42Error(where, f"a signature of {len(signature):,} bytes", f"at most {LARGEST:,}", "The signature was changed.")
    if public:
        if isinstance(trusted, Identity):
            raise Med42Error(where, "a signature by a key", f"one by {trusted.name} of {trusted.issuer}", "Give --key, if you know it.")
        payload, signed_by = _check_key(signature, public, where, trusted)
    else:
        if isinstance(trusted, bytes):
            raise Med42Error(where, "a signature without a key, by an identity", "one by the given key", "Give --identity and --issuer.")
        payload, signed_by = check_keyless(signature, where, trusted)
    try:
        statement = json.loads(payload)
        resources = {one["name"]: one["digest"] for one in statement["predicate"]["resources"] if one["algorithm"] == "sha256"}
        right = (statement["_type"], statement["predicateType"]) == (_STATEMENT_TYPE, _PREDICATE_TYPE)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Med42Error(where, f"a statement that cannot be read ({type(error).__name__})", "one of every file's digest",
                         "It was made by another program.") from error
    differing = sorted(name for name in resources.keys() | digests.keys() if resources.get(name) != digests.get(name))
    if not right or differing:
        raise Med42Error(f"{where}, {differing[0] if differing else 'its statement'}", "something else than was signed",
                         f"what {signed_by} signed", "It was changed, added or taken away after it was signed.")
    return signed_by


def _check_key(signature: bytes, public: bytes, where: object, trusted: bytes | None) -> tuple[bytes, str]:
    """What was signed by a key, and whose it is."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key, signed_by = _signing_key(public, trusted, where)
    try:
        envelope = json.loads(signature)["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        raw = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        if _as_written(_material(public), payload, raw) != signature:
            raise ValueError("another form, or another key")
        hashed = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size]
        key.verify(raw, _encoded(payload), ec.ECDSA(hashed))
    except InvalidSignature as error:
        raise Med42Error(where, "a signature that this key did not make", f"one by {signed_by}",
                         "It was signed by somebody else, or changed.") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, binascii.Error) as error:
        raise Med42Error(where, f"a signature that cannot be read ({type(error).__name__})", "a sigstore bundle as it was signed",
                         "The signature was changed.") from error
    return payload, signed_by


def fingerprint(public: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a public key's DER form, its first 16 hex digits: the beginning of `openssl pkey -pubin -outform DER | sha256sum`."""
    from cryptography.hazmat.primitives import serialization

    return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).hexdigest()[:16]


def read_key(public: bytes, where: object) -> str:
    """Whose signatures a public key (PEM) checks, as those tell it: `key` and its fingerprint.

    Raises:
        Med42Error: it is none that can sign here.
    """
    return f"key {fingerprint(_known_key(public, where))}"


def _known_key(public: bytes, where: object) -> ec.EllipticCurvePublicKey:
    from cryptography.hazmat.primitives import serialization

    try:
        return _of_a_curve(serialization.load_pem_public_key(public))
    except ValueError as error:
        raise Med42Error(where, "no key to compare with", "a PEM file with a public key on an elliptic curve", "Check the file.") from error


def _signing_key(public: bytes, trusted: bytes | None, where: object) -> tuple[ec.EllipticCurvePublicKey, str]:
    """The key that must have signed, and whose it is."""
    from cryptography.hazmat.primitives import serialization

    if trusted is not None and b"CERTIFICATE" not in trusted:
        key = _known_key(trusted, where)
        return key, f"key {fingerprint(key)}"
    try:
        if b"CERTIFICATE" not in public:
            if trusted is not None:
                raise Med42Error(where, "a signature by a key without a certificate", "one by a certificate that leads to the given roots",
                                 "It was signed by somebody else; or give the public key itself.")
            key = _of_a_curve(serialization.load_pem_public_key(public))
            return key, f"key {fingerprint(key)}"
        chain = _certificates(public)
        if trusted is not None:
            _check_certificates(chain, _certificates(trusted), where)
        return _public_key(chain[0]), _name(chain[0])
    except ValueError as error:
        raise Med42Error(where, f"no key of whoever signed ({type(error).__name__})", "a public key or certificates, PEM",
                         "The signature was changed.") from error


def _check_certificates(chain: list[x509.Certificate], roots: list[x509.Certificate], where: object) -> None:
    """Whether a certificate leads to one of the roots, at the time from which it holds: when it signed is not known."""
    from cryptography import x509
    from cryptography.x509 import verification

    policy = verification.PolicyBuilder().store(verification.Store(roots)).time(chain[0].not_valid_before_utc).extension_policies(
        ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(), ee_policy=verification.ExtensionPolicy.permit_all())
    try:
        policy.build_client_verifier().verify(chain[0], chain[1:])
        if not chain[0].extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
            raise ValueError("not for signatures")
    except (verification.VerificationError, x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise Med42Error(where, f"a certificate of {_name(chain[0])} that leads to no given root ({error})"[:400],
                         "one issued below a root that is trusted, for digital signatures", "It was signed by somebody else.") from error


def _material(public: bytes) -> dict[str, Any]:
    """What a signature says of its key, which must be what lies beside it: nothing in a bundle may contradict the rest."""
    from cryptography.hazmat.primitives import serialization

    if b"CERTIFICATE" not in public:
        return {"publicKey": {"hint": hashlib.sha256(public).hexdigest()}}
    raw = [_base64(one.public_bytes(serialization.Encoding.DER)) for one in _certificates(public)]
    return {"x509CertificateChain": {"certificates": [{"rawBytes": one} for one in raw]}}


def _as_written(material: dict[str, Any], payload: bytes, raw: bytes) -> bytes:
    """A signature in the form in which the library writes it."""
    envelope = {"payload": _base64(payload), "payloadType": _PAYLOAD_TYPE, "signatures": [{"sig": _base64(raw), "keyid": ""}]}
    whole = {"mediaType": _MEDIA_TYPE, "verificationMaterial": {**material, "tlogEntries": []}, "dsseEnvelope": envelope}
    return json.dumps(whole, separators=(",", ":")).encode()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _certificates(pem: bytes) -> list[x509.Certificate]:
    from cryptography import x509

    return x509.load_pem_x509_certificates(pem)


def _of_a_curve(key: object) -> ec.EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.key_size not in (256, 384, 521):
        raise ValueError("another kind of key")
    return key


def _public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    return _of_a_curve(certificate.public_key())


def _name(certificate: x509.Certificate) -> str:
    return f"certificate of {certificate.subject.rfc4514_string()}"


def _pem(one: ec.EllipticCurvePublicKey | x509.Certificate) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    if isinstance(one, x509.Certificate):
        return one.public_bytes(serialization.Encoding.PEM)
    return one.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
