import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from med42.data.chat import Chat, Encoded, EncodedBatch
from med42.data.conversation import Message
from med42.data.pack_data import UNREADABLE, RowGroup, fit_to_chunk, pack_data, tokenise
from med42.data.packed import PackedChunks
from med42.data.packing import OPEN_CHUNKS, best_fit_decreasing
from med42.data.shards import KEPT, read_shards
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.journal import Job, read_journal
from med42.lineage.record import differing_files, read_record
from med42.recipe import load_recipe

RULES = ("truncate", "split", "drop")


def packed(mix: Path, base: Path, out: Path, job: Job, *changes: str) -> SimpleNamespace:
    record = pack_data(load_recipe("tiny", list(changes)), mix, base, out, job)
    chunks = [{key: values.tolist() for key, values in chunk.items()} for chunk in PackedChunks(out)]
    return SimpleNamespace(record=record, account=record.measured, chunks=chunks, out=out)


@pytest.fixture(scope="module")
def documents(tiny: SimpleNamespace, base: Path) -> list[Encoded]:
    chat = Chat(base)
    return [chat.encode(row["messages"]) for row in read_shards(tiny.mix)]


@pytest.fixture(scope="module", params=RULES)
def short(request: pytest.FixtureRequest, tiny, base, tmp_path_factory, job) -> SimpleNamespace:
    """The mix in chunks of 40 tokens, which many conversations exceed, by each rule."""
    out = tmp_path_factory.mktemp("short") / "out"
    return SimpleNamespace(rule=request.param, **vars(packed(tiny.mix, base, out, job, "pack.chunk=40", f"pack.too_long={request.param}")))


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


def pieces_by_rule(encoded: Encoded, chunk: int, rule: str) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """What the rules say, said plainly."""
    starts = {"drop": [], "truncate": [0], "split": list(range(0, len(encoded.ids), chunk))}[rule] if len(encoded.ids) > chunk else [0]
    pieces = [(tuple(encoded.ids[start : start + chunk]), tuple(encoded.labels[start : start + chunk])) for start in starts]
    return [piece for piece in pieces if any(label >= 0 for label in piece[1][1:])]


def test_chunks_hold_the_documents_and_nothing_else(short, documents):
    expected = [piece for document in documents for piece in pieces_by_rule(document, 40, short.rule)]
    assert sorted(pieces_of(short.chunks)) == sorted(expected)


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
    assert 0.75 < account["fill"] <= account["fill_bound"] <= 1
    assert json.loads((short.out / "manifest.json").read_text())["by_fate"] == account["by_fate"]


