import hashlib
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet

from med42.data import shuffle
from med42.data.shards import KEPT, Shards, read_shard, shard_paths
from med42.data.shuffle import Taken, in_key_order


def _prepared(folder: Path, count: int, name: str) -> list[tuple[str, Path, int]]:
    """Shards of made rows: the id, the shard and the place of each."""
    shards, ids = Shards(folder, KEPT, rows_per_shard=700), [hashlib.sha256(f"{name}{each}".encode()).hexdigest() for each in range(count)]
    for each in ids:
        shards.add({"id": each, "source": name, "messages": [{"role": "user", "content": f"{name} {each}"}]})
    shards.flush()
    return [(each, shard_paths(folder)[place // 700], place % 700) for place, each in enumerate(ids)]


def _shuffled(parts, tmp_path, monkeypatch, rows_per_shard, workers):
    monkeypatch.setattr(shuffle, "ROWS_PER_SHARD", rows_per_shard)
    out = tmp_path / f"out-{rows_per_shard}-{workers}"
    told = list(in_key_order(parts, tmp_path / f"scratch-{rows_per_shard}-{workers}", out, workers))
    return out, pyarrow.concat_tables(told), pyarrow.concat_tables([read_shard(path) for path in shard_paths(out)])


def _parts(tmp_path):
    rows = _prepared(tmp_path / "a", 3000, "a") + _prepared(tmp_path / "b", 1100, "b")
    taken = []
    for path in dict.fromkeys(path for _, path, _ in rows):
        here = [(each, place) for each, where, place in rows if where == path]
        twice = here + here[:50]  # some rows are taken a second time
        keys = [int(hashlib.sha256(f"{number >= len(here)}{each}".encode()).hexdigest()[:16], 16) for number, (each, _) in enumerate(twice)]
        taken.append(Taken(path, numpy.array([place for _, place in twice]), numpy.array(keys, dtype=numpy.uint64),
                           numpy.arange(len(twice)) >= len(here)))
    return taken


def test_rows_stand_in_the_order_of_their_keys_and_whole(tmp_path, monkeypatch):
    parts = _parts(tmp_path)
    _, told, written = _shuffled(parts, tmp_path, monkeypatch, 1000, 1)
    expected = []
    for part in parts:
        ids = read_shard(part.path)["id"].to_pylist()
        expected += [(int(key), ids[place], bool(again)) for place, key, again in zip(part.places, part.keys, part.repeats, strict=True)]
    expected.sort()
    assert [row_id for _, row_id, _ in expected] == written["id"].to_pylist() == told["id"].to_pylist()
    assert [again for *_, again in expected] == told["repeat"].to_pylist()
    for row in written.to_pylist():
        assert row["messages"] == [{"role": "user", "content": f"{row['source']} {row['id']}"}]


def test_neither_workers_nor_the_order_of_parts_change_a_byte(tmp_path, monkeypatch):
    parts = _parts(tmp_path)
    one, *_ = _shuffled(parts, tmp_path, monkeypatch, 800, 1)
    two, *_ = _shuffled(parts[::-1], tmp_path, monkeypatch, 800, 2)
    assert [path.read_bytes() for path in shard_paths(one)] == [path.read_bytes() for path in shard_paths(two)]
    assert len(shard_paths(one)) > 3
