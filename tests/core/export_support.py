"""Running what was exported: scripts and notebooks one after another in one process of their own, offline.

    python -m tests.core.export_support WHAT.json        [["folder/train.py", "--steps", "3"], ["folder/train.ipynb"]]

One process, because importing torch and transformers takes longer than a tiny script does. Each is executed whole, as
`__main__`, in its own folder; what one leaves behind does not matter to the next.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run_all(commands: Sequence[Sequence[str]], folder: Path, seconds: int = 300) -> dict[str, str]:
    """Execute scripts (with their arguments) and notebooks; what went wrong with each, by its path ('' if nothing)."""
    listed, told = folder / "commands.json", folder / "told.json"
    listed.write_text(json.dumps([list(map(str, c)) for c in commands]))
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.export_support", str(listed), str(told)],
        cwd=ROOT, env={**os.environ, **offline, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=seconds, check=False,
    )  # fmt: skip
    assert told.exists(), done.stderr[-3000:]
    return json.loads(told.read_text())


def losses(log: Path) -> list[float]:
    """What a script wrote with --log, after checking that every step is there once and in order."""
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    assert [s["step"] for s in steps] == list(range(1, len(steps) + 1))
    assert all(set(s) == {"step", "loss", "grad_norm", "learning_rate"} for s in steps)
    return [s["loss"] for s in steps]


def code_of(notebook: Path) -> list[str]:
    """The code cells of a notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def _execute(command: Sequence[str]) -> None:
    path = Path(command[0])
    os.chdir(path.parent)
    if path.suffix == ".ipynb":
        names: dict[str, Any] = {"__name__": "__main__"}
        for number, code in enumerate(code_of(path)):
            exec(compile(code, f"{path.name}[{number}]", "exec"), names)
        (path.parent / "asked.json").write_text(
            json.dumps([names["BEFORE"], [names["ask"](q) for q in names["QUESTIONS"]]])
        )
        return
    sys.argv = list(command)
    runpy.run_path(str(path), run_name="__main__")


def main() -> None:
    found = {}
    for command in json.loads(Path(sys.argv[1]).read_text()):
        try:
            _execute(command)
            found[command[0]] = ""
        except BaseException:
            found[command[0]] = traceback.format_exc()
    Path(told).write_text(json.dumps(found))


if __name__ == "__main__":
    told = sys.argv[2]
    sys.argv = sys.argv[:2]
    main()
