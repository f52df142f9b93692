"""What is read of a tar file is what tarfile reads; what is wrong is told apart."""

import gzip
import hashlib
import io
import tarfile
from itertools import pairwise

import pytest
from foreign_shards import samples, tar_of
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tools.tar_samples import TarSample, split_name, tar_samples
from pipelines.tools.tar_stream import BrokenTarError, TarMember, TarStream, name_before, tar_members

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
LONG = "directory/" * 30 + "x" * 120 + ".image.jpg"
PREFIXED = "p" * 90 + "/" + "q" * 90 + ".jpg"
NAMES = ["a.jpg", "./b/c.d.jpg", PREFIXED, "ü.jpg"]


def members_of(data: bytes, most: int = 1 << 20) -> list[TarMember]:
    return list(tar_members(TarStream(io.BytesIO(data), hashed=True), lambda _: most))


def by_tarfile(data: bytes) -> list[tuple[str, int, bytes | None]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        streams = [(member, archive.extractfile(member)) for member in archive]
        return [(m.name, m.offset_data, stream.read() if stream else None) for m, stream in streams]


class Trickle(io.BytesIO):
    """Returns a few bytes at a time, as a network does."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size, 100) if size and size > 0 else size)


@pytest.mark.parametrize("tar_format", FORMATS)
def test_members_are_those_of_tarfile(tar_format: int) -> None:
    names = [*NAMES, *([LONG] if tar_format != tarfile.USTAR_FORMAT else [])]
    data = tar_of([(name, name.encode() * 20) for name in names], tar_format)
    assert [(m.name, m.offset, m.content) for m in members_of(data)] == by_tarfile(data)


@given(st.lists(st.tuples(st.text("ab./-é", min_size=1, max_size=150), st.binary(max_size=1500)), max_size=5))
def test_members_of_any_name_and_size_are_those_of_tarfile(members: list[tuple[str, bytes]]) -> None:
    data = tar_of(members)
    found = [(m.name.rstrip("/"), m.offset, m.content) for m in members_of(data)] if members else []
    assert found == [(name.rstrip("/"), offset, content) for name, offset, content in by_tarfile(data)]


@pytest.mark.parametrize("tar_format", FORMATS)
def test_the_name_of_a_member_is_found_from_its_offset(tar_format: int) -> None:
    names = [*NAMES, *([LONG] if tar_format != tarfile.USTAR_FORMAT else [])]
    data = tar_of([(name, b"content") for name in names], tar_format)
    assert [name_before(data[max(0, m.offset - 8192) : m.offset]) for m in members_of(data)] == names
    assert name_before(data[512:1024]) is None


def test_a_stream_hashes_every_byte_and_is_read_in_any_pieces() -> None:
    data = tar_of(samples("a", "b"))
    stream = TarStream(Trickle(data), hashed=True)
    assert list(tar_members(stream, lambda _: 1 << 20)) == members_of(data)
    assert not stream.read_rest()
    assert (stream.position, stream.sha256.hexdigest()) == (len(data), hashlib.sha256(data).hexdigest())


def test_what_is_not_wanted_is_passed_over_with_its_place() -> None:
    data = tar_of(samples("a", "b"))
    stream = TarStream(io.BytesIO(data), hashed=False)
    wanted = list(tar_members(stream, lambda name: 9 if name.endswith("cls") else 0))
    assert [m.content for m in wanted] == [None, b"0", None, None, b"1", None]
    assert [(m.name, m.offset, m.size) for m in wanted] == [(m.name, m.offset, m.size) for m in members_of(data)]
    assert members_of(data, most=1)[0].problem.endswith("bytes; at most 1 are allowed")


def test_a_cut_at_any_block_is_found_and_what_stands_before_is_whole() -> None:
    data = tar_of(samples("a", "b"))
    whole = members_of(data)
    end = whole[-1].offset + 512
    for length in [*range(512, end + 1, 512), *range(300, end, 700)]:
        found: list[TarMember] = []
        with pytest.raises(BrokenTarError) as caught:
            found.extend(tar_members(TarStream(io.BytesIO(data[:length]), hashed=True), lambda _: 1 << 20))
        assert found == whole[: len(found)]
        assert len(found) == sum(member.offset + member.size <= length for member in whole)
        assert caught.value.reason == ("truncated_tar" if length >= 512 else "not_a_tar")


def test_a_damaged_header_is_not_the_end() -> None:
    data = bytearray(tar_of(samples("a", "b")))
    data[members_of(bytes(data))[3].offset - 500] ^= 1
    with pytest.raises(BrokenTarError, match="no tar header at byte") as caught:
        members_of(bytes(data))
    assert caught.value.reason == "damaged_tar"


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "an empty file"), (b"x" * 2000, "no tar header"), (gzip.compress(tar_of([("a.jpg", b"x")])), "a gzip file")],
    ids=["nothing", "text", "gzip"],  # what gzip writes has the time in it
)
def test_what_is_no_tar_is_told(data: bytes, message: str) -> None:
    with pytest.raises(BrokenTarError, match=message) as caught:
        members_of(data)
    assert caught.value.reason == "not_a_tar"


def test_a_tar_without_members_is_empty() -> None:
    assert members_of(tar_of([])) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_have_no_content(kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        special = tarfile.TarInfo("a.jpg")
        special.type, special.linkname = kind, "b.jpg"
        archive.addfile(special)
        directory = tarfile.TarInfo("d")
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
    (member,) = members_of(buffer.getvalue())
    assert (member.name, member.content, member.problem) == ("a.jpg", None, "a link or a device, not a file")


def sparse_header(extended: bool) -> bytes:
    info = tarfile.TarInfo("a.jpg")
    info.size, info.type = 512, tarfile.GNUTYPE_SPARSE
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[482] = extended
    block[148:156] = b"        "
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + (bytes(512) if extended else b"")


@pytest.mark.parametrize("extended", [False, True])
def test_a_sparse_file_has_no_content_and_hides_nothing_behind_it(extended: bool) -> None:
    first, second = members_of(sparse_header(extended) + b"x" * 512 + tar_of([("b.jpg", b"b")]))
    assert (first.content, first.problem) == (None, "a sparse file, not stored as it is")
    assert (second.name, second.content) == ("b.jpg", b"b")


def test_pax_records_of_a_sparse_file_are_understood() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("GNUSparseFile.0/a.jpg")
        info.size, info.pax_headers = 3, {"GNU.sparse.name": "a.jpg", "GNU.sparse.major": "1"}
        archive.addfile(info, io.BytesIO(b"abc"))
    (member,) = members_of(buffer.getvalue())
    assert (member.name, member.content) == ("a.jpg", None)


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("a.jpg", "a", "jpg"),
        ("a/b.c/d.image.JPG", "a/b.c/d", "image.jpg"),
        ("./a.jpg", "./a", "jpg"),
        ("a", "", ""),
        (".jpg", "", ""),
        ("a.b/c", "", ""),
    ],
)
def test_a_key_is_what_stands_before_the_first_dot_of_the_file_name(name: str, key: str, extension: str) -> None:
    assert split_name(name) == (key, extension)
    from webdataset.tariterators import base_plus_ext

    theirs = base_plus_ext(name)
    assert (key, extension) == (("", "") if theirs[0] is None else (theirs[0], theirs[1].lower()))


def test_a_broken_tar_still_gives_its_last_sample() -> None:
    data = tar_of(samples("a", "b"))
    cut = data[: members_of(data)[-1].offset]
    found: list[TarSample] = []
    with pytest.raises(BrokenTarError):
        found.extend(tar_samples(tar_members(TarStream(io.BytesIO(cut), hashed=True), lambda _: 1 << 20)))
    # extend keeps what came before the error
    assert [s.key for s in found] == ["a", "b"]
    assert list(found[1].members) == ["jpg", "cls"]


KEYS, EXTENSIONS = (
    st.sampled_from(["a", "b", "d/a", "./b", "d.e/c"]),
    st.sampled_from(["jpg", "CLS", "x.json", "y.jpg"]),
)


@given(st.lists(st.tuples(KEYS, EXTENSIONS), max_size=12))
def test_samples_are_those_of_the_webdataset_library(parts: list[tuple[str, str]]) -> None:
    from webdataset.tariterators import group_by_keys

    names = [f"{key}.{extension}" for key, extension in parts]
    ours = list(tar_samples(members_of(tar_of([(name, b"x") for name in names]))))
    try:
        theirs = list(group_by_keys({"fname": name, "data": b"x", "__url__": ""} for name in names))
    except ValueError:  # they refuse an extension that comes twice in a sample; we begin another of the same key
        assert any(before.key == after.key for before, after in pairwise(ours))
        return
    assert [(sample.key, set(sample.members)) for sample in ours] == [
        (sample["__key__"], sample.keys() - {"__key__", "__url__"}) for sample in theirs
    ]
