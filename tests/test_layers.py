"""The layers hold: kernels ← core ← lessons ← app, only app imports streamlit, and core stays light to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from core.probes import PROBES

ROOT = Path(__file__).parents[1]
ORDER = ["kernels", "core", "lessons", "app"]
FILES = sorted(p for layer in ORDER for p in (ROOT / layer).rglob("*.py") if "node_modules" not in p.parts)


def imported(path: Path) -> set[str]:
    """Full names of everything that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_stands_left_of_it(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    right_of_it = set(ORDER[ORDER.index(layer) + 1 :]) | {"tests"}
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & right_of_it
    if layer != "app":
        assert "streamlit" not in tops


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unsafe_is_called(path: Path) -> None:
    """No pickle, no torch.load, no trust_remote_code=True, no eval or exec of text."""
    assert not {"pickle", "dill", "joblib", "marshal", "shelve"} & {n.split(".")[0] for n in imported(path)}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "torch.load", "torch.save"), f"{path}:{node.lineno} calls {called}"
            for keyword in node.keywords:
                if keyword.arg in ("trust_remote_code", "allow_pickle", "shell", "unsafe_allow_html_from_user"):
                    value = ast.literal_eval(keyword.value) if isinstance(keyword.value, ast.Constant) else True
                    assert value is False, f"{path}:{node.lineno} sets {keyword.arg}"


HEAVY = ("torch", "transformers", "bitsandbytes", "peft", "triton", "accelerate")
LIGHT = [
    *PROBES.values(),
    "core.export.loadable",
    "core.export.card",
    "core.config",
    "core.methods",
    "core.world",
    "core.events",
    "core.dataset",
    "core.runs.store",
    "core.hardware",
]


def test_importing_core_stays_light() -> None:
    """All in one fresh process: the first that brings something heavy is named."""
    code = (
        f"import importlib, sys\nfor module in {LIGHT}:\n    importlib.import_module(module)\n"
        f"    heavy = [m for m in {HEAVY} if m in sys.modules]\n    assert not heavy, (module, heavy)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert out.returncode == 0, out.stderr


def test_the_kernels_folder_is_not_taken_for_the_package_of_that_name() -> None:
    from transformers.utils.import_utils import is_kernels_available

    assert not is_kernels_available()
