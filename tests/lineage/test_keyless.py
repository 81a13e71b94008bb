"""Keyless signatures by the real library, against Fulcio and Rekor on loopback; checked offline, by the library's command too."""

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from signing import make_key
from sigstore_server import CLOSED_PORT, ISSUER, Sigstore, make_token, sigstore_services

from med42.errors import Med42Error
from med42.lineage.keyless import TOKEN, TRUST, Identity
from med42.lineage.signature import KEY, check_signature, find_signer, sign_entries

ENTRIES = {"bundle.json": b"{}", "records/aa.json": b"[1]", "report.html": b"<p>"}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in ENTRIES.items()}
WHO = "https://kubernetes.example/namespaces/med42/serviceaccounts/med42-run"


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with sigstore_services(tmp_path) as (running, trust):
        (tmp_path / "token").write_text(make_token(WHO) + "\n")
        monkeypatch.setenv(TOKEN, str(tmp_path / "token"))
        monkeypatch.setenv(TRUST, str(trust))
        yield running


def signed() -> bytes:
    return sign_entries(ENTRIES, "small", find_signer("sigstore"))


def test_it_is_certified_logged_and_accepted_offline(services: Sigstore, tmp_path):
    assert find_signer("sigstore").identity == f"{WHO} of {ISSUER}, by sigstore"
    signature, asked = signed(), list(services.asked)
    assert "POST /api/v2/signingCert" in asked and "POST /api/v1/log/entries" in asked
    for expected in (None, Identity(WHO, ISSUER)):
        assert check_signature(signature, b"", DIGESTS, "here", expected) == f"{WHO} of {ISSUER}, by sigstore"
    assert services.asked == asked  # checking asks nobody

    folder = tmp_path / "unpacked"
    for name, content in ENTRIES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "signature.json").write_bytes(signature)
    tool = Path(sys.executable).with_name("model_signing")
    done = subprocess.run([tool, "verify", "sigstore", folder, "--signature", folder / "signature.json", "--identity", WHO,
                           "--identity_provider", ISSUER, "--trust_config", tmp_path / "trust.json"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("expected", [Identity("else@b.example", ISSUER), Identity(WHO, "https://other.example")], ids=["who", "issuer"])
def test_another_identity_is_told(services, refusal, expected):
    signature = signed()
    told = refusal(lambda: check_signature(signature, b"", DIGESTS, "here", expected))
    assert f"expected one by {expected.name} of {expected.issuer}" in told


def test_a_key_is_no_identity_and_an_identity_no_key(services, tmp_path, monkeypatch, refusal):
    key = make_key(tmp_path)
    trusted = key.with_suffix(".pub").read_bytes()
    signature = signed()
    assert "a signature without a key" in refusal(lambda: check_signature(signature, b"", DIGESTS, "here", trusted))
    monkeypatch.setenv(KEY, str(key))
    by_key = sign_entries(ENTRIES, "small", find_signer())
    told = refusal(lambda: check_signature(by_key, trusted, DIGESTS, "here", Identity(WHO, ISSUER)))
    assert "found a signature by a key" in told
    assert "keyless signature that does not hold" in refusal(lambda: check_signature(by_key, b"", DIGESTS, "here"))


def test_other_content_than_was_signed_is_named(services, refusal):
    signature = signed()
    told = refusal(lambda: check_signature(signature, b"", DIGESTS | {"report.html": "00" * 32}, "here"))
    assert "here, report.html: found something else than was signed" in told


def test_other_services_than_those_that_are_trusted_are_told(services, tmp_path, monkeypatch, refusal):
    signature = signed()
    (tmp_path / "others").mkdir()
    with sigstore_services(tmp_path / "others") as (_, other):
        monkeypatch.setenv(TRUST, str(other))
        assert "does not hold" in refusal(lambda: check_signature(signature, b"", DIGESTS, "here"))
    monkeypatch.delenv(TRUST)
    monkeypatch.setenv("HOME", str(tmp_path))  # where the library lays down the public services' keys, which it brings along
    assert "does not hold" in refusal(lambda: check_signature(signature, b"", DIGESTS, "here"))
    monkeypatch.setenv("HOME", str(tmp_path / "token"))  # which is no folder
    assert "no trust configuration (NotADirectoryError); expected a ClientTrustConfig, JSON. Ask" in refusal(
        lambda: check_signature(signature, b"", DIGESTS, "here"))
    monkeypatch.setenv(TRUST, str(tmp_path / "token"))
    assert "found no trust configuration" in refusal(lambda: check_signature(signature, b"", DIGESTS, "here"))


def test_every_byte_counts(services):
    """But those that name the log beside its own signature, which nothing reads."""
    signature, draw = signed(), random.Random(0)
    free = signature.index(b"loopback ", signature.index(b"\\n\\n"))
    for place in set(range(0, len(signature), 23)) - set(range(free, free + len(b"loopback "))):
        changed = bytearray(signature)
        changed[place] ^= draw.randrange(1, 256)
        with pytest.raises(Med42Error):
            check_signature(bytes(changed), b"", DIGESTS, "here")


def test_a_name_for_the_key_counts(services, refusal):
    told = json.loads(signed())
    told["dsseEnvelope"]["signatures"][0]["keyid"] = "another"
    changed = json.dumps(told, separators=(",", ":")).encode()
    assert "does not hold" in refusal(lambda: check_signature(changed, b"", DIGESTS, "here"))


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, json.dumps({"dsseEnvelope": 1}).encode()], ids=len)
def test_something_else_is_no_signature(services, content, refusal):
    assert "here: found a keyless signature that does not hold" in refusal(lambda: check_signature(content, b"", DIGESTS, "here"))


