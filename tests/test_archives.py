"""What `extract` unpacks, and what it refuses without leaving a trace."""

import io
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.data.archives import DRAFT, MAX_NAME, _accepted, _copy, extract, readable
from tests.conftest import REPO

FILE, FOLDER, LINK, FIFO = (0o100644 << 16, 0o40755 << 16, 0o120777 << 16, 0o10644 << 16)


@dataclass
class Member:
    """One member as it stands in the bytes of a zip, true or not; None is what an honest writer would put."""

    name: str | bytes
    data: bytes = b"x"
    attributes: int = 0
    flags: int = 0x800  # names in UTF-8
    method: int = 8
    declared: int | None = None
    crc: int | None = None
    local_name: str | None = None
    place: int | None = None


def craft(path: Path, members: Sequence[Member]) -> Path:
    """A zip written byte by byte, since zipfile refuses to write most of what is tried here."""
    body, directory = b"", b""
    for member in members:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = deflate.compress(member.data) + deflate.flush() if member.method == 8 else member.data
        size = len(member.data) if member.declared is None else member.declared
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        name = member.name if isinstance(member.name, bytes) else member.name.encode()
        local = name if member.local_name is None else member.local_name.encode()
        fields = (20, member.flags, member.method, 0, 0x21, crc, len(packed), size)
        place = len(body) if member.place is None else member.place
        body += struct.pack("<4s5H3L2H", b"PK\3\4", *fields, len(local), 0) + local + packed
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, *fields, len(name), 0, 0, 0, 0, member.attributes, place)
        directory += name
    counts = (len(members), len(members), len(directory), len(body), 0)
    path.write_bytes(body + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *counts))
    return path


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "data.zip"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "outer" / "into"
    folder.mkdir(parents=True)
    return folder


def refused(archive: Path, into: Path, match: str, **caps: float) -> None:
    before = tree(into.parent)
    with pytest.raises(ValueError, match=match) as error:
        extract(archive, into, **caps)  # type: ignore[arg-type]
    assert str(archive) in str(error.value)
    assert tree(into.parent) == before


