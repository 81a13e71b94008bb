"""The commands of `med42 audit`, on a whole bundle, with nothing installed but what the base package needs."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from audit_chain import PAIRS, Chain, make_chain, mixed_rows
from command import BLOCKER, HEAVY, answer, med42, refusal
from signing import make_key

from med42.cli.answers import QUESTIONS
from med42.lineage.bundle import unpack
from med42.lineage.record import read_record
from med42.lineage.signature import CERTIFICATE, KEY

ROOT = {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def made(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A signed bundle, the key that signed it, and the chain."""
    folder = tmp_path_factory.mktemp("audit")
    key = make_key(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, str(key))
        patch.delenv(CERTIFICATE, raising=False)
        chain: Chain = make_chain(folder, tiny)
    return SimpleNamespace(chain=chain, bundle=chain.bundle, key=key.with_suffix(".pub"), folder=folder)


@pytest.fixture
def light(tmp_path: Path) -> dict[str, str]:
    """An environment in which torch, kfp, numpy, pyarrow and their like cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER.format(names=(*HEAVY, "kfp", "sigstore", "model_signing", "in_toto_attestation")))
    return {"PYTHONPATH": f"{tmp_path}:{ROOT['PYTHONPATH']}"}


def test_verify_says_what_was_checked_and_who_signed(made, tmp_path, light):
    told = answer("audit", "verify", made.bundle, "--key", made.key, cwd=tmp_path, **light)
    assert "19 records, chain complete to push_model, 1,312 rows by digest" in told
    assert re.search(r"^signed by key [0-9a-f]{16}, as asked", told, re.MULTILINE)
    assert "give --key FILE to compare" in answer("audit", "verify", made.bundle, cwd=tmp_path, **light)
    other = make_key(tmp_path, "other").with_suffix(".pub")
    assert "signature.json: found a signature that this key did not make" in refusal(
        "audit", "verify", made.bundle, "--key", other, cwd=tmp_path, **light)


def test_a_downloaded_release_is_compared(made, tmp_path, light):
    release = shutil.copytree(made.folder / "published", tmp_path / "release")
    assert "as published" in answer("audit", "verify", made.bundle, "--release", release, cwd=tmp_path, **light)
    assert "as published" in answer("audit", "verify", made.bundle, "--release", release, "--key", made.key, cwd=tmp_path, **light)
    signature = (release / "model.sig").read_bytes()
    (release / "model.sig").write_bytes(signature[:-200])
    told = med42("audit", "verify", made.bundle, "--release", release, cwd=tmp_path, **light)
    assert told.returncode == 1 and "model.sig: found a signature" in told.stdout
    (release / "model.sig").write_bytes(signature)
    (release / "config.json").write_text("{ }")
    (release / "more.py").write_text("")
    told = med42("audit", "verify", made.bundle, "--release", release, cwd=tmp_path, **light)
    assert told.returncode == 1
    assert "config.json: not what was published" in told.stdout and "more.py: added" in told.stdout


def test_twenty_questions_have_answers_in_words(made, tmp_path, light):
    told = answer("audit", "show", made.bundle, cwd=tmp_path, **light)
    assert len(QUESTIONS) == 20
    parts = re.split(r"^\d+\. ", told, flags=re.MULTILINE)[1:]
    assert [part.split("\n")[0] for part in parts] == [question for question, _ in QUESTIONS]
    assert all(len(part.strip().split("\n")) > 1 for part in parts)
    assert "the bundle does not tell" not in told and "compliant" not in told
    expected = {
        1: "sources.exam: invented exam, made from the seed, licence Apache-2.0", 2: "mix_data: 1,251 rows",
        3: "8 overlaps benchmark pubmedqa", 4: "planted identifiers it found", 5: "audit contains",
        6: "mmlu: all 48 rows that are scored", 7: "licence Apache-2.0", 8: "source digests by stage",
        9: "train_sft: seed 0", 10: "train_sft: 2 attempts, 1 steps done again",
        11: "train_dpo-2: starts from train_dpo-1", 12: "protocol", 13: "mmlu: 80.0% (95% interval 66.7% to 88.9%", 14: "toxigen 0.8",
        15: "met: average-at-least: average is", 16: "no person's approval is recorded", 17: "model.safetensors sha256",
        18: "--artifacts", 19: "audit impact", 20: "in all",
    }
    for number, words in expected.items():
        assert words in parts[number - 1], parts[number - 1]
    one = json.loads(answer("audit", "show", made.bundle, "-q", "13", "--json", cwd=tmp_path, **light))
    assert one[0]["number"] == 13 and one[0]["answer"]


def test_contains_answers_with_proofs_and_without_text(made, tmp_path, light):
    row = mixed_rows(made.chain.folder / "mix_data")[0]
    told = answer("audit", "contains", made.bundle, row["id"], "--proof", "proof.json", cwd=tmp_path, **light)
    assert told.startswith(f"trained on row {row['id']}")
    assert f"mix_data, trained on: in, from {row['source']}; proven by row" in told
    root = read_record(made.chain.folder / "mix_data").measured["merkle_root"]
    assert f"{row['id']}: in the 1,251 rows of root {root[:16]}" in answer(
        "audit", "check-proof", "proof.json", "--root", root, cwd=tmp_path, **light)
    (tmp_path / "row.json").write_text(json.dumps({"messages": row["messages"]}))
    by_text = answer("audit", "contains", made.bundle, "row.json", cwd=tmp_path, **light)
    assert row["id"] in by_text and row["messages"][0]["content"] not in by_text
    absent = "ab" * 32
    told = answer("audit", "contains", made.bundle, absent, "--proof", "none.json", cwd=tmp_path, **light)
    assert told.startswith(f"not trained on row {absent}") and "proven by row" in told
    assert "not in the 1,251 rows" in answer("audit", "check-proof", "none.json", "--root", root, cwd=tmp_path, **light)
    proof = json.loads((tmp_path / "none.json").read_text())
    proof[2]["leaves"][0]["path"][0] = absent
    (tmp_path / "none.json").write_text(json.dumps(proof))
    assert "does not lead to the root" in refusal("audit", "check-proof", "none.json", "--root", root, cwd=tmp_path, **light)


def test_rows_of_a_file_and_pairs_are_found(made, tmp_path, light):
    rows = mixed_rows(made.chain.folder / "mix_data")[:3]
    lines = [json.dumps(row["messages"]) for row in rows] + [
        json.dumps({"prompt": PAIRS[0].prompt, "chosen": PAIRS[0].chosen, "rejected": PAIRS[0].rejected}),
        json.dumps([{"role": "user", "content": "never"}, {"role": "assistant", "content": "seen"}])]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    found = json.loads(answer("audit", "contains", made.bundle, "rows.jsonl", "--json", cwd=tmp_path, **light))
    assert [any(told["in"] for told in one["sets"]) for one in found] == [True] * 4 + [False]
    assert next(told["record"] for told in found[3]["sets"] if told["in"]) == "build_preferences-1"


def test_a_row_that_was_left_out_has_its_reason(made, tmp_path, light):
    bundle = unpack(made.bundle.read_bytes(), "here")
    name = next(name for name in bundle.rows if "left_out" in name)
    row = bundle.rows[name].digest(0).hex()
    told = answer("audit", "contains", made.bundle, row, cwd=tmp_path, **light)
    assert told.startswith("not trained on") and "mix_data, left out: in: " in told and "overlaps benchmark" in told


@pytest.mark.parametrize(("asked", "words"), [
    ("zz", "found no row"), ("ab" * 31, "found no row"), ("text.txt", "not JSON"), ("odd.json", "no conversation")])
def test_what_is_no_row_is_told(made, tmp_path, light, asked, words):
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "odd.json").write_text('[{"a": 1}]')
    assert words in refusal("audit", "contains", made.bundle, asked, cwd=tmp_path, **light)


def test_impact_names_all_that_a_withdrawal_touches(made, tmp_path, light):
    told = json.loads(answer("audit", "impact", made.bundle, "exam", "--json", cwd=tmp_path, **light))
    assert {"prepare_source-exam", "mix_data", "train_sft", "train_dpo-2", "evaluate_model-dpo-2", "push_model"} <= told["touched"].keys()
    assert {"prepare_source-chats", "prepare_benchmarks"} <= told["kept"].keys()
    pairs = json.loads(answer("audit", "impact", made.bundle, PAIRS[30].id, "--json", cwd=tmp_path, **light))
    assert "build_preferences-2" in pairs["touched"] and {"train_sft", "train_dpo-1", "mix_data"} <= pairs["kept"].keys()
    row = mixed_rows(made.chain.folder / "mix_data")[0]
    of_row = json.loads(answer("audit", "impact", made.bundle, row["id"], "--json", cwd=tmp_path, **light))
    assert f"prepare_source-{row['source']}" in of_row["touched"] and "prepare_benchmarks" in of_row["kept"]
    words = answer("audit", "impact", made.bundle, "exam", cwd=tmp_path, **light)
    assert "published: directory published" in words and "a retrain makes" in words
    nothing = json.loads(answer("audit", "impact", made.bundle, "ab" * 32, "--json", cwd=tmp_path, **light))
    assert not nothing["touched"]
    assert "nothing of that name or revision" in refusal("audit", "impact", made.bundle, "nobody", cwd=tmp_path, **light)


def test_diff_tells_data_recipe_scores_and_verdict(made, tiny, tmp_path, light):
    from med42.recipe import load_recipe

    recipe = load_recipe("tiny", ["sft.learning_rate=0.002"])
    (tmp_path / "other").mkdir()
    other = make_chain(tmp_path / "other", SimpleNamespace(**vars(tiny) | {"recipe": recipe}), score=0.3)
    told = json.loads(answer("audit", "diff", made.bundle, other.bundle, "--json", cwd=tmp_path, **light))
    assert told["data"] == [] and "sft.learning_rate: 0.003 -> 0.002" in told["recipe"]
    assert any(line.startswith("mmlu: 80.0% -> 30.0% (-50.0%; 95% intervals apart)") for line in told["scores"])
    assert told["verdict"] and "refused" in told["verdict"][0]
    assert "data the same" in answer("audit", "diff", made.bundle, made.bundle, cwd=tmp_path, **light)


def test_replay_writes_the_very_recipe_and_tells_what_is_gone(made, tmp_path, light):
    told = answer("audit", "replay", made.bundle, "--into", "again", cwd=tmp_path, **light)
    assert "run    med42 run again/tiny.yaml" in told
    digest = json.loads(answer("check", "again/tiny.yaml", "--json", cwd=tmp_path, **ROOT))
    assert digest == json.loads(unpack(made.bundle.read_bytes(), "here").recipe)
    (tmp_path / "again" / "tiny.yaml").write_text("name: mine\n")
    assert "nothing is overwritten" in refusal("audit", "replay", made.bundle, "--into", "again", cwd=tmp_path, **light)


@pytest.mark.parametrize("form", ["openlineage", "cyclonedx", "intoto"])
def test_exports_are_json(made, tmp_path, form):
    text = answer("audit", "export", made.bundle, "--format", form, cwd=tmp_path, **ROOT)
    assert all(json.loads(line) for line in text.splitlines())
    assert answer("audit", "export", made.bundle, "--format", form, "-o", "file", cwd=tmp_path, **ROOT) == ""
    assert (tmp_path / "file").read_text() == text


def test_another_form_is_told(made, tmp_path, light):
    assert "openlineage, cyclonedx or intoto" in refusal("audit", "export", made.bundle, "--format", "xml", cwd=tmp_path, **light)


def test_graph_is_one_drawing(made, tmp_path, light):
    assert answer("audit", "graph", made.bundle, "-o", "graph.svg", cwd=tmp_path, **light) == ""
    text = (tmp_path / "graph.svg").read_text()
    assert text.startswith("<svg") and text.count("<rect") == 19


def test_control_characters_of_a_record_do_not_reach_the_terminal(made, tmp_path, light):
    from med42.lineage.bundle import pack
    from med42.lineage.record import Record

    bundle = unpack(made.bundle.read_bytes(), "here")
    told = bundle.subject.model_dump(mode="json")
    told["measured"] |= {"where": "\x1b]0;owned\x07\x1b[31m[bold]x"}
    record = Record.model_validate(told)
    records = {**{digest: one for digest, one in bundle.records.items() if digest != bundle.subject.digest}, record.digest: record}
    rows = {f"rows/{name}": bytes(bundle.entries[f"rows/{name}"]) for name in bundle.rows}
    (tmp_path / "odd.med42").write_bytes(pack("tiny", bundle.recipe, record.digest, records, "", rows))
    text = answer("audit", "show", "odd.med42", "-q", "17", cwd=tmp_path, **light)
    assert "\x1b" not in text and "\\x1b]0;owned\\x07\\x1b[31m[bold]x" in text
