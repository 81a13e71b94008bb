"""A sealed bundle holds what it should, in forms that the validators of others accept, and nothing that it should not."""

import hashlib
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from audit_chain import PAIRS, Chain, make_chain, mixed_rows
from command import BLOCKER, HEAVY, answer, refusal
from signing import make_certificates, make_key
from sigstore_server import ISSUER, make_token, sigstore_services

from med42.errors import Med42Error
from med42.lineage.bundle import check_artifacts, check_chain, check_rows, unpack
from med42.lineage.graph import draw, in_order
from med42.lineage.journal import Job
from med42.lineage.keyless import TOKEN, TRUST
from med42.lineage.openlineage import events
from med42.lineage.record import Record, read_record
from med42.lineage.scores import wilson
from med42.lineage.signature import CERTIFICATE, KEY
from med42.recipe import load_recipe
from med42.release.audit_page import audit_page
from med42.release.seal_audit import seal_audit


@pytest.fixture(scope="module")
def chain(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Sealed by a key."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, str(make_key(folder)))
        patch.delenv(CERTIFICATE, raising=False)
        return make_chain(folder, tiny)


@pytest.fixture(scope="module")
def unpacked(chain: Chain) -> Path:
    folder = chain.folder / "unpacked"
    with zipfile.ZipFile(chain.bundle) as file:
        file.extractall(folder)
    return folder


@pytest.fixture(autouse=True)
def no_signer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.delenv(CERTIFICATE, raising=False)


# --- what others say of it ------------------------------------------------------------------------


def test_model_signing_verifies_the_unpacked_bundle(chain, unpacked):
    tool = Path(sys.executable).with_name("model_signing")
    command = [tool, "verify", "key", unpacked, "--signature", unpacked / "signature.json", "--public_key", chain.folder / "key.pub"]
    assert subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("version", ["V1_6", "V1_7"])
def test_cyclonedx_validates_the_bill(unpacked, version):
    from cyclonedx.model.bom import Bom
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (unpacked / "ml-bom.cdx.json").read_text()
    if version == "V1_7":
        text = text.replace('"1.6"', '"1.7"').replace("bom-1.6", "bom-1.7")
    assert JsonStrictValidator(SchemaVersion[version]).validate_str(text) is None
    assert len(Bom.from_json(json.loads(text)).components) > 6


def test_in_toto_validates_every_statement(chain, unpacked):
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    kinds = {"https://slsa.dev/provenance/v1": provenance_pb2.Provenance, "https://in-toto.io/attestation/test-result/v0.1":
             test_result_pb2.TestResult}
    told = [json.loads(path.read_text()) for path in sorted((unpacked / "statements").iterdir())]
    for one in told:
        Statement.copy_from_pb(json_format.ParseDict(one, statement_pb2.Statement())).validate()
        json_format.ParseDict(one["predicate"], kinds[one["predicateType"]]())
    assert len(told) == chain.seal.measured["records"] + 1
    verdict = next(one for one in told if "test-result" in one["predicateType"])
    assert (verdict["predicate"]["result"], len(verdict["predicate"]["passedTests"])) == ("PASSED", len(chain.recipe.gates))
    model = read_record(chain.folder / "train_dpo-2")
    assert {"sha256": model.files["model.safetensors"].sha256} in [subject["digest"] for subject in verdict["subject"]]


def test_openlineage_reads_every_event(chain):
    from openlineage.client.event_v2 import RunState

    bundle = unpack(chain.bundle.read_bytes(), "here")
    texts = events("tiny", in_order(bundle.subject, bundle.records), bundle.records)
    told = [json.loads(text) for text in texts]
    assert len(told) == 2 * len(bundle.records) and {one["eventType"] for one in told} == {RunState.START.value, RunState.COMPLETE.value}
    made = set()
    for one in told:
        assert {dataset["name"] for dataset in one["inputs"]} <= made, "what is used was made before"
        made |= {dataset["name"] for dataset in one["outputs"]}
    assert texts == events("tiny", in_order(bundle.subject, bundle.records), bundle.records)


def test_the_bill_tells_data_licences_and_scores(chain, unpacked):
    bill = json.loads((unpacked / "ml-bom.cdx.json").read_text())
    model = bill["metadata"]["component"]
    data = {one["name"]: one for one in bill["components"] if one["type"] == "data"}
    assert set(chain.recipe.sources) <= data.keys()
    assert data["exam"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert {one["ref"] for one in model["modelCard"]["modelParameters"]["datasets"]} == {one["bom-ref"] for one in data.values()}
    metrics = {one["slice"]: one for one in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    assert metrics["mmlu"]["value"] == "0.800000"
    low, high = wilson(0.8, 48)
    assert metrics["mmlu"]["confidenceInterval"] == {"lowerBound": f"{low:.6f}", "upperBound": f"{high:.6f}"}


def test_wilson_is_as_printed_in_books():
    assert [round(end, 4) for end in wilson(0.0, 10)] == [0.0, 0.2775]
    assert [round(end, 4) for end in wilson(0.5, 100)] == [0.4038, 0.5962]
    assert wilson(0.3, 0) == (0.0, 1.0)


# --- what it holds --------------------------------------------------------------------------------


def test_every_row_of_the_mix_is_in_it_and_no_text(chain, unpacked):
    bundle = unpack(chain.bundle.read_bytes(), "here")
    record = read_record(chain.folder / "mix_data")
    rows = bundle.rows[f"{record.digest}.rows.bin"]
    mixed = mixed_rows(chain.folder / "mix_data")
    places = [rows.find(bytes.fromhex(row["id"])) for row in mixed]
    assert None not in places and len(set(places)) == len(rows) == len(mixed)
    assert all(rows.label(place) == row["source"] for place, row in zip(places, mixed, strict=True))
    left_out = bundle.rows[f"{record.digest}.left_out.bin"]
    assert left_out.counts() == {"abstracts: overlaps benchmark pubmedqa": 8, "chats: overlaps benchmark toxigen": 13}
    content = chain.bundle.read_bytes()
    assert not any(turn["content"].encode() in content for row in mixed for turn in row["messages"] if len(turn["content"]) > 20)
    assert check_rows(bundle, "here") == len(mixed) + 21 + len(PAIRS)


def test_it_is_the_same_for_the_same_records(chain, tmp_path):
    subject = chain.folder / "push_model"
    first, again = (seal_audit(chain.recipe, subject, tmp_path / name, Job("test")) for name in ("one", "two"))
    assert first.digest == again.digest
    assert first.measured["signed_by"] == "" and chain.seal.measured["signed_by"].startswith("key ")


def test_a_refusal_is_sealed_too(tiny, tmp_path):
    refused = make_chain(tmp_path, tiny, score=0.3)
    bundle = unpack(refused.bundle.read_bytes(), "here")
    check_chain(bundle, "here")
    assert bundle.subject.stage == "decide_release" and not (tmp_path / "published").exists()
    verdict = next(json.loads(text) for name, text in bundle.statements.items() if "test-result" in name)
    assert verdict["predicate"]["result"] == "FAILED"


def test_a_certificate_signs(chain, tmp_path, monkeypatch):
    key = make_key(tmp_path)
    certificates, _ = make_certificates(tmp_path, key)
    monkeypatch.setenv(KEY, str(key))
    monkeypatch.setenv(CERTIFICATE, str(certificates))
    record = seal_audit(chain.recipe, chain.folder / "push_model", tmp_path / "seal", Job("test"))
    assert record.measured["signed_by"] == "certificate of CN=Release Team"


def test_a_release_that_is_signed_without_a_key(tiny, tmp_path, monkeypatch):
    """Model and bundle by an identity; the command and the library accept both, and the token is in nothing that is left."""
    who, out = "release@team.example", tmp_path / "out"
    out.mkdir()
    with sigstore_services(tmp_path) as (_, trust):
        token = make_token(who)
        (tmp_path / "token").write_text(token)
        monkeypatch.setenv(TOKEN, str(tmp_path / "token"))
        monkeypatch.setenv(TRUST, str(trust))
        chain = make_chain(out, tiny, recipe=load_recipe("tiny", ["audit.signed=sigstore"]))
    assert chain.seal.measured["signed_by"] == f"{who} of {ISSUER}, by sigstore" == read_record(out / "push_model").measured["signed_by"]
    place = {"MED42_SIGSTORE_TRUST": str(trust), "PYTHONPATH": str(Path(__file__).parents[2]), "cwd": tmp_path}
    named = ("--identity", who, "--issuer", ISSUER)
    told = answer("audit", "verify", chain.bundle, "--release", out / "published", *named, **place)
    assert f"signed by {who} of {ISSUER}, by sigstore, as asked" in told and "as published" in told
    assert "give --identity and --issuer to compare" in answer("audit", "verify", chain.bundle, **place)
    assert "expected one by else@team.example" in refusal("audit", "verify", chain.bundle, "--identity", "else@team.example",
                                                          "--issuer", ISSUER, **place)
    assert "half of one" in refusal("audit", "verify", chain.bundle, "--identity", who, **place)
    assert "a signature without a key" in refusal("audit", "verify", chain.bundle, "--key", make_key(tmp_path).with_suffix(".pub"), **place)
    (tmp_path / "light").mkdir()
    (tmp_path / "light" / "sitecustomize.py").write_text(BLOCKER.format(names=(*HEAVY, "sigstore")))
    light = place | {"PYTHONPATH": f"{tmp_path / 'light'}:{place['PYTHONPATH']}"}
    assert "sigstore: found not installed" in refusal("audit", "verify", chain.bundle, *named, **light)
    with zipfile.ZipFile(chain.bundle) as file:
        assert "signer.pem" not in file.namelist()
        file.extractall(tmp_path / "unpacked")
    tool = [Path(sys.executable).with_name("model_signing"), "verify", "sigstore", "--identity", who, "--identity_provider", ISSUER,
            "--trust_config", trust]
    for folder, signature in ((tmp_path / "unpacked", "signature.json"), (out / "published", "model.sig")):
        assert subprocess.run([*tool, folder, "--signature", folder / signature], capture_output=True).returncode == 0
    for path in [path for path in out.rglob("*") if path.is_file()]:
        assert token.encode() not in path.read_bytes() and token.split(".")[1].encode() not in path.read_bytes(), path


def test_a_recipe_that_asks_for_a_signature_is_not_sealed_without(tiny, tmp_path):
    recipe = load_recipe("tiny", ["audit.signed=true"])
    with pytest.raises(Med42Error, match="no signing key"):
        seal_audit(recipe, tmp_path, tmp_path / "seal", Job("test"))


@pytest.mark.parametrize("change", ["gone", "other", "more"])
def test_row_sets_that_are_not_the_records_are_told(chain, tmp_path, change):
    subject = shutil.copytree(chain.folder / "push_model", tmp_path / "push_model")
    carried = sorted((subject / "ancestry").iterdir())
    assert len(carried) == 4
    if change == "gone":
        carried[0].unlink()
    elif change == "other":
        content = carried[0].read_bytes()
        carried[0].unlink()  # linked to the others
        carried[0].write_bytes(content + bytes(34))
    else:
        (subject / "ancestry" / "more").write_text("")
    with pytest.raises(Med42Error, match="ancestry"):
        seal_audit(chain.recipe, subject, tmp_path / "seal", Job("test"))


def test_every_artifact_of_the_chain_is_as_sealed(chain, tiny, tmp_path):
    shutil.copytree(chain.folder, tmp_path / "all", ignore=shutil.ignore_patterns("published", "unpacked", "seal"))
    for name, path in tiny.sources.items():
        shutil.copytree(path, tmp_path / "all" / f"source-{name}")
    shutil.copytree(tiny.benchmarks, tmp_path / "all" / "benchmarks")
    bundle = unpack(chain.bundle.read_bytes(), "here")
    assert check_artifacts(bundle, tmp_path / "all") == []
    carried = next((tmp_path / "all" / "train_sft" / "ancestry").glob("*.rows.bin"))
    carried.write_bytes(carried.read_bytes()[:-1])
    assert check_artifacts(bundle, tmp_path / "all") == [f"{carried}: is not the row set that was sealed"]


# --- pages ----------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Tags(html.parser.HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def evil(value: object) -> object:
    """The same, with every text that comes from data made an attack."""
    if isinstance(value, dict):
        return {f"{key}{EVIL}" if key in ("exam", "flashcards", "duplicate") else key: evil(inner) for key, inner in value.items()}
    return [evil(inner) for inner in value] if isinstance(value, list) else EVIL if isinstance(value, str) else value


def test_what_comes_from_data_is_escaped(chain):
    bundle = unpack(chain.bundle.read_bytes(), "here")
    records = {}
    for digest, record in bundle.records.items():
        told = record.model_dump(mode="json")
        told |= {"measured": evil(told["measured"]), "name": f"{record.name}{EVIL}"}
        told["made"] |= {"run": EVIL, "machine": EVIL, "accelerators": [EVIL]}
        records[digest] = Record.model_validate(told)
        vars(records[digest])["digest"] = digest  # as if it had been so from the start
    subject = records[bundle.subject.digest]
    for page in (audit_page(chain.recipe, subject, records, EVIL), draw(subject, records)):
        found = Tags()
        found.feed(page)
        assert not found.tags & {"script", "img", "iframe", "object", "embed", "link", "a"}
        assert not [name for name in found.attributes if name.startswith("on") or name in ("src", "href")]
        assert EVIL not in page and "&lt;script&gt;" in page


def test_the_page_needs_nothing_else(unpacked):
    page = (unpacked / "report.html").read_text(encoding="ascii")
    assert not re.search(r"(src|href)=|url\(|@import", page) and "<svg" in page
    assert "Evidence for review; it certifies nothing by itself." in page and "compliant" not in page


# --- secrets --------------------------------------------------------------------------------------


def test_no_planted_secret_is_in_any_output(tiny, tmp_path, monkeypatch):
    """Keys, tokens and passwords that the stages are given are in nothing that they leave."""
    monkeypatch.setenv(KEY, str(make_key(tmp_path, "a-key-of-ours")))
    secrets = {name: hashlib.sha256(name.encode()).hexdigest()[:24] for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GOOGLE_API_KEY",
                                                                                "WANDB_API_KEY", "GIT_PASSWORD")}
    for name, secret in secrets.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("HF_ENDPOINT", f"https://user:{secrets['GIT_PASSWORD']}@hub.example")
    out = tmp_path / "out"
    out.mkdir()
    chain = make_chain(out, tiny)
    body = "".join((tmp_path / "a-key-of-ours.pem").read_text().splitlines()[1:-1])
    planted = [secret.encode() for secret in (*secrets.values(), body, "a-key-of-ours")]
    looked = 0
    for path in [path for path in out.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        looked += 1
        assert not [secret for secret in planted if secret in content], path
    assert looked > 60 and chain.seal.measured["signed_by"] and os.environ["HF_TOKEN"]
