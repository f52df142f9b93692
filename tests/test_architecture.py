"""The house rules that a machine can check: who imports whom, and that no module takes another's name."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("pipelines", "model", "train", "eval", "ops")
MAY_IMPORT = {
    "pipelines": set[str](),
    "model": set[str](),
    "train": {"pipelines", "model"},
    "eval": {"pipelines", "model"},
    "ops": {"pipelines", "model", "train", "eval"},
}
# The two entry files wire metrics in; evaluation reads a run's configuration but knows nothing of its loop.
ENTRIES = {"train/pretrain.py", "eval/evaluate.py"}
EVAL_MAY_USE = {
    "train.config",
    "train.arguments",
    "train.errors",
    "train.schedule",
    "train.lars",
    "train.checkpoint",
    "train.distributed",
}
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_imports_only_what_stands_before_it(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    folder = path.relative_to(ROOT).parts[0]
    allowed = MAY_IMPORT[folder] | {folder} | ({"ops"} if name in ENTRIES else set())
    for module in imports(path):
        package = module.partition(".")[0]
        if package in FOLDERS and package not in allowed:
            assert folder == "eval", f"{name} imports {module}"
            assert module in EVAL_MAY_USE, f"{name} imports {module}"


def test_no_module_bears_the_name_of_another_that_python_would_find_instead() -> None:
    """`accelerate launch train/pretrain.py` puts train/ first on sys.path: its files are then top-level modules."""
    ours = {"diptych"}
    taken = set(sys.stdlib_module_names) | {
        package for package, distributions in packages_distributions().items() if not ours & set(distributions)
    }
    clashes = {path.stem for path in MODULES if path.stem != "__init__"} & taken
    assert not clashes
    assert not set(FOLDERS) & taken


def test_heavy_libraries_are_not_imported_by_configuration() -> None:
    heavy = {"torch", "nvidia", "kornia", "timm", "accelerate"}
    for path in MODULES:
        if path.name == "config.py" or path.name in {"arguments.py", "manifest.py", "errors.py"}:
            assert not {module.partition(".")[0] for module in imports(path)} & heavy, path


def test_every_package_is_listed_for_installation() -> None:
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES}
    assert set(listed) == found