def test_an_honest_archive_is_unpacked_as_it_is(archive: Path, into: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
        written.mkdir("Set (Released 2016_07_08)")
        written.writestr("Set (Released 2016_07_08)/a/b.bmp", b"abc" * 1000)
        written.writestr("Set (Released 2016_07_08)/é.txt", b"", zipfile.ZIP_STORED)
        written.writestr("__MACOSX/Set/._b.bmp", b"clutter")
        written.writestr("Set (Released 2016_07_08)/.DS_Store", b"clutter")
    extract(archive, into, max_ratio=100)
    top = "Set (Released 2016_07_08)"
    assert tree(into) == {top: None, f"{top}/a": None, f"{top}/a/b.bmp": b"abc" * 1000, f"{top}/é.txt": b""}


def test_crafted_archives_are_read_where_nothing_is_wrong_with_them(archive: Path, into: Path) -> None:
    extract(craft(archive, [Member("A/", b"", FOLDER), Member("A/b", b"12", FILE), Member("c", method=0)]), into)
    assert tree(into) == {"A": None, "A/b": b"12", "c": b"x"}


@pytest.mark.parametrize(
    ("members", "match"),
    [
        pytest.param([Member("../evil")], "'../evil' has an absolute path", id="parent"),
        pytest.param([Member("a/../../evil")], "absolute path", id="inner parent"),
        pytest.param([Member("/tmp/evil")], "absolute path", id="absolute"),
        pytest.param([Member("a//b")], "absolute path", id="empty part"),
        pytest.param([Member("./a")], "absolute path", id="dot"),
        pytest.param([Member("")], "absolute path", id="no name"),
        pytest.param([Member("..\\evil")], "backslash", id="backslash"),
        pytest.param([Member("C:evil")], "drive letter", id="drive"),
        pytest.param([Member("a\0.jpg")], r"'a\\x00.jpg' has control", id="NUL"),
        pytest.param([Member("a\n.jpg")], "control characters", id="newline"),
        pytest.param([Member("a\u202egpj")], "control characters", id="right to left"),
        pytest.param([Member("a" * (MAX_NAME + 1))], "more than 255 bytes", id="long name"),
        pytest.param([Member(b"a\xff")], "damaged", id="no UTF-8"),
        pytest.param([Member("a", b"/etc/passwd", LINK)], "'a' is a link", id="link"),
        pytest.param([Member("a", b"..", LINK), Member("a/evil")], "is a link", id="write through a link"),
        pytest.param([Member("a/", b"", LINK)], "is a link", id="link named as a folder"),
        pytest.param([Member("a", b"", FIFO)], "special file", id="pipe"),
        pytest.param([Member("a", b"", FOLDER)], "special file", id="folder named as a file"),
        pytest.param([Member("a/b"), Member("a/b")], "'a/b' is there twice", id="twice"),
        pytest.param([Member("a/b"), Member("a/B")], "do not tell from 'a/b'", id="twice but for case"),
        pytest.param([Member("a/b"), Member("A/c")], "do not tell from 'a'", id="folder twice but for case"),
        pytest.param([Member("stra\xdfe"), Member("STRASSE")], "do not tell", id="twice when folded"),
        pytest.param([Member("\xe9"), Member("e\u0301")], "do not tell", id="twice but for Unicode form"),
        pytest.param([Member("a"), Member("a/b")], "both a file and a folder", id="file, then folder"),
        pytest.param([Member("a/b"), Member("a")], "both a file and a folder", id="folder, then file"),
        pytest.param([Member("a"), Member("a/")], "both a file and a folder", id="file and empty folder"),
        pytest.param([Member("a", flags=0x801)], "encrypted", id="encrypted"),
        pytest.param([Member("a", flags=0x841)], "encrypted", id="strongly encrypted"),
        pytest.param([Member("a", method=99)], "packed by method 99", id="unknown method"),
        pytest.param([Member("ok"), Member("a", b"abc", crc=1)], "member 'a': damaged.*CRC", id="CRC"),
        pytest.param([Member("a", b"abc", declared=2)], "member 'a': damaged.*CRC", id="declares less"),
        pytest.param([Member("a", b"abc", declared=9)], "6 of the declared 9 bytes are missing", id="declares more"),
        pytest.param([Member("a", b"abc", declared=9, method=0)], "member 'a': damaged", id="stored, declares more"),
        pytest.param([Member("a", place=90)], "member 'a': damaged", id="begins near the end"),
        pytest.param([Member("a", local_name="../b")], "member 'a': damaged.*differ", id="two names"),
    ],
)
def test_what_no_honest_archive_holds_is_refused(archive: Path, into: Path, members: list[Member], match: str) -> None:
    refused(craft(archive, members), into, match)


def test_the_name_that_is_written_is_looked_at() -> None:
    """Later versions of zipfile take it from another field than `orig_filename`."""
    member = zipfile.ZipInfo("good")
    member.filename = "../evil"
    with pytest.raises(ValueError, match="absolute path"):
        _accepted(Path("data.zip"), [member], max_files=1)


def test_a_fault_in_the_last_member_leaves_nothing_of_the_first(archive: Path, into: Path) -> None:
    (into / "mine.txt").write_text("mine")
    refused(craft(archive, [Member("good/a"), Member("good/b", crc=1)]), into, "good/b")
    assert tree(into) == {"mine.txt": b"mine"}


def test_bombs(archive: Path, into: Path) -> None:
    craft(archive, [Member("a", bytes(10**6))])
    refused(archive, into, r"would unpack to 1 MB, at most 2\d.\d kB")  # by the ratio of 20
    refused(archive, into, "at most 999.9 kB", max_ratio=1e4, max_bytes=999_900)
    extract(archive, into, max_ratio=1e4, max_bytes=10**6)
    assert (into / "a").read_bytes() == bytes(10**6)


def test_too_many_members(archive: Path, into: Path) -> None:
    craft(archive, [Member(f"{i}") for i in range(11)])
    refused(archive, into, "holds 11 members, at most 10", max_files=10)
    extract(archive, into, max_files=11)
    assert len(tree(into)) == 11


def test_a_bomb_that_declares_little_is_not_read_to_its_end(archive: Path, into: Path) -> None:
    refused(craft(archive, [Member("a", bytes(10**7), declared=10)]), into, "member 'a': damaged")


def test_many_members_that_share_their_bytes_count_as_often(archive: Path, into: Path) -> None:
    """The directory may list one packed member under many names: small in the archive, large on the disk."""
    craft(archive, [Member("a0", b"0123456789" * 5000)])
    content = archive.read_bytes()
    start = content.index(b"PK\1\2")
    entry, end = content[start : content.index(b"PK\5\6")], content.index(b"PK\5\6")
    directory = b"".join(entry.replace(b"a0", b"a%d" % i) for i in range(10))
    closing = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 10, 10, len(directory), start, 0)
    assert end == start + len(entry)
    archive.write_bytes(content[:start] + directory + closing)
    refused(archive, into, "would unpack to 500 kB")


