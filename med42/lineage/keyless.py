"""Signatures without a key of one's own: sigstore certifies, for some minutes, whom an identity token is about, and logs what was signed.

Who signs is an identity (a mail address, or the address of a workload) as some issuer of tokens knows it. Signing needs both
services of sigstore, Fulcio and Rekor; checking needs neither, for the certificate and the proof that it was logged lie in the
signature, but it needs to know whom to trust: what the `sigstore` library brings along, or a file for services of one's own.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from med42.errors import Med42Error

if TYPE_CHECKING:
    from cryptography import x509

# Files named by the environment; without a token's file it is looked for where the machine may offer one.
TOKEN, TRUST = "MED42_SIGNING_TOKEN", "MED42_SIGSTORE_TRUST"
AUDIENCE = "sigstore"  # of the token
_ISSUER = "1.3.6.1.4.1.57264.1.1"  # what Fulcio writes into a certificate: whose token it was
_HOW = f"a token for the audience '{AUDIENCE}', of some minutes, in the file that {TOKEN} names; or one that the machine offers " \
       "(GitHub Actions with id-token: write, GitLab, Google Cloud)"


@dataclass(frozen=True)
class KeylessSigner:
    """Somebody whom an identity token is about.

    Attributes:
        token: the token; a secret for as long as it holds.
        trust: the file of whom to trust and where to ask, as sigstore's ClientTrustConfig; None for the public services.
        identity: who signs, in words that a record may hold.
    """

    token: str = field(repr=False)
    trust: Path | None
    identity: str
    public: bytes = b""  # nothing lies beside the signature: it has its certificate in it


@dataclass(frozen=True)
class Identity:
    """Who must have signed, as the certificate names them, and the issuer of their token."""

    name: str
    issuer: str


def find_identity() -> KeylessSigner:
    """Whom the token that this machine has is about.

    Raises:
        Med42Error: there is none, it is none or has ended, or the library is not installed.
    """
    oidc = _sigstore().oidc
    path = os.environ.get(TOKEN, "")
    try:
        raw = Path(path).read_text().strip() if path else oidc.detect_credential(AUDIENCE)
        if not raw:
            raise Med42Error(TOKEN, "no identity token", _HOW,
                             "Give one to the stages that push and seal, or sign with a key (audit.signed: true).")
        token = oidc.IdentityToken(raw, AUDIENCE)
    except (OSError, UnicodeDecodeError) as error:
        raise Med42Error(TOKEN, f"a token that cannot be read ({type(error).__name__})", _HOW, "Check the path and its mode.") from None
    except oidc.IdentityError as error:
        cause = error.__cause__ or error
        raise Med42Error(TOKEN, f"no token to sign with ({type(cause).__name__}: {cause})"[:300], _HOW,
                         "Fetch a new one; it holds for some minutes.") from None
    return KeylessSigner(raw, _trust_file(), f"{token.identity} of {token.issuer}, by sigstore")


def configure(config: Any, signer: KeylessSigner) -> Any:
    """Let the library `model_signing` sign with a token."""
    if signer.trust:
        _trust(signer.trust)  # told before the library trips over it
    return config.use_sigstore_signer(identity_token=signer.token, client_id=AUDIENCE, trust_config=signer.trust)


def not_signed(error: Exception, signer: KeylessSigner) -> Med42Error:
    """What to tell where the services did not sign."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and isinstance(cause, Exception) and len(causes) < 9:
        causes.append(cause)
    words = " <- ".join(f"{type(one).__name__}: {str(one).replace(signer.token, '...')[:160]}".removesuffix(": ") for one in causes[:3])
    return Med42Error("sigstore", f"no signature ({words})", "a certificate and a log entry of its services",
                      f"Let this stage reach them, name those of your own in the file of {TRUST}, or sign with a key (audit.signed: true).")


def check_keyless(signature: bytes, where: object, expected: Identity | None) -> tuple[bytes, str]:
    """Check the certificate, the log entry and the signature of what sigstore signed.

    Args:
        signature: the sigstore bundle.
        where: for errors.
        expected: who must have signed; None for anybody.

    Returns:
        What was signed, a statement as JSON; and who signed.

    Raises:
        Med42Error: it is none, is not in the form in which it was written, or somebody else signed.
    """
    sigstore = _sigstore()
    config = _trust(_trust_file())
    try:
        bundle = sigstore.models.Bundle.from_json(signature)
        if bundle.to_json().encode() != signature or any(one.get("keyid") for one in json.loads(signature)["dsseEnvelope"]["signatures"]):
            raise ValueError("another form than it was written in")
        told = _told(bundle.signing_certificate)
        asked = sigstore.verify.policy.Identity(identity=(expected or told).name, issuer=(expected or told).issuer)
        _, payload = sigstore.verify.Verifier(trusted_root=config.trusted_root).verify_dsse(bundle, asked)
        return payload, f"{told.name} of {told.issuer}, by sigstore"
    except Exception as error:  # the library reads what strangers may have written, and raises much besides its own errors
        words = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise Med42Error(where, f"a keyless signature that does not hold ({words})",
                         f"one by {expected.name} of {expected.issuer}" if expected else "one that trusted services certified and logged",
                         f"It was signed by somebody else, or changed, or certified by services that nobody trusts ({TRUST} names others).",
                         ) from error


def _told(certificate: x509.Certificate) -> Identity:
    """Whom a certificate is about, as `a@b.example`, and whose token said so."""
    from cryptography import x509

    [name] = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    [issuer] = [one.value.value for one in certificate.extensions if one.oid.dotted_string == _ISSUER]
    value = name.value  # an OtherName's is DER
    return Identity(value.decode() if isinstance(value, bytes) else str(value), issuer.decode())


def _trust_file() -> Path | None:
    return Path(os.environ[TRUST]) if os.environ.get(TRUST) else None


def _trust(path: Path | None) -> Any:
    """Services, and whom to trust of them: those of a file, or the public ones as the library brings them along."""
    known = _sigstore().models.ClientTrustConfig
    try:
        if path:
            return known.from_json(path.read_text())
        logging.getLogger("sigstore._internal.tuf").setLevel(logging.ERROR)  # it warns that it asks nobody, which is what is wanted
        return known.production(offline=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Med42Error(path or "sigstore's own trust", f"no trust configuration ({type(error).__name__})", "a ClientTrustConfig, JSON",
                         f"Ask those who run the services for one, and name it in {TRUST}.") from error


def _sigstore() -> Any:
    try:
        import sigstore.models
        import sigstore.oidc
        import sigstore.verify
    except ModuleNotFoundError as error:
        raise Med42Error("sigstore", "not installed", "what keyless signatures are made and checked with",
                         "Install this package with its extra 'release'.") from error
    return sigstore
