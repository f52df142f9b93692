"""CIFAR-10 and CIFAR-100 in their official formats, in small."""

import hashlib
import http.server
import io
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from raw_images import Tree, write_archive, write_tree

from pipelines.build.array_pickle import load_dictionary
from pipelines.build.cifar import CIFAR10, CIFAR100, CifarSet, cifar_source, download
from pipelines.build_shards import main
from pipelines.errors import DataError
from pipelines.hashing import hash64

ROWS = 3


def names(cifar: CifarSet) -> list[str]:
    return [f"name{number}" for number in range(cifar.classes)]


def batch(cifar: CifarSet, number: int) -> tuple[list[int], npt.NDArray[np.uint8]]:
    """Labels, and (ROWS, 3072) pixels in planes."""
    bits = hash64(number, np.arange(ROWS * 3072)).reshape(ROWS, 3072)
    return (bits[:, 0] % np.uint64(cifar.classes)).tolist(), (bits % np.uint64(256)).astype(np.uint8)


def binary_tree(cifar: CifarSet = CIFAR10) -> Tree:
    root = "cifar-10-batches-bin" if cifar is CIFAR10 else "cifar-100-binary"
    tree = {f"{root}/{cifar.binary_names}": "\n".join([*names(cifar), ""]).encode()}
    for number, (name, _) in enumerate(cifar.batches):
        labels, pixels = batch(cifar, number)
        columns = [np.array(labels, np.uint8)[:, None], pixels]
        if cifar is CIFAR100:  # the superclass comes first
            columns.insert(0, np.full((ROWS, 1), 19, np.uint8))
            tree[f"{root}/coarse_label_names.txt"] = b"superclass\n"
        tree[f"{root}/{name}.bin"] = np.concatenate(columns, axis=1).tobytes()
    return tree


def python_tree(cifar: CifarSet = CIFAR10, protocol: int = 2) -> Tree:
    root = "cifar-10-batches-py" if cifar is CIFAR10 else "cifar-100-python"
    file, key = cifar.python_names
    tree = {f"{root}/{file}": pickle.dumps({key.encode(): [name.encode() for name in names(cifar)]}, protocol)}
    for number, (name, _) in enumerate(cifar.batches):
        labels, pixels = batch(cifar, number)
        content = {b"batch_label": b"a batch", b"data": pixels, b"filenames": [b"x.png"] * ROWS}
        content |= {cifar.labels_key.encode(): labels}
        content |= {b"coarse_labels": [19] * ROWS} if cifar is CIFAR100 else {}
        tree[f"{root}/{name}"] = pickle.dumps(content, protocol)
    return tree


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


FORMS = {
    "binary": binary_tree,
    "py2": python_tree,
    "py4": lambda cifar: python_tree(cifar, protocol=4),
}


@pytest.mark.parametrize("cifar", [CIFAR10, CIFAR100], ids=lambda cifar: cifar.name)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", [True, False])
def test_all_forms_hold_the_same_images_and_labels(
    tmp_path: Path, spool: Path, cifar: CifarSet, form: str, packed: bool
) -> None:
    tree = FORMS[form](cifar)
    path = write_archive(tmp_path / "a.tar.gz", tree) if packed else write_tree(tmp_path / "tree", tree)
    source = cifar_source(cifar, path, spool)
    assert source.name == cifar.name
    assert source.classes == tuple(names(cifar))
    assert [item.name for item in source.items] == [
        f"{name}/{row:05d}" for name, _ in cifar.batches for row in range(ROWS)
    ]
    for number, (name, split) in enumerate(cifar.batches):
        labels, pixels = batch(cifar, number)
        items = [item for item in source.items if item.name.startswith(f"{name}/")]
        assert [item.label for item in items] == labels
        assert {item.split for item in items} == {split}
        for item, planes in zip(items, pixels, strict=True):
            png = source.read(item)
            assert len(png) <= item.size
            np.testing.assert_array_equal(Image.open(io.BytesIO(png)), planes.reshape(3, 32, 32).transpose(1, 2, 0))