@pytest.mark.parametrize("size", [2, 0])
def test_no_more_is_written_than_declared(size: int) -> None:
    """zipfile cuts there by itself; here it need not."""
    target = io.BytesIO()
    with pytest.raises(zipfile.BadZipFile, match=f"more than the declared {size} bytes"):
        _copy(io.BytesIO(b"abc" * 10**6), target, size, lambda count: None)
    assert len(target.getvalue()) <= size


def test_cut_off_anywhere(archive: Path, into: Path) -> None:
    craft(archive, [Member("a/b", b"some text " * 9), Member("a/c", b"more of it " * 9)])
    whole = archive.read_bytes()
    for length in range(len(whole)):
        archive.write_bytes(whole[:length])
        refused(archive, into, "damaged or cut off")


def test_a_changed_byte_anywhere_is_refused_or_harmless(archive: Path, into: Path) -> None:
    members = [Member("a/b", b"some text " * 9), Member("a/c", b"more of it " * 9)]
    whole = craft(archive, members).read_bytes()
    refusals = 0
    for place in range(len(whole)):
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            extract(archive, into)
        except ValueError:
            refusals += 1
            assert tree(into.parent) == {"into": None}
        else:  # dates, versions, or one character of a name
            assert sorted(content for content in tree(into).values() if content) == sorted(m.data for m in members)
            shutil.rmtree(into)
            into.mkdir()
    assert refusals > len(whole) / 2


def test_what_is_there_already_is_not_overwritten(archive: Path, into: Path) -> None:
    craft(archive, [Member("A/b"), Member("c")])
    (into / "c").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"'c' of it is already there.*move that away"):
        extract(archive, into)
    assert [entry.name for entry in into.iterdir()] == ["c"]
    (into / "c").unlink()
    (into / "A").mkdir()
    refused(archive, into, "'A' of it is already there")


def test_leftovers_of_a_killed_extraction_are_swept(archive: Path, into: Path) -> None:
    (into / DRAFT / "A").mkdir(parents=True)
    (into / DRAFT / "A" / "half").write_bytes(b"ha")
    extract(craft(archive, [Member("A/b")]), into)
    assert tree(into) == {"A": None, "A/b": b"x"}


def test_no_room(archive: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    craft(archive, [Member("a", b"0123456789" * 200)])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1999))
    with pytest.raises(OSError, match=f"unpacking data.zip needs 2 kB in {into}, and 2 kB are free") as error:
        extract(archive, into)
    assert error.value.errno == 28
    assert tree(into) == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2000))
    extract(archive, into)
    assert list(tree(into)) == ["a"]


def test_the_target_folder_need_not_exist(archive: Path, tmp_path: Path) -> None:
    extract(craft(archive, [Member("a")]), tmp_path / "new" / "folder")
    assert tree(tmp_path / "new") == {"folder": None, "folder/a": b"x"}


def test_no_such_archive(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.zip"):
        extract(tmp_path / "none.zip", tmp_path / "into")


@pytest.mark.parametrize(("size", "text"), [(999, "999 bytes"), (46e6, "46 MB"), (10.4e9, "10.4 GB"), (0, "0 bytes")])
def test_readable(size: float, text: str) -> None:
    assert readable(size) == text


def test_nothing_else_unpacks() -> None:
    words = ("extractall", "unpack_archive", "ZipFile(", "tarfile", "extract_archive")
    texts = {
        f.name: re.sub(r'ZipFile\(\w+, "w"', "", f.read_text()) for f in (REPO / "src").rglob("*.py")
    }  # packing may
    found = {name for name, text in texts.items() if any(word in text for word in words)}
    assert found == {"archives.py", "weights.py", "masks.py"}
    sizes = texts["masks.py"]  # which looks at how large its arrays are
    assert (
        sizes.count("ZipFile(") == 1 and "archive.infolist()" in sizes and not re.search(r"archive\.(ex|op|re)", sizes)
    )
    checked = texts["weights.py"]  # which looks at check sums
    assert checked.count("ZipFile(") == 1 and "archive.testzip()" in checked and ".extract" not in checked