def test_sources_and_lengths_add_up(short, documents, tiny):
    by_source = short.account["by_source"]
    assert set(by_source) == {row["source"] for row in read_shards(tiny.mix)}
    for key in ("documents", "tokens", "supervised_tokens"):
        assert sum(numbers[key] for numbers in by_source.values()) == short.account[key]
    sizes = [len(document.ids) for document in documents]
    told = short.account["conversations_by_tokens"]
    assert told == {str(power): count for power in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
                    if (count := sum(power // 2 < size <= power for size in sizes))}


def test_on_disk_is_one_32_bit_number_a_token(short):
    assert (short.out / "tokens.bin").stat().st_size == 4 * short.account["tokens"]


def test_the_page_tells_the_account(short):
    page = (short.out / "page.html").read_text()
    assert f"{short.account['documents']:,} documents in {short.account['chunks']:,} chunks" in page
    assert all(fate in page for fate in (*short.account["by_fate"], *short.account["by_source"]))
    assert f"{short.account['fewest_chunks']:,} chunks" in page


def test_in_long_chunks_every_conversation_is_whole(tiny, base, tmp_path, job, documents):
    made = packed(tiny.mix, base, tmp_path / "out", job, "pack.chunk=256")
    assert made.account["by_fate"] == {"whole": len(documents)}
    assert (made.account["tokens_cut"], made.account["documents"]) == (0, len(documents))
    assert 0.95 < made.account["fill"] <= made.account["fill_bound"] <= 1


def test_the_same_mix_gives_the_same_bytes(tiny, base, tmp_path, job):
    first, second = (packed(tiny.mix, base, tmp_path / name, job, "pack.chunk=64", "pack.too_long=split") for name in ("a", "b"))
    assert first.record.digest == second.record.digest
    assert differing_files(tmp_path / "b", first.record) == []


def test_another_seed_gives_another_order_of_the_same_documents(tiny, base, tmp_path, job):
    first, second = (packed(tiny.mix, base, tmp_path / str(seed), job, "pack.chunk=64", "pack.too_long=split", f"seed={seed}")
                     for seed in (0, 1))
    assert first.chunks != second.chunks
    assert sorted(pieces_of(first.chunks)) == sorted(pieces_of(second.chunks))


def test_long_and_short_documents_are_spread_over_the_chunks(tiny, base, tmp_path, job):
    chunks = packed(tiny.mix, base, tmp_path / "out", job, "pack.chunk=256").chunks
    lengths = [len(chunk["seq_lengths"]) for chunk in chunks]
    halves = lengths[: len(lengths) // 2], lengths[len(lengths) // 2 :]
    means = [sum(half) / len(half) for half in halves]
    assert abs(means[0] - means[1]) < 0.3 * max(means)


def test_in_one_pass_come_the_same_documents(tiny, base, tmp_path, job):
    changes = ("pack.chunk=64", "pack.too_long=split")
    whole, streamed = (packed(tiny.mix, base, tmp_path / plan, job, *changes, f"pack.plan={plan}") for plan in ("global", "streaming"))
    assert sorted(pieces_of(whole.chunks)) == sorted(pieces_of(streamed.chunks))
    assert len(whole.chunks) <= len(streamed.chunks) <= len(whole.chunks) + OPEN_CHUNKS
    assert streamed.account["fewest_chunks"] == -(-streamed.account["tokens"] // 64)
    # Nothing is planned before it is read: the first chunks hold the first documents.
    members = [np.load(made.out / "members.npy") for made in (whole, streamed)]
    assert members[1][:100].mean() < 0.5 * members[0][:100].mean()


def test_nothing_left_is_an_error(tiny, base, tmp_path, refusal, job):
    for plan in ("global", "streaming"):
        changes = ("pack.chunk=5", "pack.too_long=drop", f"pack.plan={plan}")
        told = refusal(lambda changes=changes: packed(tiny.mix, base, tmp_path / "out", job, *changes))
        rows = read_record(tiny.mix).measured["rows"]
        assert f"pack: found no document of {rows} conversations left ({{'dropped: too long': {rows}}})" in told
        assert list(tmp_path.iterdir()) == []


def test_progress_is_told(tiny, base, tmp_path):
    job = Job("one", tmp_path / "store")
    packed(tiny.mix, base, tmp_path / "out", job, "pack.chunk=64", "pack.too_long=drop")
    last = [event for event in read_journal(job.journal) if event["event"] == "progress"][-1]
    assert last["done"] == last["total"] == read_record(tiny.mix).measured["rows"]


def test_the_way_of_tokenising_is_told_and_changes_nothing(tiny, base, tmp_path, job):
    """A tokenizer of a kind that tiktoken does not know, with the ids of the one that it does."""
    description = json.loads((base / "tokenizer.json").read_text())
    nothing = {"type": "Split", "pattern": {"Regex": "(?!)"}, "behavior": "Isolated", "invert": False}
    description["pre_tokenizer"]["pretokenizers"].insert(0, nothing)

    def build(draft: Path) -> Outcome:
        (draft / "tokenizer.json").write_text(json.dumps(description))
        return Outcome()

    produce(Plan("prepare_base", "model", {}, {"mix": tiny.mix}, "data"), tmp_path / "other", job, build)
    models = {"a": base, "b": tmp_path / "other"}
    fast, slow = (packed(tiny.mix, model, tmp_path / name, job, "pack.chunk=64") for name, model in models.items())
    assert fast.record.made.observed["tokeniser"] == "tiktoken, whose ids of a sample of the mix are the same"
    assert slow.record.made.observed["tokeniser"] == "tokenizers, because its texts are not cut by one pattern alone"
    assert fast.record.files == slow.record.files
    assert fast.account == slow.account


def big_mix(tiny: SimpleNamespace, folder: Path, job: Job, rows: list[dict]) -> Path:
    """Rows in shards of several row groups."""
    def build(draft: Path) -> Outcome:
        for number, start in enumerate(range(0, len(rows), 40)):
            table = pyarrow.Table.from_pylist(rows[start : start + 40], schema=KEPT)
            pyarrow.parquet.write_table(table, draft / f"part-{number:05d}.parquet", row_group_size=13)
        return Outcome({"rows": len(rows)})

    produce(Plan("mix_data", "conversations", {}, {"source": tiny.mix}, "data"), folder, job, build)
    return folder


def test_neither_workers_nor_row_groups_change_the_bytes(tiny, base, tmp_path, job, monkeypatch):
    from med42.data import pack_data as module
    from med42.data.parallel import ordered_map

    rows = list(read_shards(tiny.mix))[:500]
    once = tmp_path / "one group"
    big_mix(tiny, tmp_path / "mix", job, rows)
    big_mix(tiny, once, job, rows)
    for path in sorted(once.glob("part-*"))[1:]:
        path.unlink()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=KEPT), once / "part-00000.parquet")
    wanted = packed(once, base, tmp_path / "wanted", job, "pack.chunk=64", "pack.too_long=split")
    monkeypatch.setattr("med42.data.parallel.ALONE_SECONDS", 0.0)
    for workers in (1, 3):
        monkeypatch.setattr(module, "ordered_map", lambda make, blocks, workers=workers: ordered_map(make, blocks, workers))
        found = packed(tmp_path / "mix", base, tmp_path / str(workers), job, "pack.chunk=64", "pack.too_long=split")
        assert found.record.files == wanted.record.files


def test_a_row_that_the_tokenizer_gives_up_on_is_left_out_and_counted(tiny, base, tmp_path):
    def row(name: str, said: str) -> dict:
        return {"id": name, "source": "a", "messages": [Message(role="user", content=said), Message(role="assistant", content="Yes.")]}

    rows = [row("00", "One?"), row("01", "a" + " " * 12_000_000 + "b"), row("02", "Two?")]
    path = tmp_path / "part-00000.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=KEPT), path)
    for fast in (False, True):
        block = tokenise(Chat(base, fast), tiny.recipe.pack, 0, RowGroup(path, 0, 0))
        assert block.fates == {"whole": 2, UNREADABLE: 1}
        assert block.pieces.rows.tolist() == [0, 2]
        assert block.sizes.tolist()[1] == 0
        assert block.sources["a"][0] == 2


def test_a_torn_shard_of_the_mix_is_told(tiny, base, tmp_path, refusal, job):
    shutil.copytree(tiny.mix, tmp_path / "mix")
    path = tmp_path / "mix" / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    told = refusal(lambda: packed(tmp_path / "mix", base, tmp_path / "out", job))
    assert told.startswith(f"{path}: found a shard that cannot be read")
    assert not (tmp_path / "out").exists()


def test_chunks_are_planned_on_all_documents(tiny, base, tmp_path, job):
    """As few chunks as best-fit decreasing needs for the same lengths, or fewer."""
    made = packed(tiny.mix, base, tmp_path / "out", job, "pack.chunk=100")
    lengths = np.diff(np.load(made.out / "documents.npy"))
    assert len(made.chunks) <= len(best_fit_decreasing(lengths, 100))


def conversation(prompt: int, answer: int) -> Encoded:
    ids = list(range(prompt + answer))
    return Encoded(ids, [-100] * prompt + ids[prompt:])


def batch_of(conversations: list[Encoded]) -> EncodedBatch:
    pairs = [pair for encoded in conversations for pair in zip(encoded.ids, encoded.labels, strict=True)]
    signed = np.asarray([number if label >= 0 else ~number for number, label in pairs], np.int32)
    return EncodedBatch(signed, np.asarray([len(encoded.ids) for encoded in conversations], np.int64))


CASES = [
    (conversation(3, 2), "drop", [(0, 5)]),
    (conversation(3, 5), "drop", []),
    (conversation(3, 5), "truncate", [(0, 5)]),
    (conversation(3, 9), "split", [(0, 5), (5, 10), (10, 12)]),
    (conversation(6, 2), "truncate", []),
    (conversation(6, 2), "split", [(5, 8)]),
    (conversation(3, 3), "split", [(0, 5)]),
    (conversation(5, 0), "split", []),
    (conversation(4, 0), "truncate", []),
]


@pytest.mark.parametrize(("given", "rule", "expected"), CASES)
def test_rules_for_long_documents(given, rule, expected):
    # A piece whose only learned token stands first has nothing before it to learn it from.
    pieces = fit_to_chunk(batch_of([given]), 5, rule)
    ends = np.cumsum(pieces.lengths)
    ids = np.where(pieces.tokens < 0, ~pieces.tokens, pieces.tokens)
    assert [(ids[end - length], ids[end - 1] + 1) for end, length in zip(ends, pieces.lengths, strict=True)] == expected
    assert pieces.lengths.sum() == len(pieces.tokens)
    assert set(pieces.rows.tolist()) <= {0}


@pytest.mark.parametrize("rule", RULES)
def test_rules_hold_for_conversations_together(rule):
    given = [encoded for encoded, _, _ in CASES]
    pieces = fit_to_chunk(batch_of(given), 5, rule)
    expected = [(row, len(ids)) for row, encoded in enumerate(given) for ids, _ in pieces_by_rule(encoded, 5, rule)]
    assert list(zip(pieces.rows.tolist(), pieces.lengths.tolist(), strict=True)) == expected
    assert pieces.tokens.tolist() == [
        number if label >= 0 else ~number
        for encoded in given for ids, labels in pieces_by_rule(encoded, 5, rule) for number, label in zip(ids, labels, strict=True)
    ]


def test_no_conversations_are_no_documents():
    assert len(fit_to_chunk(batch_of([]), 5, "split").tokens) == 0
