"""Loading a checkpoint or an encoder runs nothing that stands in it, whoever wrote it."""

import ast
import json
import os
import pickle
import struct
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from model.config import EncoderConfig
from model.description import EncoderDescription, read_description
from model.encoder import build_encoder
from model.encoder_file import load_encoder, save_encoder
from model.errors import ModelError
from train.checkpoint import Checkpoint, load_latest, save_checkpoint
from train.checkpoint_files import STATE, SUMS, TENSORS, CheckpointState
from train.config import CheckpointConfig
from train.errors import RunError

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for folder in ("pipelines", "model", "train", "eval", "ops") for path in (ROOT / folder).rglob("*.py")
)
FORBIDDEN_MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "torch.load", "torch.jit.load", "torch.hub.load", "torch.package"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "runpy.run_path"),
}
MAY_UNPICKLE = {
    "pipelines/build/array_pickle.py": "CIFAR comes pickled: an Unpickler that knows nothing but uint8 arrays",
    "pipelines/build/cifar.py": "names that Unpickler's error",
}
VIT = "vit_tiny_patch16_224"
ENCODER = EncoderConfig(name="resnet18", stem="cifar", width=0.125)
DESCRIPTION = EncoderDescription(
    encoder=ENCODER,
    image_size=32,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    data_name="tiny",
    data_fingerprint="f" * 64,
    config_sha256="c" * 64,
    step=7,
    images_seen=70,
)


def reaches_for(path: Path) -> Iterator[str]:
    """What a file uses that may run what it loads."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom):
            yield from [node.module or ""] * ((node.module or "").partition(".")[0] in FORBIDDEN_MODULES)
            yield from (full for alias in node.names if (full := f"{node.module}.{alias.name}") in FORBIDDEN_CALLS)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FORBIDDEN_CALLS:
                yield name
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
                yield f"{name} without allow_pickle=False"  # False is the default, but a reader should see it
            if given.get("allow_pickle", "False") != "False" or given.get("weights_only", "True") != "True":
                yield ast.unparse(node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_uses_what_may_run_what_it_loads(path: Path) -> None:
    if str(path.relative_to(ROOT)) in MAY_UNPICKLE:
        assert set(reaches_for(path)) == {"pickle"}
    else:
        assert not list(reaches_for(path))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "x = torch.load(path)",
        "from torch import load",
        "yaml.load(text, Loader)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "read(path, weights_only=False)",
        "eval(text)",
    ],
)
def test_such_uses_are_found(tmp_path: Path, source: str) -> None:
    (tmp_path / "source.py").write_text(source)
    assert list(reaches_for(tmp_path / "source.py"))


class Payload:
    """Makes a directory when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


def as_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(marker)))


def as_torch_file(path: Path, marker: Path) -> None:
    torch.save({"weight": Payload(marker)}, path)


def as_old_torch_file(path: Path, marker: Path) -> None:
    torch.save({"weight": Payload(marker)}, path, _use_new_zipfile_serialization=False)


PAYLOADS = [as_pickle, as_torch_file, as_old_torch_file]


