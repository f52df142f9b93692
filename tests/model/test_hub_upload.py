"""Uploads, against a server on this machine that answers as the hub does; none here talked to the hub itself."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from random_encoders import save_random_encoder

from model.config import EncoderConfig
from model.export import main

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

VIT = EncoderConfig(name="vit_tiny_patch16_224", arguments={"patch_size": 8, "depth": 1})
TOKEN = "hf_of_the_test"  # noqa: S105  # nobody's


@dataclass
class Hub:
    """What was asked of it."""

    address: str
    refuses: bool = False
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            here.tokens.add(self.headers["Authorization"])
            if here.refuses:
                self.answer(403, {"error": "this token may not write"})
            elif self.path == "/api/repos/create":
                here.created.append(json.loads(body))
                self.answer(200, {"url": f"{here.address}/me/mine"})
            elif self.path.endswith("/preupload/main"):
                names = [entry["path"] for entry in json.loads(body)["files"]]
                modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
                self.answer(200, {"files": modes})
            elif self.path.endswith("/commit/main"):
                for entry in map(json.loads, body.splitlines()):
                    if entry["key"] == "file":
                        here.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                self.answer(200, {"commitUrl": f"{here.address}/me/mine/commit/1", "commitOid": "1" * 40})
            else:
                self.answer(200, {})

        def do_GET(self) -> None:
            self.answer(200, {"id": "me/mine", "sha": "0" * 40, "siblings": []})

        def answer(self, status: int, content: dict[str, Any]) -> None:
            self.send_response(status)
            text = json.dumps(content).encode()
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Hub(address=f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", here.address)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", here.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield here
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    save_random_encoder(tmp_path / "encoder", VIT)
    return tmp_path / "encoder"


def push(encoder: Path, repository: str = "me/mine") -> int:
    output = str(encoder.parent / "out")
    return main([str(encoder), "--format", "timm", "--output", output, "--push_to_hub", repository])


def test_every_file_is_committed_to_a_private_repository(
    encoder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(encoder) == 0
    assert f"pushed to {hub.address}/me/mine" in capsys.readouterr().out
    assert [(asked["name"], asked["organization"], asked["visibility"]) for asked in hub.created] == [
        ("mine", "me", "private")
    ]
    assert hub.files == {path.name: path.read_bytes() for path in (encoder.parent / "out").iterdir()}
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert 'timm.create_model("hf-hub:me/mine"' in hub.files["README.md"].decode()


def test_what_the_server_refuses_is_told_and_the_export_stays(
    encoder: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuses = True
    assert push(encoder) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "--push_to_hub me/mine: this token may not write; " in told
    assert "tries again" in told
    assert (encoder.parent / "out" / "README.md").is_file()


def test_a_server_that_is_not_there_is_told(
    encoder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert push(encoder) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "--push_to_hub me/mine: " in told
    assert hub.files == {}


@pytest.mark.parametrize("repository", ["mine", "me/my model", "a/b/c"])
def test_a_name_that_is_none_is_refused_before_anything_is_written(
    encoder: Path, hub: Hub, repository: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(encoder, repository) == 2
    told = capsys.readouterr().err
    assert (told.count("\n"), f"--push_to_hub {repository}: " in told) == (1, True)
    assert not (encoder.parent / "out").exists()
    assert hub.created == []


def test_a_missing_token_or_library_is_refused_before_anything_is_written(
    encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert push(encoder) == 2
    assert "no token; run `hf auth login`" in capsys.readouterr().err
    monkeypatch.setattr("model.hub_upload.find_spec", lambda _: None)
    assert push(encoder) == 2
    assert "pip install 'diptych[hub]'" in capsys.readouterr().err
    assert not (encoder.parent / "out").exists()
