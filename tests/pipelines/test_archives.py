"""Listing files of directories and archives, and reading them by offset."""

import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from raw_images import tar_bytes, write_archive, write_tree

from pipelines.build.archives import StoredFile, list_archive, list_directory, read_at
from pipelines.errors import DataError

TREE = {"b/2.jpg": b"two" * 300, "a/1.jpg": b"one", "a/empty.txt": b"", "./c.png": b"x" * 512}
HIDDEN = {"a/.DS_Store": b"?", "__MACOSX/a/1.jpg": b"?", ".git/config": b"?"}


def contents(files: list[StoredFile]) -> dict[str, bytes]:
    return {file.name: read_at(file.path, file.offset, file.size) for file in files}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "zip"])
def test_an_archive_lists_what_the_directory_lists(tmp_path: Path, suffix: str) -> None:
    root = write_tree(tmp_path / "root", TREE | HIDDEN)
    archive = write_archive(tmp_path / f"a.{suffix}", TREE | HIDDEN)
    listed = contents(list_archive(archive, tmp_path / "spool"))
    assert listed == contents(list_directory(root))
    assert list(listed.items()) == sorted((name.removeprefix("./"), content) for name, content in TREE.items())


def test_a_plain_tar_is_read_in_place(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.tar", TREE)
    assert {file.path for file in list_archive(archive, tmp_path / "spool")} == {str(archive)}
    assert not (tmp_path / "spool").exists()


def test_a_zip_made_with_backslashes_has_directories(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.zip", {"train\\cat\\1.jpg": b"1"})
    assert [file.name for file in list_archive(archive, tmp_path / "spool")] == ["train/cat/1.jpg"]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg"])
def test_a_member_that_would_escape_is_refused_by_name(tmp_path: Path, suffix: str, name: str) -> None:
    archive = write_archive(tmp_path / f"a.{suffix}", {"a/1.jpg": b"1", name: b"2"})
    with pytest.raises(DataError, match=rf"member '{name}' would escape"):
        list_archive(archive, tmp_path / "spool")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused_by_name(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("a/odd.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(member)
    with pytest.raises(DataError, match=r"member 'a/odd.jpg' is not a regular file"):
        list_archive(tmp_path / "a.tar", tmp_path / "spool")


def test_links_in_a_zip_are_refused_by_name(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("a/odd.jpg")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DataError, match=r"member 'a/odd.jpg' is not a regular file"):
        list_archive(tmp_path / "a.zip", tmp_path / "spool")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.zip", {"a/1.jpg": b"1"})
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"member 'a/1.jpg' is encrypted"):
        list_archive(archive, tmp_path / "spool")


def test_a_member_that_comes_twice_is_refused(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.tar", {"a/1.jpg": b"1", "./a/1.jpg": b"2"})
    with pytest.raises(DataError, match=r"member 'a/1.jpg' comes twice"):
        list_archive(archive, tmp_path / "spool")


def test_a_tar_cut_at_any_block_is_refused_unless_only_padding_is_lost(tmp_path: Path) -> None:
    data = tar_bytes(TREE)
    end = -(-len(data.rstrip(b"\0")) // 512) * 512  # of the last member's content
    for length in range(0, end + 512, 256):
        (tmp_path / "a.tar").write_bytes(data[:length])
        with pytest.raises(DataError, match="damaged"):
            list_archive(tmp_path / "a.tar", tmp_path / "spool")
    (tmp_path / "a.tar").write_bytes(data[: end + 512])
    assert len(list_archive(tmp_path / "a.tar", tmp_path / "spool")) == len(TREE)


def test_a_damaged_header_does_not_end_the_archive_in_silence(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(TREE))
    data[data.index(b"a/empty.txt")] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(DataError, match="no end mark after its last member"):
        list_archive(tmp_path / "a.tar", tmp_path / "spool")


@pytest.mark.parametrize("suffix", ["tar.gz", "zip"])
def test_a_cut_or_damaged_packed_archive_is_refused(tmp_path: Path, suffix: str) -> None:
    tree = {"a/1.jpg": bytes(range(256)) * 8}
    archive = write_archive(tmp_path / f"a.{suffix}", tree)
    data = archive.read_bytes()
    damaged = bytearray(data)
    damaged[len(data) // 3] ^= 0xFF
    for content in (data[: len(data) // 2], data[:-4], bytes(damaged)):
        archive.write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            list_archive(archive, tmp_path / "spool")


def test_another_file_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"hello" * 1000)
    with pytest.raises(DataError, match=r"a\.tar: not a tar, tar\.gz or zip archive"):
        list_archive(tmp_path / "a.tar", tmp_path / "spool")


def test_a_directory_may_hold_links_but_no_loops_and_no_dead_ends(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"a/1.jpg": b"1"})
    (root / "b").symlink_to(root / "a")
    assert [file.name for file in list_directory(root)] == ["a/1.jpg", "b/1.jpg"]
    (root / "a" / "up").symlink_to(root)
    with pytest.raises(DataError, match=r"/up: a symbolic link to a directory above it"):
        list_directory(root)
    (root / "a" / "up").unlink()
    (root / "dead.jpg").symlink_to(root / "nowhere")
    with pytest.raises(DataError, match=r"dead\.jpg: neither a file nor a directory, or a broken link"):
        list_directory(root)


def test_a_file_that_shrank_is_not_read_short(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    with pytest.raises(OSError, match="3 bytes instead of 4"):
        read_at(str(tmp_path / "a"), 0, 4)
