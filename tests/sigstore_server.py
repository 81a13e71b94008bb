"""The services of sigstore on loopback: an issuer of certificates (Fulcio), a log of signatures (Rekor), and what a client is told of them.

Real certificates with a timestamp of a certificate log, and a real log with proofs: what the library checks is all there. Only
whom a token is about is taken on trust.
"""

import base64
import datetime
import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

ISSUER = "https://issuer.example"
SCTS, TOKEN_ISSUER = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2"), ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
CLOSED_PORT = 9


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def make_token(subject: str, audience: str = "sigstore", lasts: int = 600, issuer: str = ISSUER) -> str:
    """A token that says whom it is about."""
    now = int(time.time())
    claims = {"iss": issuer, "sub": subject, "aud": audience, "iat": now - 5, "exp": now + lasts}
    return jwt.encode(claims, "known to the issuer alone, and long enough", "HS256")


class Sigstore:
    """Keys of the services, and what they were asked for."""

    def __init__(self) -> None:
        self.root_key, self.certificate_log, self.log = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self.started = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tests")])
        self.root = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self.root_key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(self.started)
            .not_valid_after(self.started + datetime.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.root_key.public_key()), False)
            .sign(self.root_key, hashes.SHA256())
        )
        self.asked: list[str] = []
        self.status = 200

    def trust(self, address: str) -> str:
        """What a client is given: whom to trust, and where to ask."""
        since = {"start": self.started.isoformat().replace("+00:00", "Z")}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            return {"baseUrl": address, "hashAlgorithm": "SHA2_256", "logId": {"keyId": base64_of(hashlib.sha256(der(key)).digest())},
                    "publicKey": {"rawBytes": base64_of(der(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since}}

        authority = {"subject": {"commonName": "loopback", "organization": "tests"}, "uri": address, "validFor": since,
                     "certChain": {"certificates": [{"rawBytes": base64_of(self.root.public_bytes(serialization.Encoding.DER))}]}}
        service = [{"url": address, "majorApiVersion": 1, "validFor": since, "operator": "tests"}]
        return json.dumps({
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": [log(self.log)],
                            "certificateAuthorities": [authority], "ctlogs": [log(self.certificate_log)], "timestampAuthorities": []},
            "signingConfig": {"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "caUrls": service,
                              "oidcUrls": service, "rekorTlogUrls": service, "rekorTlogConfig": {"selector": "ANY"},
                              "tsaUrls": [], "tsaConfig": {"selector": "ANY"}},
        })

    def certify(self, request: dict[str, Any], token: str) -> dict[str, Any]:
        """A certificate for ten minutes about whom the token is about, with the timestamp of a certificate log."""
        asked = x509.load_pem_x509_csr(base64.b64decode(request["certificateSigningRequest"]))
        claims = jwt.decode(token, options={"verify_signature": False})
        now = datetime.datetime.now(datetime.UTC)
        about = x509.RFC822Name(claims["sub"]) if "@" in claims["sub"] else x509.UniformResourceIdentifier(claims["sub"])
        builder = (
            x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(self.root.subject).public_key(asked.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(seconds=5))
            .not_valid_after(now + datetime.timedelta(minutes=10))
            .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(asked.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.root_key.public_key()), False)
            .add_extension(x509.SubjectAlternativeName([about]), True)
            .add_extension(x509.UnrecognizedExtension(TOKEN_ISSUER, claims["iss"].encode()), False)
        )
        before = builder.sign(self.root_key, hashes.SHA256()).tbs_certificate_bytes
        certificate = builder.add_extension(self._timestamp(before), False).sign(self.root_key, hashes.SHA256())
        chain = [one.public_bytes(serialization.Encoding.PEM).decode() for one in (certificate, self.root)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _timestamp(self, before: bytes) -> x509.UnrecognizedExtension:
        """RFC 6962, section 3: that a certificate log has seen a certificate, in the certificate itself."""
        at = int(time.time() * 1000)
        entry = hashlib.sha256(der(self.root_key)).digest() + len(before).to_bytes(3, "big") + before
        raw = self.certificate_log.sign(struct.pack("!BBQH", 0, 0, at, 1) + entry + b"\0\0", ec.ECDSA(hashes.SHA256()))
        told = struct.pack("!B32sQHBBH", 0, hashlib.sha256(der(self.certificate_log)).digest(), at, 0, 4, 3, len(raw)) + raw
        listed = struct.pack("!HH", len(told) + 2, len(told)) + told
        return x509.UnrecognizedExtension(SCTS, b"\x04" + bytes([len(listed)] if len(listed) < 128 else [0x81, len(listed)]) + listed)

    def enter(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """Take a signature up as the second entry of a log, and prove it."""
        envelope = json.loads(proposed["spec"]["proposedContent"]["envelope"])
        payload = base64.b64decode(envelope["payload"])
        body = json.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": {
            "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(
                proposed["spec"]["proposedContent"]["envelope"].encode()).hexdigest()},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": one["sig"], "verifier": proposed["spec"]["proposedContent"]["verifiers"][0]}
                           for one in envelope["signatures"]],
        }}, sort_keys=True, separators=(",", ":")).encode()
        first, second = (hashlib.sha256(b"\0" + leaf).digest() for leaf in (b"an entry before it", body))
        root = hashlib.sha256(b"\1" + first + second).digest()
        identifier = hashlib.sha256(der(self.log)).digest()
        note = f"loopback - 1\n2\n{base64_of(root)}\n"
        signed = self.log.sign(note.encode(), ec.ECDSA(hashes.SHA256()))
        promise = {"body": base64_of(body), "integratedTime": int(time.time()), "logID": identifier.hex(), "logIndex": 1}
        told = json.dumps(promise, sort_keys=True, separators=(",", ":")).encode()
        return {hashlib.sha256(body).hexdigest(): promise | {"verification": {
            "signedEntryTimestamp": base64_of(self.log.sign(told, ec.ECDSA(hashes.SHA256()))),
            "inclusionProof": {"hashes": [first.hex()], "logIndex": 1, "rootHash": root.hex(), "treeSize": 2,
                               "checkpoint": f"{note}\n\u2014 loopback {base64_of(identifier[:4] + signed)}\n"},
        }}}


@contextmanager
def sigstore_services(folder: Path) -> Iterator[tuple[Sigstore, Path]]:
    """The services, and the file that tells clients of them."""
    services = Sigstore()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"authorization_endpoint": f"{address}/auth", "token_endpoint": f"{address}/token"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            self._answer(services.certify(body, token) if self.path.endswith("/signingCert") else services.enter(body))

        def _answer(self, told: dict[str, Any]) -> None:
            services.asked.append(f"{self.command} {self.path}")
            content = json.dumps(told).encode()
            self.send_response(services.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        trust = folder / "trust.json"
        trust.write_text(services.trust(address))
        yield services, trust
        server.shutdown()
