"""What is signed here is accepted by the library's own verifier, and by ours only as it was signed and by whom."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from signing import make_certificates, make_key

from med42.errors import Med42Error
from med42.lineage.signature import CERTIFICATE, KEY, Signer, check_signature, find_signer, sign_entries

ENTRIES = {"bundle.json": b"{}", "records/aa.json": b"[1]", "report.html": b"<p>"}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in ENTRIES.items()}


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = make_key(tmp_path)
    monkeypatch.setenv(KEY, str(path))
    monkeypatch.delenv(CERTIFICATE, raising=False)
    return path


def signer() -> Signer:
    found = find_signer()
    assert found
    return found


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
@pytest.mark.parametrize("certified", [False, True])
def test_both_verifiers_accept_it(tmp_path, monkeypatch, curve, certified):
    key = make_key(tmp_path, curve=curve)
    monkeypatch.setenv(KEY, str(key))
    monkeypatch.delenv(CERTIFICATE, raising=False)
    trusted = key.with_suffix(".pub")
    if certified:
        chain, trusted = make_certificates(tmp_path, key)
        monkeypatch.setenv(CERTIFICATE, str(chain))
    signature = sign_entries(ENTRIES, "small", signer())
    expected = "certificate of CN=Release Team" if certified else signer().identity
    for given in (None, trusted.read_bytes()):
        assert check_signature(signature, signer().public, DIGESTS, "here", given) == expected

    folder = tmp_path / "unpacked"
    for name, content in ENTRIES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "signature.json").write_bytes(signature)
    how = ["certificate", "--certificate_chain", trusted] if certified else ["key", "--public_key", trusted]
    tool = Path(sys.executable).with_name("model_signing")
    command = [tool, "verify", how[0], folder, "--signature", folder / "signature.json", *how[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_byte_of_a_signature_counts(key):
    signature, public, draw = sign_entries(ENTRIES, "small", signer()), signer().public, random.Random(0)
    for place in range(0, len(signature), 3):
        changed = bytearray(signature)
        changed[place] ^= draw.randrange(1, 256)
        with pytest.raises(Med42Error):
            check_signature(bytes(changed), public, DIGESTS, "here")


@pytest.mark.parametrize("content", [
    b"", b"{}", b"[]", b"\xff", b'{"dsseEnvelope": 1}', b"[" * 100_000, b'{"dsseEnvelope":{"payload":"","signatures":[]}}'])
def test_something_else_is_no_signature(key, content, refusal):
    assert "here: found a signature that cannot be read" in refusal(lambda: check_signature(content, signer().public, DIGESTS, "here"))


@pytest.mark.parametrize("digests", [
    DIGESTS | {"more": "00"}, {name: DIGESTS[name] for name in list(DIGESTS)[1:]}, DIGESTS | {"report.html": "00" * 32}, {}], ids=len)
def test_other_content_than_was_signed_is_named(key, digests, refusal):
    signature = sign_entries(ENTRIES, "small", signer())
    assert "found something else than was signed" in refusal(lambda: check_signature(signature, signer().public, digests, "here"))


def test_another_key_is_told(tmp_path, key, refusal):
    signature, public = sign_entries(ENTRIES, "small", signer()), signer().public
    other = make_key(tmp_path, "other").with_suffix(".pub").read_bytes()
    assert "a signature that this key did not make" in refusal(lambda: check_signature(signature, public, DIGESTS, "here", other))
    assert "cannot be read" in refusal(lambda: check_signature(signature, other, DIGESTS, "here"))
    assert "no key to compare with" in refusal(lambda: check_signature(signature, public, DIGESTS, "here", b"nothing"))


def test_another_root_and_a_certificate_for_something_else_are_told(tmp_path, key, monkeypatch, refusal):
    signature, public = sign_entries(ENTRIES, "small", signer()), signer().public
    (tmp_path / "b").mkdir()
    chain, root = make_certificates(tmp_path, key)
    _, other = make_certificates(tmp_path / "b", key)
    told = refusal(lambda: check_signature(signature, public, DIGESTS, "here", root.read_bytes()))
    assert "a signature by a key without a certificate" in told
    monkeypatch.setenv(CERTIFICATE, str(chain))
    signature, public = sign_entries(ENTRIES, "small", signer()), signer().public
    assert "leads to no given root" in refusal(lambda: check_signature(signature, public, DIGESTS, "here", other.read_bytes()))
    chain, root = make_certificates(tmp_path / "b", key, signs=False)
    monkeypatch.setenv(CERTIFICATE, str(chain))
    signature, public = sign_entries(ENTRIES, "small", signer()), signer().public
    assert "not for signatures" in refusal(lambda: check_signature(signature, public, DIGESTS, "here", root.read_bytes()))


def test_no_key_no_signer(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    assert find_signer() is None


def test_keys_that_cannot_sign_are_told_without_their_content(tmp_path, monkeypatch, refusal):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    secret = "do-not-tell-this"
    (tmp_path / "text").write_text(f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n")
    (tmp_path / "other").write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    for name, words in {"text": "cannot be read", "none": "cannot be read", "other": "another kind of key"}.items():
        monkeypatch.setenv(KEY, str(tmp_path / name))
        told = refusal(find_signer)
        assert words in told and secret not in told
    monkeypatch.setenv(KEY, str(make_key(tmp_path)))
    (tmp_path / "b").mkdir()
    monkeypatch.setenv(CERTIFICATE, str(make_certificates(tmp_path, make_key(tmp_path / "b"))[0]))
    assert "a certificate for another key" in refusal(find_signer)
    monkeypatch.setenv(CERTIFICATE, str(tmp_path / "none"))
    assert "no certificate" in refusal(find_signer)


def test_signatures_hold_nothing_of_the_key(key):
    signature, body = sign_entries(ENTRIES, "small", signer()), "".join(key.read_text().splitlines()[1:-1])
    assert body not in signature.decode() and str(key) not in signature.decode() and str(key) not in json.dumps(signer().identity)