def test_one_set_is_not_taken_for_the_other(tmp_path: Path, spool: Path) -> None:
    ten, hundred = write_tree(tmp_path / "10", binary_tree()), write_tree(tmp_path / "100", binary_tree(CIFAR100))
    with pytest.raises(DataError, match=r"neither train\.bin nor train in it; expected CIFAR-100, binary or Python"):
        cifar_source(CIFAR100, ten, spool)
    with pytest.raises(DataError, match=r"neither data_batch_1\.bin nor data_batch_1 in it; expected CIFAR-10, binary"):
        cifar_source(CIFAR10, hundred, spool)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cifar-10-batches-bin/data_batch_2.bin", None, "data_batch_2.bin is missing"),
        ("cifar-10-batches-bin/data_batch_2.bin", b"\0" * 3072, "has 3072 bytes, not a multiple of 3073"),
        ("cifar-10-batches-bin/data_batch_2.bin", b"", "has 0 bytes, not a multiple of 3073"),
        ("cifar-10-batches-bin/data_batch_2.bin", b"\x0a" * 3073, r"record 0: label 10 is not in 0 \.\.\. 9"),
        ("cifar-10-batches-bin/batches.meta.txt", b"cat\ndog\n", "should name 10 classes, it names 2"),
        ("cifar-10-batches-bin/data_batch_1.bin", None, r"neither data_batch_1\.bin nor data_batch_1 in it"),
    ],
)
def test_a_wrong_binary_version_is_refused(
    tmp_path: Path, spool: Path, name: str, content: bytes | None, message: str
) -> None:
    tree = binary_tree() | ({} if content is None else {name: content})
    if content is None:
        del tree[name]
    with pytest.raises(DataError, match=message):
        cifar_source(CIFAR10, write_archive(tmp_path / "a.tar.gz", tree), spool)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"data": np.zeros((2, 3072), np.uint8)}, "has no list of labels"),
        ({b"labels": [1, 2], b"data": np.zeros((3, 3072), np.uint8)}, "has no array of 2 x 3072 bytes"),
        ({b"labels": [1, 2], b"data": np.zeros((2, 3072), np.float32)}, "an array that is not uint8"),
        ({b"labels": [1, 2], b"data": b"\0" * 6144}, "has no array of 2 x 3072 bytes"),
        ({b"labels": [1, 11], b"data": np.zeros((2, 3072), np.uint8)}, r"record 1: label 11 is not in 0 \.\.\. 9"),
        ([1, 2], "data_batch_3 is not a batch of CIFAR-10"),
        (Path("/tmp/x"), "it asks for pathlib"),  # noqa: S108 (nothing is written there)
    ],
)
def test_a_wrong_python_version_is_refused(tmp_path: Path, spool: Path, content: object, message: str) -> None:
    tree = python_tree() | {"cifar-10-batches-py/data_batch_3": pickle.dumps(content, 2)}
    with pytest.raises(DataError, match=message):
        cifar_source(CIFAR10, write_tree(tmp_path / "tree", tree), spool)


def test_a_pickle_cannot_run_anything(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    for module, name in [("os", "system"), ("builtins", "eval"), ("numpy", "load"), ("pathlib", "Path.touch")]:
        call = f"c{module}\n{name}\n(Vtouch {marker}\ntR.".encode()
        with pytest.raises(pickle.UnpicklingError, match=f"it asks for {module}.{name}, which no image data needs"):
            load_dictionary(call)
    assert not marker.exists()


def test_a_damaged_pickle_is_one_kind_of_error() -> None:
    data = python_tree()["cifar-10-batches-py/data_batch_1"]
    for length in range(0, len(data), 97):
        with pytest.raises(pickle.UnpicklingError):
            load_dictionary(data[:length])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Address of a server, and the files it serves by path."""
    served: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = served.get(self.path, b"")
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", served
        running.shutdown()
        thread.join()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_a_download_appears_once_its_checksum_is_right(tmp_path: Path, server: tuple[str, dict[str, bytes]]) -> None:
    address, served = server
    served["/file"] = b"content"
    right = md5(b"content")
    with pytest.raises(DataError, match=f"md5 of what came is {right}, expected 0000; fetch it by other means"):
        download(f"{address}/file", "0000", tmp_path / "file")
    assert not (tmp_path / "file").exists()
    download(f"{address}/file", right, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_failed_download_is_one_line(tmp_path: Path, server: tuple[str, dict[str, bytes]]) -> None:
    with pytest.raises(DataError, match=r"/other: cannot be fetched \(HTTP Error 404: Not Found\)"):
        download(f"{server[0]}/other", "0000", tmp_path / "file")
    with pytest.raises(DataError, match="cannot be fetched"):
        download("http://127.0.0.1:1/file", "0000", tmp_path / "file")


def test_the_command_builds_the_same_from_a_download_and_from_a_local_copy(
    tmp_path: Path,
    server: tuple[str, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, served = server
    archive = write_archive(tmp_path / "cifar-10-python.tar.gz", python_tree())
    served["/binary"] = write_archive(tmp_path / "a.tar.gz", binary_tree()).read_bytes()
    served_set = replace(CIFAR10, binary_url=f"{address}/binary", binary_md5=md5(served["/binary"]))
    monkeypatch.setattr("pipelines.build.cifar.CIFAR10", served_set)
    outputs = [tmp_path / "downloaded", tmp_path / "local"]
    assert main(["cifar10", "--output", str(outputs[0])]) == 0
    assert main(["cifar10", "--output", str(outputs[1]), "--source", str(archive)]) == 0
    assert f"{archive} is not one of the official archives" in capsys.readouterr().err
    first, second = ({path.name: path.read_bytes() for path in output.iterdir()} for output in outputs)
    assert first == second
    assert main(["verify", str(outputs[0])]) == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_download_with_another_checksum_leaves_nothing_behind(
    tmp_path: Path,
    server: tuple[str, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, served = server
    served["/binary"] = b"something else"
    monkeypatch.setattr("pipelines.build.cifar.CIFAR10", replace(CIFAR10, binary_url=f"{address}/binary"))
    assert main(["cifar10", "--output", str(tmp_path / "out")]) == 2
    assert "fetch it by other means and name it with --source" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
