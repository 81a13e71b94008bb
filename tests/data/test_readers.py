import csv
import gzip
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from med42.data.readers import locate, read_blocks, read_rows
from med42.recipe import load_recipe
from med42.recipe.schema import FileOrigin, InventedOrigin, Pin

TINY = load_recipe("tiny")

TEXTS = ["plain", "a, b", 'quoted "so"', "two\nlines", "é 日 \U0001f642", ""]
ROWS = [{"id": str(number), "text": text} for number, text in enumerate(TEXTS)]


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(folder: Path, rows: list[dict]) -> bytes:
    with (folder / "table").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return (folder / "table").read_bytes()


def columns(folder: Path, rows: list[dict]) -> bytes:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "columns")
    return (folder / "columns").read_bytes()


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    if name.endswith(".zst"):
        with pyarrow.output_stream(path, compression="zstd") as stream:
            stream.write(content)
    else:
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def told_by(path: Path, refusal: Callable[[Callable[[], object]], str]) -> str:
    return refusal(lambda: list(read_rows(path, path.name)))


# --- whole files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_the_same_rows_in_every_text_form(tmp_path, form, suffix):
    content = {"jsonl": lines(ROWS), "json": json.dumps(ROWS).encode(), "csv": table(tmp_path, ROWS)}[form]
    path = written(tmp_path, f"rows.{form}{suffix}", content)
    assert list(read_rows(path, path.name)) == [(f"{path.name}:{number}", row) for number, row in enumerate(ROWS, 1)]


def test_rows_of_parquet(tmp_path):
    rows = [{"question": "q", "options": ["a", "b"], "answer": number, "chat": [{"role": "user", "content": "x"}]}
            for number in range(3000)]
    path = written(tmp_path, "rows.parquet", columns(tmp_path, rows))
    assert [row for _, row in read_rows(path, path.name)] == rows


@pytest.mark.parametrize("content", [
    b"\xef\xbb\xbf" + lines(ROWS), lines(ROWS).replace(b"\n", b"\r\n"), b"\n\n" + lines(ROWS) + b"\n \n", lines(ROWS)[:-1],
], ids=["byte order mark", "carriage returns", "empty lines", "no last line end"])
def test_odd_but_whole_lines(tmp_path, content):
    path = written(tmp_path, "rows.jsonl", content)
    assert [row for _, row in read_rows(path, path.name)] == ROWS


def test_separators_of_unicode_end_no_line(tmp_path):
    row = {"text": "a\u2028b\x85c\x0bd"}
    path = written(tmp_path, "rows.jsonl", (json.dumps(row, ensure_ascii=False) + "\n").encode())
    assert [found for _, found in read_rows(path, path.name)] == [row]


def test_the_name_decides_the_form_and_the_path_is_read(tmp_path):
    path = written(tmp_path, "blob", lines(ROWS))
    assert [row for _, row in read_rows(path, "data/train.jsonl")] == ROWS


# --- blocks, which other processes parse ----------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "json", "csv", "parquet"])
def test_blocks_of_any_size_hold_the_same_rows_and_travel(tmp_path, form):
    rows = [{"id": str(number), "text": TEXTS[number % 6] + str(number)} for number in range(50)]
    content = {"json": json.dumps(rows).encode(), "csv": table(tmp_path, rows), "parquet": columns(tmp_path, rows)}
    path = written(tmp_path, f"rows.{form}", content.get(form) or lines(rows))
    for size in (1, 7, 50, 2000):
        blocks = [pickle.loads(pickle.dumps(block)) for block in read_blocks(path, path.name, size)]
        assert [len(list(block.rows())) for block in blocks] == [min(size, 50 - done) for done in range(0, 50, size)]
        places = [place for block in blocks for place, _ in block.rows()]
        assert places == [f"{path.name}:{number}" for number in range(1, 51)]
        assert [row for block in blocks for _, row in block.rows()] == rows


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_block_of_long_rows_ends_sooner(tmp_path, form):
    rows = [{"text": str(number) * (1 << 20)} for number in (1, 2, 3)] * 10 + [{"text": "x" * (10 << 20)}] + [{"text": "y"}] * 5
    path = written(tmp_path, f"rows.{form}", lines(rows) if form == "jsonl" else columns(tmp_path, rows))
    blocks = list(read_blocks(path, path.name))
    assert [row for block in blocks for _, row in block.rows()] == rows
    assert max(len(pickle.dumps(block)) for block in blocks) < 21 << 20  # none holds the 40 MB of all rows
    assert len(blocks) >= 4


def test_a_block_says_what_is_wrong_with_its_rows_and_where(tmp_path, refusal):
    path = written(tmp_path, "rows.jsonl", lines(ROWS) + b'{"id": \xe9}\n' + lines(ROWS) + b"[]\n")
    first, second, third = read_blocks(path, "rows.jsonl", 5)
    assert [place for place, _ in first.rows()][-1] == "rows.jsonl:5"
    assert f"{path}:7: found byte 0xe9 that is not UTF-8" in refusal(lambda: list(second.rows()))
    assert f"{path}:14: found a row of type list" in refusal(lambda: list(third.rows()))