def write_sums(path: Path) -> None:
    (path / SUMS).write_text("".join(f"{digest(path / name)}  {name}\n" for name in (*TENSORS, STATE)))


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The only one of its run."""
    state = CheckpointState(step=1, steps_per_epoch=4, config={"seed": 0}, data_fingerprint="abc", scaler={})
    tensors = {"w": torch.ones(3)}
    content = Checkpoint(state=state, model=tensors, optimizer=tensors, probe=tensors)
    return save_checkpoint(tmp_path, content, CheckpointConfig())


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    save_encoder(tmp_path / "encoder", build_encoder(ENCODER, 32).state_dict(), DESCRIPTION)
    return tmp_path / "encoder"


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "encoder.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_payload_runs_where_it_is_unpickled(tmp_path: Path, payload: Callable[[Path, Path], None]) -> None:
    payload(tmp_path / "file", tmp_path / "marker")
    if payload is as_pickle:
        pickle.loads((tmp_path / "file").read_bytes())
    else:
        torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", [*TENSORS, STATE, SUMS])
def test_a_payload_in_any_file_of_a_checkpoint_is_refused_and_does_not_run(
    checkpoint: Path, name: str, payload: Callable[[Path, Path], None]
) -> None:
    marker = checkpoint.parent / "marker"
    payload(checkpoint / name, marker)
    if name != SUMS:
        write_sums(checkpoint)
    with pytest.raises(RunError, match="none of its 1 checkpoints can be read"):
        load_latest(checkpoint.parent)
    assert not marker.exists()


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", ["model.safetensors", "encoder.json"])
def test_a_payload_in_any_file_of_an_encoder_is_refused_and_does_not_run(
    encoder: Path, name: str, payload: Callable[[Path, Path], None]
) -> None:
    marker = encoder.parent / "marker"
    payload(encoder / name, marker)
    if name == "model.safetensors":
        edit(encoder, weights_sha256=digest(encoder / name))
    with pytest.raises(ModelError, match=f"{name}: cannot be read"):
        load_encoder(encoder)
    assert not marker.exists()


def hostile_values(marker: Path) -> list[Any]:
    """What one loader or another would make something of."""
    return [
        f"!!python/object/apply:os.mkdir ['{marker}']",
        {
            "__reduce__": ["os.mkdir", [str(marker)]],
            "py/reduce": [{"py/type": "os.mkdir"}, {"py/tuple": [str(marker)]}],
        },
        {"class_path": "os.mkdir", "init_args": {"path": str(marker)}},
        {"_target_": "os.mkdir", "path": str(marker)},
        {"class_path": "antigravity.geohash"},
        f"__import__('os').mkdir('{marker}')",
        ["antigravity"],
        10**400,
        1e308,
        -1,
        None,
    ]


def test_hostile_values_in_state_json_are_values_or_damage_and_run_nothing(checkpoint: Path) -> None:
    marker, content = checkpoint.parent / "marker", json.loads((checkpoint / STATE).read_text())
    for field in content:
        for value in hostile_values(marker):
            (checkpoint / STATE).write_text(json.dumps(content | {field: value}))
            write_sums(checkpoint)
            try:
                loaded = load_latest(checkpoint.parent)
            except RunError:
                continue
            assert loaded is not None
            assert field in (
                "steps_per_epoch",
                "data_fingerprint",
                "scaler",
                "skipped_updates",
                "left_out",
                "probe_top1",
            )
    assert not marker.exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "NaN", "1" * 10_000, '{"format": "diptych-checkpoint", "version": 3}', ""],
)
def test_json_that_is_no_description_is_refused(checkpoint: Path, encoder: Path, text: str) -> None:
    (checkpoint / STATE).write_text(text)
    write_sums(checkpoint)
    with pytest.raises(RunError, match="none of its 1 checkpoints can be read"):
        load_latest(checkpoint.parent)
    (encoder / "encoder.json").write_text(text)
    with pytest.raises(ModelError) as raised:
        read_description(encoder)
    assert "\n" not in str(raised.value)


def test_hostile_values_in_encoder_json_are_refused_in_one_line_and_run_nothing(encoder: Path) -> None:
    marker, content = encoder.parent / "marker", json.loads((encoder / "encoder.json").read_text())
    inner = content["encoder"]
    cases = [
        content | {field: value} for field in ("encoder", "image_size", "mean") for value in hostile_values(marker)
    ]
    cases += [content | {"encoder": inner | {field: value}} for field in inner for value in hostile_values(marker)]
    cases += [
        content | {"encoder": {"name": VIT, "arguments": {"depth": 1, argument: value}}}
        for argument in ("act_layer", "norm_layer", "embed_layer", "block_fn")
        for value in hostile_values(marker)[:6]
    ]
    for case in cases:
        (encoder / "encoder.json").write_text(json.dumps(case))
        with pytest.raises(ModelError) as raised:
            load_encoder(encoder)
        assert "\n" not in str(raised.value)
    assert not marker.exists()
    assert "antigravity" not in sys.modules


def with_header(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


@pytest.mark.parametrize(
    "content",
    [
        with_header(b"{}", 2**63),
        with_header(b"{}", 2**64 - 1),
        with_header(b"{}", 90_000_000),
        with_header(b'{"w": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4000000000000]}}'),
        with_header(b'{"w": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}'),
        with_header(b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}'),
        with_header(b'{"w": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}') + bytes(8),
    ],
)
def test_a_header_of_absurd_lengths_is_refused(checkpoint: Path, encoder: Path, content: bytes) -> None:
    (checkpoint / "model.safetensors").write_bytes(content)
    write_sums(checkpoint)
    with pytest.raises(RunError, match="none of its 1 checkpoints can be read"):
        load_latest(checkpoint.parent)
    (encoder / "model.safetensors").write_bytes(content)
    edit(encoder, weights_sha256=digest(encoder / "model.safetensors"))
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read"):
        load_encoder(encoder)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "hf-hub:timm/resnet18.a1_in1k"},
        {"name": "hf_hub:timm/resnet18.a1_in1k"},
        {"name": "local-dir:/model"},
        {"name": "timm/resnet18"},
        {"name": "../../model"},
        {"name": "vit_tiny_patch16_224.augreg_in21k"},
        *(
            {"name": name, "arguments": {argument: value}}
            for name in (VIT, "resnet18")
            for argument, value in {
                "pretrained": True,
                "pretrained_cfg": {"file": "weights.pth", "url": "https://example.org/weights.pth"},
                "pretrained_cfg_overlay": {"file": "weights.pth"},
                "pretrained_strict": False,
                "pretrained_filter_fn": "os.mkdir",
                "pretrained_model_args": {},
                "checkpoint_path": "weights.pth",
                "cache_dir": "cache",
                "features_only": True,
                "feature_cfg": {"feature_cls": "fx"},
                "model_cfg": {},
                "kwargs_filter": ["num_classes"],
                "scriptable": True,
            }.items()
        ),
    ],
    ids=str,
)
def test_an_encoders_description_cannot_make_timm_fetch_or_load_a_file(
    encoder: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def make(*arguments: Any, **_: Any) -> None:
        made.append(arguments)
        raise ValueError(arguments)  # which would pass for a refusal

    monkeypatch.setattr(timm, "create_model", make)
    monkeypatch.setattr("model.encoder.ResNet", make)
    edit(encoder, encoder=config)
    with pytest.raises(ModelError, match=r"encoder\.(name|arguments) = ") as raised:
        load_encoder(encoder)
    assert not made
    assert "\n" not in str(raised.value)