@pytest.mark.parametrize("change", [
    lambda proof: proof.update(treeSize="9" * 4_000), lambda proof: proof.update(treeSize=str(2**63 - 1), logIndex=str(2**63 - 2)),
    lambda proof: proof.update(hashes=["AAAA"] * 100_000),
    lambda proof: proof["checkpoint"].update(envelope="a\n1\nAAAA\n\n" + "\u2014 a AAAAAAAAAAAA\n" * 100_000),
], ids=["digits", "size", "hashes", "names"])
def test_what_is_made_to_take_much_is_refused(services, change, refusal):
    told = json.loads(signed())
    change(told["verificationMaterial"]["tlogEntries"][0]["inclusionProof"])
    changed = json.dumps(told, separators=(",", ":")).encode()
    assert "does not hold" in refusal(lambda: check_signature(changed, b"", DIGESTS, "here"))


@pytest.mark.parametrize(("text", "words"), [
    ("", "no identity token"), ("not.a.token", "DecodeError"), (make_token(WHO, lasts=-60), "Signature has expired"),
    (make_token(WHO, audience="another"), "Audience doesn't match"), (None, "cannot be read (FileNotFoundError)"),
])
def test_a_token_that_does_not_do_is_told_without_its_text(tmp_path, monkeypatch, refusal, text, words):
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv(TOKEN, str(path))
    told = refusal(lambda: find_signer("sigstore"))
    assert words.split(" (")[0] in told and f"in the file that {TOKEN} names" in told
    assert not text or text not in told


def test_a_machine_that_should_offer_one_and_does_not_is_told(monkeypatch, refusal):
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", raising=False)
    told = refusal(lambda: find_signer("sigstore"))
    assert "insufficient OIDC token permissions" in told and "id-token: write" in told


def test_services_that_refuse_or_are_away_are_told(services, tmp_path, monkeypatch, refusal):
    services.status = 503
    told = refusal(signed)
    assert "sigstore: found no signature (" in told and "503" in told
    away = json.loads((tmp_path / "trust.json").read_text())
    for one in ("caUrls", "oidcUrls", "rekorTlogUrls"):
        away["signingConfig"][one][0]["url"] = f"http://127.0.0.1:{CLOSED_PORT}"
    (tmp_path / "away.json").write_text(json.dumps(away))
    monkeypatch.setenv(TRUST, str(tmp_path / "away.json"))
    told = refusal(signed)
    assert "no signature (NetworkError" in told and TRUST in told and (tmp_path / "token").read_text().strip() not in told
    assert (tmp_path / "token").read_text().strip() not in repr(find_signer("sigstore"))