# --- odd rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "jsonl.zst", "json", "csv", "parquet"])
def test_a_row_of_ten_megabytes_and_control_characters(tmp_path, form):
    rows = [{"id": "1", "text": "\0\x01\x1b[31m\x7f\u2028" + "\U0001f642" * (10 << 18)}, {"id": "2", "text": "\r"}]
    content = {"json": json.dumps(rows).encode(), "csv": table(tmp_path, rows), "parquet": columns(tmp_path, rows)}
    path = written(tmp_path, f"rows.{form}", content.get(form) or lines(rows))
    assert [row for _, row in read_rows(path, path.name)] == rows


def test_rows_of_several_schemas_come_as_they_are(tmp_path):
    rows = [{"question": "q", "answer": "a"}, {"instruction": "i", "output": ["o"]}, {}]
    path = written(tmp_path, "rows.jsonl", lines(rows))
    assert [row for _, row in read_rows(path, path.name)] == rows  # which columns there must be, the family says, naming the row


def test_text_of_parquet_that_is_no_utf8_names_its_row(tmp_path, refusal):
    raw = pyarrow.array([b"a", b"b", b"caf\xe9"], pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 3, raw.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), tmp_path / "rows.parquet")
    told = told_by(tmp_path / "rows.parquet", refusal)
    assert f"{tmp_path / 'rows.parquet'}:3: found byte 0xe9 that is not UTF-8" in told


# --- files that are not whole ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.jsonl.gz", "rows.csv.gz", "rows.jsonl.zst"])
def test_an_empty_file(tmp_path, name, refusal):
    path = written(tmp_path, name, b"")
    assert f"{path}: found no rows" in told_by(path, refusal)


@pytest.mark.parametrize(("name", "content"), [("rows.csv", b"id,text\n"), ("rows.json", b"[]"), ("rows.jsonl", b"\n \n")])
def test_a_file_without_rows(tmp_path, name, content, refusal):
    path = written(tmp_path, name, content)
    assert f"{path}: found no rows" in told_by(path, refusal)


def test_a_gzip_file_of_no_bytes(tmp_path, refusal):
    (tmp_path / "rows.jsonl.gz").touch()
    assert "rows.jsonl.gz: found no rows" in told_by(tmp_path / "rows.jsonl.gz", refusal)


def test_a_parquet_file_without_rows(tmp_path, refusal):
    table = pyarrow.Table.from_pylist([], schema=pyarrow.schema([("id", pyarrow.string())]))
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert "rows.parquet: found no rows" in told_by(tmp_path / "rows.parquet", refusal)


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.tsv.gz", "rows.arrow"])
def test_a_form_that_is_not_read(tmp_path, name, refusal):
    told = told_by(written(tmp_path, name, b"x"), refusal)
    assert "one of .jsonl, .json, .csv, .parquet" in told
    assert str(tmp_path / name) in told


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.99])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_a_torn_compressed_file(tmp_path, form, kept, packed, refusal):
    draw = random.Random(0)
    rows = [{"id": str(number), "text": str(draw.random())} for number in range(5000)]
    path = written(tmp_path, f"rows.{form}.{packed}", lines(rows) if form == "jsonl" else table(tmp_path, rows))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    told = told_by(path, refusal)
    assert f"{path}: found compressed data that breaks off after row" in told
    assert packed == "zst" or "after row 0 " not in told  # zstd gives nothing of a block that is not whole


@pytest.mark.parametrize("content", [b"no gzip at all", gzip.compress(lines(ROWS)) + b"more"])
def test_what_is_no_gzip(tmp_path, content, refusal):
    (tmp_path / "rows.jsonl.gz").write_bytes(content)
    assert "compressed data" in told_by(tmp_path / "rows.jsonl.gz", refusal)


