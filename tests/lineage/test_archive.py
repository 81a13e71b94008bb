"""Every way in which a ZIP file could be more than its entries is refused; a ZIP program reads what is written."""

import io
import os
import stat
import zipfile
from collections.abc import Callable

import pytest

from med42.errors import Med42Error
from med42.lineage import archive
from med42.lineage.archive import read_archive, write_archive

ENTRIES = {"bundle.json": b"{}", "records/aa.json": b"[1]", "rows/bb.bin": os.urandom(1000)}


def other(entries: dict[str, bytes] | list[tuple[str, bytes]] = ENTRIES,
          edit: Callable[[zipfile.ZipInfo], None] = lambda entry: None) -> bytes:
    """A ZIP file in our form but for what `edit` does to its entries."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        for name, content in sorted(entries.items()) if isinstance(entries, dict) else entries:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.create_system = 0o100644 << 16, 3
            edit(entry)
            file.writestr(entry, content)
    return held.getvalue()


def test_a_zip_program_reads_it_and_writes_the_same():
    content = write_archive(ENTRIES)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in file.namelist()} == ENTRIES
    assert content == other()
    assert {name: bytes(view) for name, view in read_archive(memoryview(content), "here").items()} == ENTRIES


def compressed(entry: zipfile.ZipInfo) -> None:
    entry.compress_type = zipfile.ZIP_DEFLATED


def linked(entry: zipfile.ZipInfo) -> None:
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16


def dated(entry: zipfile.ZipInfo) -> None:
    entry.date_time = (2026, 1, 1, 0, 0, 0)


def remarked(entry: zipfile.ZipInfo) -> None:
    entry.comment = b"more"


def extended(entry: zipfile.ZipInfo) -> None:
    entry.extra = b"\x99\x99\x04\x00more"


def encrypted(entry: zipfile.ZipInfo) -> None:
    entry.create_system = 0


@pytest.mark.parametrize("edit", [compressed, linked, dated, remarked, extended, encrypted])
def test_an_entry_in_another_form_is_refused(edit, refusal):
    assert "here, " in refusal(lambda: read_archive(memoryview(other(edit=edit)), "here"))


@pytest.mark.parametrize("name", ["../up", "/root", "a//b", "a/../b", ".hidden", "a\\b", "C:up", "a b", "", "é", "a/", "x" * 201])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(Med42Error):
        read_archive(memoryview(other({**ENTRIES, name: b"x"})), "here")
    with pytest.raises(Med42Error):
        write_archive({name: b"x"})


def test_names_twice_or_out_of_order_are_refused(refusal):
    twice = [("a", b"1"), ("a", b"2")]
    with pytest.warns(UserWarning, match="Duplicate"):
        content = other(twice)
    assert "here, a (byte" in refusal(lambda: read_archive(memoryview(content), "here"))
    assert "out of order, or twice" in refusal(lambda: read_archive(memoryview(other([("b", b""), ("a", b"")])), "here"))


def test_a_bomb_does_not_go_off():
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bundle.json", bytes(200 << 20))
    with pytest.raises(Med42Error, match=r"cut short|sealing does not write"):
        read_archive(memoryview(bomb.getvalue()), "here")


def test_sizes_that_lie_are_refused(refusal):
    content = bytearray(write_archive(ENTRIES))
    content[18:26] = b"\xff\xff\xff\xff" * 2  # sizes of the first entry
    assert "here, bundle.json (byte 0): found an entry that is cut short" in refusal(lambda: read_archive(memoryview(content), "here"))


def test_too_large_is_refused_both_ways(monkeypatch, refusal):
    content = write_archive(ENTRIES)
    monkeypatch.setattr(archive, "LARGEST", 100)
    assert "at most 100" in refusal(lambda: read_archive(memoryview(content), "here"))
    assert "at most 100" in refusal(lambda: write_archive(ENTRIES))
