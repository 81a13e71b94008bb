import hashlib
import random
from pathlib import Path

import pytest

from med42.errors import Med42Error
from med42.lineage import row_set
from med42.lineage.digest import merkle_root
from med42.lineage.row_set import WIDTH, RowSet, check_proof, prove, read_row_set, write_row_set


def digests(count: int) -> list[bytes]:
    return [hashlib.sha256(str(number).encode()).digest() for number in range(count)]


def written(path: Path, rows: list[bytes], labels: tuple[str, ...] = ("a", "é")) -> RowSet:
    half = len(rows) // 2
    parts = [(b"".join(some), [number % len(labels) for number in range(len(some))]) for some in (rows[:half], rows[half:])]
    write_row_set(path, labels, iter(parts))
    return read_row_set(memoryview(path.read_bytes()), path)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 100, 1000])
@pytest.mark.parametrize("block", [4, 1 << 16])
def test_root_is_that_of_the_records_and_every_row_is_proven(tmp_path, monkeypatch, count, block):
    monkeypatch.setattr(row_set, "BLOCK", block)
    rows, all_of_them = written(tmp_path / "rows", digests(count)), digests(count)
    assert len(rows) == count and rows.root == merkle_root([row.hex() for row in all_of_them])
    for row in random.Random(0).sample(all_of_them, min(count, 20)):
        proof = prove(rows, row.hex())
        assert proof["in"] and check_proof(proof, rows.root)
    for row in (bytes(32), b"\xff" * 32, *(hashlib.sha256(f"not {number}".encode()).digest() for number in range(10))):
        proof = prove(rows, row.hex())
        assert not proof["in"] and not check_proof(proof, rows.root)
        assert len(proof["leaves"]) <= 2


def test_rows_come_in_any_order_and_once_each(tmp_path):
    rows = digests(50)
    first = written(tmp_path / "one", rows)
    again = written(tmp_path / "two", [*reversed(rows), *rows[:7]])
    assert [first.digest(place) for place in range(50)] == [again.digest(place) for place in range(50)] == sorted(rows)
    assert sum(first.counts().values()) == 50 and set(first.counts()) == {"a", "é"}
    place = first.find(rows[3])
    assert place is not None and first.label(place) in ("a", "é") and first.find(bytes(32)) is None


@pytest.mark.parametrize("change", ["row", "size", "root", "place", "path", "leaf", "in", "neighbour", "more", "less"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_changed_proof_proves_nothing(tmp_path, change, inside):
    rows = written(tmp_path / "rows", digests(100))
    wanted = digests(100)[7] if inside else hashlib.sha256(b"none").digest()
    proof, other = prove(rows, wanted.hex()), hashlib.sha256(b"other").hexdigest()
    leaf = proof["leaves"][0]
    if change == "row":
        proof["row"] = digests(100)[8].hex()
    elif change == "size":
        proof["size"] = 164  # of another shape
    elif change == "root":
        proof["root"] = other
    elif change == "place":
        leaf["place"] ^= 1
    elif change == "path":
        leaf["path"][2] = other
    elif change == "leaf":
        leaf["digest"] = other
    elif change == "in":
        proof["in"] = not inside
    elif change == "neighbour":
        proof["leaves"] = [prove(rows, rows.digest(place).hex())["leaves"][0] for place in (3, 5)]
    elif change == "more":
        leaf["path"].append(other)
    elif change == "less":
        leaf["path"].pop()
    with pytest.raises(Med42Error):
        check_proof(proof, rows.root)


@pytest.mark.parametrize("value", [
    {}, {"row": 1}, {"row": "zz", "size": 1, "leaves": [], "root": "", "in": True}, {"row": "aa", "leaves": 1}])
def test_something_else_is_no_proof(value, refusal):
    assert "proof: found" in refusal(lambda: check_proof(value, "00"))


def test_a_set_in_another_form_is_refused(tmp_path, refusal):
    written(tmp_path / "rows", digests(5))
    whole = (tmp_path / "rows").read_bytes()
    head = whole.index(b"\n") + 1
    rows = [whole[at : at + WIDTH] for at in range(head, len(whole), WIDTH)]
    for content in (b"", whole[:-1], whole[head:], b"{}" + whole[head - 1 :], b"[1]" + whole[head - 1 :], b"x" * 100,
                    whole[:head] + b"".join(reversed(rows)), whole[:head] + rows[0] * 2, whole[:head] + rows[0][:32] + b"\0\5"):
        assert "here" in refusal(lambda content=content: read_row_set(memoryview(content), "here"))