def test_gzip_with_a_changed_byte(tmp_path, refusal):
    path = written(tmp_path, "rows.jsonl.gz", lines(ROWS * 50))
    whole = path.read_bytes()
    for place in range(10, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        assert str(path) in told_by(path, refusal)


@pytest.mark.parametrize("form", ["jsonl", "csv", "jsonl.gz"])
def test_invalid_utf8_names_byte_and_row(tmp_path, form, refusal):
    rows = [{"id": str(number), "text": "x" * 100} for number in range(1000)]
    content = lines(rows) if form.startswith("jsonl") else table(tmp_path, rows)
    told = told_by(written(tmp_path, f"rows.{form}", content[:-20] + b"\xe9" + content[-20:]), refusal)
    assert "byte 0xe9 that is not UTF-8" in told
    # A line is decoded by itself; text that may hold line ends is decoded some kilobytes at a time.
    assert f"{tmp_path / f'rows.{form}'}{', after row 9' if form == 'csv' else ':1000: '}" in told


@pytest.mark.parametrize("line", [
    b'{"id": 1', b"{'id': 1}", b'{"id": }', b"nothing", b'{"id": 1} {"id": 2}', b'{"id": ' + b"9" * 5000 + b"}", b"[" * 100_000,
], ids=lambda line: str(line[:20]))
def test_a_line_that_is_no_json_names_its_row(tmp_path, line, refusal):
    path = written(tmp_path, "rows.jsonl", lines(ROWS[:3]) + line + b"\n" + lines(ROWS))
    assert f"{path}:4: found text that is not JSON" in told_by(path, refusal)


@pytest.mark.parametrize(("line", "kind"), [(b"[1]", "list"), (b"3", "int"), (b'"x"', "str"), (b"null", "NoneType")])
def test_a_row_that_is_no_mapping_names_its_row(tmp_path, line, kind, refusal):
    path = written(tmp_path, "rows.jsonl", lines(ROWS[:2]) + line + b"\n")
    assert f"{path}:3: found a row of type {kind}" in told_by(path, refusal)


@pytest.mark.parametrize(("content", "found"), [
    (b'{"id": 1}', "a JSON dict"), (b"3", "a JSON int"), (b'[{"id": 1}, 3]', "a row of type int"), (b'[{"id": 1}', "text that is not JSON"),
])
def test_json_that_is_no_list_of_rows(tmp_path, content, found, refusal):
    assert f"found {found}" in told_by(written(tmp_path, "rows.json", content), refusal)


@pytest.mark.parametrize("line", ["1", "1,2,3", "1,2,"])
def test_a_csv_row_with_other_columns_names_its_line(tmp_path, line, refusal):
    path = written(tmp_path, "rows.csv", f'id,text\n0,"two\nlines"\n{line}\n2,b\n'.encode())
    told = told_by(path, refusal)
    assert f"{path}:4: found a row with another number of columns" in told
    assert "expected 2 columns" in told


@pytest.mark.parametrize("line", ['1,"x"y', '1,"never closed'])
def test_a_csv_row_with_wrong_quotes_names_its_row(tmp_path, line, refusal):
    path = written(tmp_path, "rows.csv", f"id,text\n0,a\n{line}\n".encode())
    assert f"{path}:2: found text that is not CSV" in told_by(path, refusal)


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.95])
def test_torn_parquet(tmp_path, keep, refusal):
    path = written(tmp_path, "rows.parquet", columns(tmp_path, ROWS * 100))
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    assert f"{path}: found a file that is not Parquet" in told_by(path, refusal)


# --- finding files --------------------------------------------------------------------------------


def test_files_are_found_below_the_data_root_and_pinned(tmp_path):
    (tmp_path / "deep").mkdir()
    written(tmp_path, "deep/a.jsonl", lines(ROWS[:2]))
    written(tmp_path, "b.jsonl.gz", lines(ROWS[2:]))
    origin = FileOrigin(kind="file", files=["b.jsonl.gz", "deep/a.jsonl"])
    located = locate(TINY, "here", origin, tmp_path)
    places = [f"b.jsonl.gz:{number}" for number in range(1, 5)] + [f"deep/a.jsonl:{number}" for number in range(1, 3)]
    assert [place for place, _ in located.rows()] == places
    assert [len(digest) for digest in located.pinned.values()] == [64, 64]
    written(tmp_path, "deep/a.jsonl", lines(ROWS[:1]))
    again = locate(TINY, "here", origin, tmp_path).pinned
    assert {name for name in again if again[name] != located.pinned[name]} == {"deep/a.jsonl"}


def test_files_that_were_locked_are_held_to_it(tmp_path, refusal):
    written(tmp_path, "a.jsonl", lines(ROWS))
    origin = FileOrigin(kind="file", files=["a.jsonl"])
    pin = Pin(of=origin, files=locate(TINY, "sources.x.origin", origin, tmp_path).digests)
    locked = TINY.model_copy(update={"pins": {"sources.x": pin}})
    assert len(list(locate(locked, "sources.x.origin", origin, tmp_path).rows())) == len(ROWS)
    written(tmp_path, "a.jsonl", lines(ROWS[:2]))
    told = refusal(lambda: locate(locked, "sources.x.origin", origin, tmp_path))
    assert f"in {tmp_path / 'a.jsonl'}; expected the pinned {pin.files['a.jsonl']}" in told


def test_a_missing_file_is_named_with_its_key(tmp_path, refusal):
    origin = FileOrigin(kind="file", files=["a.jsonl"])
    (tmp_path / "a.jsonl").mkdir()
    for root in (tmp_path, tmp_path / "absent"):
        told = refusal(lambda root=root: locate(TINY, "sources.x.origin", origin, root))
        assert f"{root / 'a.jsonl'}: found no such file; expected the file 'a.jsonl' of sources.x.origin" in told


def test_files_need_a_data_root(refusal):
    told = refusal(lambda: locate(TINY, "sources.x.origin", FileOrigin(kind="file", files=["a.jsonl"]), None))
    assert "sources.x.origin: found files a.jsonl" in told
    assert "--data-root" in told


def test_invented_rows_are_pinned_by_part_and_seed():
    located = locate(load_recipe("tiny", ["seed=3"]), "here", InventedOrigin(kind="invented", part="exam"), None)
    assert located.pinned == {"part": "exam", "seed": 3}
    assert next(located.rows())[0] == "exam:1"
    assert len(list(located.rows())) == 460
