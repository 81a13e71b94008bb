import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet
import pytest

from med42.data.chat import Chat, Encoded
from med42.data.pack_data import fit_to_chunk, pack_data
from med42.data.shards import read_shards
from med42.lineage.journal import Job, read_journal
from med42.lineage.record import differing_files
from med42.recipe import load_recipe

RULES = ("truncate", "split", "drop")


def packed(tiny: SimpleNamespace, base: Path, out: Path, chunk: int, rule: str, job: Job, seed: int = 0) -> SimpleNamespace:
    recipe = load_recipe("tiny", [f"pack.chunk={chunk}", f"pack.too_long={rule}", f"seed={seed}"])
    record = pack_data(recipe, tiny.mix, base, out, job)
    return SimpleNamespace(record=record, account=record.measured, chunks=list(read_shards(out)), out=out)


@pytest.fixture(scope="module")
def documents(tiny: SimpleNamespace, base: Path) -> list[Encoded]:
    chat = Chat(base)
    return [chat.encode(row["messages"]) for row in read_shards(tiny.mix)]


@pytest.fixture(scope="module", params=RULES)
def short(request: pytest.FixtureRequest, tiny, base, tmp_path_factory, job) -> SimpleNamespace:
    """The mix in chunks of 40 tokens, which many conversations exceed, by each rule."""
    return SimpleNamespace(rule=request.param, **vars(packed(tiny, base, tmp_path_factory.mktemp("short") / "out", 40, request.param, job)))


def pieces_of(chunks: list[dict]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The documents that stand in chunks, cut at their lengths: ids and labels."""
    pieces = []
    for chunk in chunks:
        assert len(chunk["input_ids"]) == len(chunk["labels"]) == sum(chunk["seq_lengths"])
        start = 0
        for length in chunk["seq_lengths"]:
            pieces.append((tuple(chunk["input_ids"][start : start + length]), tuple(chunk["labels"][start : start + length])))
            start += length
    return pieces


def as_pieces(encoded: list[Encoded]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(tuple(piece.ids), tuple(piece.labels)) for piece in encoded]


def test_chunks_hold_the_documents_and_nothing_else(short, documents):
    expected = [piece for document in documents for piece in fit_to_chunk(document, 40, short.rule)]
    assert sorted(pieces_of(short.chunks)) == sorted(as_pieces(expected))


def test_no_chunk_is_longer_than_the_recipe_says(short):
    assert max(sum(chunk["seq_lengths"]) for chunk in short.chunks) <= 40


def test_every_conversation_has_a_fate(short, documents):
    long = sum(len(document.ids) > 40 for document in documents)
    fates = short.account["by_fate"]
    assert sum(fates.values()) == short.account["rows"] == len(documents)
    useless = sum(not any(label >= 0 for label in document.labels[1:40]) for document in documents if len(document.ids) > 40)
    assert 0 < useless < long
    assert fates == {
        "truncate": {"whole": len(documents) - long, "truncated": long - useless, "dropped: no token to learn in the chunk": useless},
        "split": {"whole": len(documents) - long, "split": long},
        "drop": {"whole": len(documents) - long, "dropped: too long": long},
    }[short.rule]


def test_tokens_add_up(short, documents):
    account = short.account
    assert account["tokens"] + account["tokens_cut"] == sum(len(document.ids) for document in documents)
    assert account["tokens"] == sum(len(chunk["input_ids"]) for chunk in short.chunks)
    assert account["supervised_tokens"] == sum(label >= 0 for chunk in short.chunks for label in chunk["labels"])
    assert (account["documents"], account["chunks"]) == (len(pieces_of(short.chunks)), len(short.chunks))
    assert account["fill"] == pytest.approx(account["tokens"] / (40 * account["chunks"]))
    assert 0.8 < account["fill"] <= account["fill_bound"] <= 1
    assert json.loads((short.out / "manifest.json").read_text())["by_fate"] == account["by_fate"]


def test_on_disk_are_32_bit_integers(short):
    schema = pyarrow.parquet.read_schema(next(short.out.glob("part-*.parquet")))
    assert {str(schema.field(name).type.value_type) for name in ("input_ids", "labels", "seq_lengths")} == {"int32"}


def test_the_page_tells_the_account(short):
    page = (short.out / "page.html").read_text()
    assert f"{short.account['documents']:,} documents in {short.account['chunks']:,} chunks" in page
    assert all(fate in page for fate in short.account["by_fate"])


def test_in_long_chunks_every_conversation_is_whole(tiny, base, tmp_path, job, documents):
    made = packed(tiny, base, tmp_path / "out", 256, "truncate", job)
    assert made.account["by_fate"] == {"whole": len(documents)}
    assert (made.account["tokens_cut"], made.account["documents"]) == (0, len(documents))
    assert made.account["fill"] > 0.95


def test_the_same_mix_gives_the_same_bytes(tiny, base, tmp_path, job):
    first, second = (packed(tiny, base, tmp_path / name, 64, "split", job) for name in ("a", "b"))
    assert first.record.digest == second.record.digest
    assert differing_files(tmp_path / "b", first.record) == []


def test_another_seed_gives_another_order_of_the_same_documents(tiny, base, tmp_path, job):
    first, second = (packed(tiny, base, tmp_path / str(seed), 64, "split", job, seed) for seed in (0, 1))
    assert first.chunks != second.chunks
    assert sorted(pieces_of(first.chunks)) == sorted(pieces_of(second.chunks))


def test_long_and_short_documents_are_spread_over_the_chunks(tiny, base, tmp_path, job):
    chunks = packed(tiny, base, tmp_path / "out", 256, "truncate", job).chunks
    lengths = [len(chunk["seq_lengths"]) for chunk in chunks]
    halves = lengths[: len(lengths) // 2], lengths[len(lengths) // 2 :]
    means = [sum(half) / len(half) for half in halves]
    assert abs(means[0] - means[1]) < 0.3 * max(means)


def test_nothing_left_is_an_error(tiny, base, tmp_path, refusal, job):
    told = refusal(lambda: packed(tiny, base, tmp_path / "out", 5, "drop", job))
    assert "pack: found no document of 1251 conversations left ({'dropped: too long': 1251})" in told
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told(tiny, base, tmp_path):
    job = Job("one", tmp_path / "store")
    packed(tiny, base, tmp_path / "out", 64, "drop", job)
    last = [event for event in read_journal(job.journal) if event["event"] == "progress"][-1]
    assert (last["done"], last["total"]) == (1251, 1251)


def document(prompt: int, answer: int) -> Encoded:
    ids = list(range(prompt + answer))
    return Encoded(ids, [-100] * prompt + ids[prompt:])


@pytest.mark.parametrize(("given", "rule", "expected"), [
    (document(3, 2), "drop", [(0, 5)]),
    (document(3, 5), "drop", []),
    (document(3, 5), "truncate", [(0, 5)]),
    (document(3, 9), "split", [(0, 5), (5, 10), (10, 12)]),
    (document(6, 2), "truncate", []),
    (document(6, 2), "split", [(5, 8)]),
    (document(3, 3), "split", [(0, 5)]),
    (document(5, 0), "split", []),
    (document(4, 0), "truncate", []),
])
def test_rules_for_long_documents(given, rule, expected):
    # A piece whose only learned token stands first has nothing before it to learn it from.
    pieces = fit_to_chunk(given, 5, rule)
    assert [(piece.ids[0], piece.ids[-1] + 1) for piece in pieces] == expected
    assert all(len(piece.ids) == len(piece.labels) for piece in pieces)
