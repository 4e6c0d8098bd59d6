"""The house: a room imports only rooms below it, the package knows neither simulator nor plug-ins, files stay readable."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = [
    "errors", "config", "atomic", "threads", "plugins", "diffusion", "models", "decoders", "session", "streams", "signal",
    "bundle", "evaluation", "training", "alignment", "augmentation", "interpretation", "runtime", "report", "comparison", "cli",
]  # fmt: skip


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return found


def test_a_room_imports_only_rooms_below_it() -> None:
    wrong = []
    files = sorted((ROOT / "bci_align").rglob("*.py"))
    assert len(files) > 50
    for path in files:
        parts = path.relative_to(ROOT / "bci_align").with_suffix("").parts
        if parts == ("__init__",):
            continue
        for name in imports(path):
            package, *rest = name.split(".")
            if package in ("bci_align_sim", "sim", "plugins", "tests", "benchmarks"):
                wrong.append(f"{path.name}: {name}")
            if package == "bci_align" and rest and rest[0] in ROOMS and ROOMS.index(rest[0]) > ROOMS.index(parts[0]):
                wrong.append(f"{'/'.join(parts)}: {name}")
    assert wrong == []


def test_nothing_is_unpickled() -> None:
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
    for path in [*(ROOT / "bci_align").rglob("*.py"), *(ROOT / "sim").rglob("*.py")]:
        assert not {name.split(".")[0] for name in imports(path)} & banned, path
        assert "allow_pickle=True" not in path.read_text(), path
        assert not re.search(r"(?<!safetensors\.)torch\.load", path.read_text()), path


def test_files_can_be_read_in_a_sitting() -> None:
    for path in [*(ROOT / "bci_align").rglob("*.py"), *(ROOT / "sim").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 300, path
