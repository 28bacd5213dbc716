"""`make gpu` where there is no GPU: what it does with the timings, on made-up ones, and with what goes wrong."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels import KERNELS, base, bench
from tests import gpu, gpu_memory, gpu_steps, gpu_tests
from tests.gpu_process import NO_TIME, ROOT, Ahead, Processes

PASSED: dict[str, bool | None] = dict.fromkeys(KERNELS, True)


def rows() -> list[dict[str, Any]]:
    """A rehearsed row of each kernel, which is compared with its reference and not timed."""
    return [
        bench.row_of(n, import_module(f"kernels.{n}").CASES[1], torch.bfloat16, "cpu", True, False) for n in KERNELS
    ]


def test_the_rehearsal_goes_through_thresholds_and_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows()
    assert gpu.decisions(found, tmp_path) == 0
    assert f"{len(KERNELS)} kernels would be used" in capsys.readouterr().out
    assert not base.MEASURED.exists() or "0.0" not in json.loads(base.MEASURED.read_text(encoding="utf-8"))
    found[0]["passed"] = False
    assert gpu.decisions(found, tmp_path) == 1, "a wrong kernel is not used, and here all should be"


def test_what_is_kept_is_what_a_launch_is_decided_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "measured.json"
    bench.keep("9.0", {"rope": {"from": 100, "to": None}}, path)
    monkeypatch.setattr(base, "MEASURED", path)
    monkeypatch.setattr(base, "measured", base.measured.__wrapped__)
    monkeypatch.setattr(base, "runs_on", lambda x: True)
    monkeypatch.setattr(base, "INTERPRETED", False)
    monkeypatch.delenv(base.SETTING, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    x = torch.zeros(1)
    assert [base.pays("rope", x, n) for n in (99, 100)] == [False, True]
    assert not base.pays("swiglu", x, 100)


# --- which kernels are used -------------------------------------------------------------------------------------------


def timed(kernel: str, size: int, faster: bool = True, **more: Any) -> dict[str, Any]:
    seconds = {"kernel": {"median": 1e-6}, "reference": {"median": 2e-6 if faster else 1e-6}}
    return {"kernel": kernel, "case": {"n": size}, "size": size, "passed": True, "error": 0.0, "seconds": seconds,
            **more}  # fmt: skip


def broken(kernel: str) -> dict[str, Any]:
    return {"kernel": kernel, "case": {"n": 9}, "passed": False, "broken": "RuntimeError: an illegal access"}


def left_out(kernel: str) -> dict[str, Any]:
    return {"kernel": kernel, "case": {"n": 9}, "passed": True, "left_out": NO_TIME}


def test_a_kernel_that_breaks_at_one_size_is_used_at_none() -> None:
    found = [timed("rope", 1), timed("rope", 2), broken("rope"), timed("swiglu", 1)]
    assert bench.thresholds(found) == {"swiglu": {"from": 1, "to": None}}
    assert bench.decided(found) == {"rope", "swiglu"}


def test_a_wrong_kernel_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not finite is wrong, wherever it stands among the results."""
    file = import_module("kernels.swiglu")

    def wrong(g: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(g) * torch.where(u > 0, u, u * float("nan"))

    monkeypatch.setattr(file, "fused", wrong)
    monkeypatch.setattr(bench, "clock", lambda *_: pytest.fail("it was timed"))
    row = bench.row_of("swiglu", file.CASES[1], torch.bfloat16, "cpu", False, False)
    assert (row["passed"], row["error"]) == (False, bench.NOT_A_NUMBER)
    assert "seconds" not in row
    assert "WRONG" in bench.line(row)


def test_a_verdict_is_of_one_kernel_and_what_is_not_known_stays(tmp_path: Path) -> None:
    """One that failed its tests is switched off, one that is slower too; the others' earlier thresholds stay."""
    path = tmp_path / "measured.json"
    bench.keep("9.0", {name: {"from": 7, "to": None} for name in KERNELS}, path)
    found = [timed("rope", 1), timed("swiglu", 1), left_out("swiglu"), timed("nf4", 1), timed("rms_norm", 5),
             timed("lora_grads", 1, faster=False), broken("lora_linear")]  # fmt: skip
    tests = PASSED | {"nf4": False, "rms_norm": None, "linear_cross_entropy": False, "lora_linear": None}
    used, known = gpu.verdicts(found, tests)
    bench.keep("9.0", used, path, of=known)
    kept = json.loads(path.read_text(encoding="utf-8"))["9.0"]
    assert kept == {
        "rope": {"from": 1, "to": None}, "swiglu": {"from": 7, "to": None}, "rms_norm": {"from": 7, "to": None},
        "nf4_lora_linear": {"from": 7, "to": None},
    }  # fmt: skip
    assert gpu.verdicts([], {}) == ({}, set())
    bench.keep("9.0", {}, path, of=set())
    assert json.loads(path.read_text(encoding="utf-8"))["9.0"] == kept, "nothing is written over by nothing"


def test_a_record_without_a_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("it was measured"))
    assert bench.main(["--dry-run", "--out", str(tmp_path / "none" / "record.json")]) == 2
    assert "There is no folder" in capsys.readouterr().err


# --- what goes wrong costs its own row --------------------------------------------------------------------------------


def test_a_process_that_fails_costs_its_own_answer() -> None:
    with Processes() as processes:
        assert processes.ask("json:loads", '{"a": 1}') == {"a": 1}
        first = processes.current
        assert processes.ask("json:loads", '{"a": 2}') == {"a": 2}
        assert processes.current is first, "cases of a kind share a process"
        assert processes.ask("json:loads", '{"spoilt": true}') == {}
        assert processes.current is None
        assert processes.ask("json:loads", "no json")["failed"].startswith("JSONDecodeError")
        assert "SIGKILL" in processes.ask("signal:raise_signal", 9)["failed"]
        assert "exit code 3" in processes.ask("os:_exit", 3)["failed"]
        began = time.monotonic()
        assert processes.ask("time:sleep", 600, seconds=1)["failed"] == "It took more than 1 s."
        assert time.monotonic() - began < 100
        assert processes.ask("json:loads", '{"a": 3}', key="one") == {"a": 3}
        second = processes.current
        assert processes.ask("json:loads", '{"a": 4}', key="two") == {"a": 4}
        assert processes.current is not second
    assert second is not None
    assert second.process.poll() is not None, "all have ended"


def test_what_is_worked_out_ahead_is_there_when_it_is_wanted() -> None:
    wanted = [("a", "json:loads", '{"a": 1}'), ("b", "os:_exit", 4), ("c", "json:loads", '{"c": 1}')]
    with Ahead(wanted) as ahead:
        assert [ahead.get(key, 100) for key in "ac"] == [{"a": 1}, {"c": 1}]
        assert "exit code 4" in ahead.get("b", 1)["failed"]
        assert "failed" in ahead.get("never asked for", 0.1)
    began = time.monotonic()
    with Ahead([("a", "time:sleep", 600)], seconds=900):
        pass
    assert time.monotonic() - began < 100, "what nobody waits for any more is ended"


class Answering:
    """Stands in for processes: answers with what it is given, and forgets nothing."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked, self.renewed = answer, [], 0

    def ask(self, function: str, case: Any, key: Any = "", seconds: float = 60.0) -> dict[str, Any]:
        self.asked.append((function, case, key))
        found: dict[str, Any] = self.answer(case) if callable(self.answer) else self.answer
        return found

    ask_within = Processes.ask_within

    def renew(self) -> None:
        self.renewed += 1


def test_a_kernel_whose_process_dies_is_broken_and_the_others_are_timed() -> None:
    def answer(case: dict[str, Any]) -> dict[str, Any]:
        if case["kernel"] == "rope":
            return {"failed": "The process ended with signal SIGSEGV."}
        if case["compiler"]:
            return {"failed": "It took more than 60 s."}
        if case["kernel"] == "nf4" and not case["alone"]:
            return {"kernel": "nf4", "case": {"n": 1}, "passed": False, "broken": "AcceleratorError: a rival's"}
        return timed(case["kernel"], case["number"])

    processes: Any = Answering(answer)
    found = dict(gpu.kernel_rows(False, processes, lambda: 500.0))
    last = {row["kernel"]: row for row in found.values()}
    assert last["rope"]["broken"].endswith("SIGSEGV.")
    assert last["swiglu"]["failed"] == {"torch.compile": "It took more than 60 s."}
    assert "seconds" in last["swiglu"], "what was timed before the compiler ran stays"
    assert "seconds" in last["nf4"], "a rival that crashes is not the kernel's fault"
    used, known = gpu.verdicts(list(found.values()), PASSED)
    assert set(used) == set(KERNELS) - {"rope"}
    assert known == set(KERNELS)
    nothing = dict(gpu.kernel_rows(False, processes, lambda: 0.0))
    assert {row["left_out"] for row in nothing.values()} == {NO_TIME}
    assert gpu.verdicts(list(nothing.values()), PASSED) == ({}, set())


def test_a_process_in_which_a_capture_failed_is_not_used_again() -> None:
    """It may have left the allocator in the middle of it. What was timed is good."""

    def answer(case: dict[str, Any]) -> dict[str, Any]:
        row = timed(case["kernel"], case["number"])
        row["seconds"]["reference"]["captured"] = case["kernel"] != "rope"
        return row

    processes: Any = Answering(answer)
    found = dict(gpu.kernel_rows(False, processes, lambda: 500.0))
    assert all("seconds" in row for row in found.values())
    assert processes.renewed == sum(case["kernel"] == "rope" for _, case, _ in processes.asked) > 1


def test_a_part_that_raises_is_a_failure_and_the_next_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what was measured until then is in its record."""

    def kernel_rows(*_: Any) -> Any:
        for place, (name, number) in enumerate(gpu.kernel_cases(False)):
            if name == "rope" or (name, number) == ("swiglu", 0):
                yield place, timed(name, number + 1)
        raise RuntimeError("an illegal access")

    def step_rows(*_: Any) -> Any:
        case = {"shape": "tiny", "method": "lora"}
        yield {**case, "way": "stock", "seconds": [0.02, 0.02], "peak_bytes": 2**30}
        yield {**case, "way": "graphed", "seconds": [0.01, 0.01], "peak_bytes": 2**30}
        yield {**case, "way": "eager", "failed": "no"}

    ceilings = {"bytes_per_second": 1e12, "flops_per_second": 1e14}
    monkeypatch.setattr(gpu, "kernel_rows", kernel_rows)
    monkeypatch.setattr(gpu, "run_rows", lambda *_: iter([{"method": "lora", "left_out": NO_TIME}]))
    monkeypatch.setattr(gpu_steps, "rows", step_rows)
    monkeypatch.setattr(gpu_steps, "wanted", lambda *_: [])
    monkeypatch.setattr(gpu_memory, "wanted", lambda *_: [])
    monkeypatch.setattr(gpu_memory, "rows", lambda *_: iter([]))
    monkeypatch.setattr(gpu_tests, "run", lambda *_: {**NOTHING, "passed": 3, "kernels": PASSED})
    monkeypatch.setattr(Processes, "ask", lambda *_, **__: ceilings)
    all_of_it = gpu.Everything(False, 500.0, tmp_path / "records", tmp_path / "kernels", tmp_path / "measured.json")
    all_of_it.about = {"device": "A Card", "capability": "9.0", "date": "2000-01-01", "versions": {}}
    all_of_it.go()
    all_of_it.table()
    assert len(all_of_it.failures) == 2, all_of_it.failures
    assert any("illegal access" in why for why in all_of_it.failures)
    assert gpu.told(all_of_it.failures, "fine") == 1
    kernels = json.loads((tmp_path / "kernels" / "a_card.json").read_text(encoding="utf-8"))
    assert {row["kernel"] for row in kernels["rows"] if "seconds" in row} == {"rope", "swiglu"}
    assert len(kernels["rows"]) == len(gpu.kernel_cases(False)), "what was not reached is listed"
    assert json.loads((tmp_path / "measured.json").read_text(encoding="utf-8")) == {
        "9.0": {"rope": {"from": 1, "to": None}}
    }
    steps = json.loads((tmp_path / "records" / "gpu_a_card.json").read_text(encoding="utf-8"))
    assert [row.get("times_stock") for row in steps["steps"]] == [1.0, 2.0, None]
    assert steps["tests"]["passed"] == 3
    assert not (tmp_path / "records" / "gpu_memory_a_card.json").exists(), "nothing was measured for it"
    assert "3 passed" in capsys.readouterr().out


def test_a_record_grows_beside_its_place(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "record.json"
    record = gpu.Record(path, {"device": "none"})
    record.finish(True)
    assert not path.exists()
    record.write(rows=[1])
    assert not path.exists()
    assert json.loads(record.part.read_text(encoding="utf-8")) == {"device": "none", "rows": [1]}
    path.write_text("an older one", encoding="utf-8")
    record.finish(False)
    assert path.read_text(encoding="utf-8") == "an older one"
    record.finish(True)
    assert json.loads(path.read_text(encoding="utf-8"))["rows"] == [1]
    assert not record.part.exists()


def test_what_a_part_leaves_of_its_time_goes_to_those_after_it() -> None:
    now = 0.0
    budget = gpu.Budget(145.0, lambda: now)
    given = budget.begin("tests")
    assert given == pytest.approx(145 * gpu.SHARES["tests"] / sum(gpu.SHARES.values()))
    now = 145.0 - sum(gpu.SHARES[name] for name in ("steps", "runs", "memory")) * 10
    assert budget.left() == 0.0
    assert budget.begin("steps") == pytest.approx(10 * gpu.SHARES["steps"])
    now = 146.0
    assert budget.begin("memory") == 0.0
    assert gpu.SECONDS < 590


# --- the order of cases, and what is missing --------------------------------------------------------------------------


def test_what_was_promised_is_measured_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = gpu_steps.cases(dry=False)
    pairs = list(dict.fromkeys((c["shape"], c["method"]) for c in cases))
    assert pairs[:4] == [
        ("Llama-3.1-8B", "qlora"),
        ("Llama-3.1-8B", "lora"),
        ("Llama-3.2-1B", "qlora"),
        ("tiny", "lora"),
    ]
    assert len(cases) == len(gpu_steps.WAYS) * len(pairs) == 3 * 3 * 4, "every shape, every method"
    assert len({c["process"] for c in cases}) == 5, "a process for each shape, and one for what comes last"
    seen = [c["process"] for c in cases]
    assert seen == sorted(seen, key=seen.index), "none begins again"
    monkeypatch.setattr(gpu_steps.importlib.util, "find_spec", lambda name: None)
    processes: Any = Answering({"seconds": [1.0]})
    ahead: Any = Answering({})
    ahead.get = lambda *_: {"bytes": 5}
    found = list(gpu_steps.rows(False, processes, ahead, lambda: 100.0))
    assert {r["left_out"] for r in found if r["method"] == "qlora" and r["way"] != "stock"} == {
        "Not installed: bitsandbytes."
    }
    assert {r["left_out"] for r in found if r["method"] == "lora" and r["way"] == "stock"} == {
        "Not installed: accelerate, peft."
    }
    assert all("seconds" in r for r in found if r["method"] != "qlora" and r["way"] != "stock")
    assert {case["bytes"] for _, case, _ in processes.asked if case["shape"] != "tiny"} == {5}
    assert all(r["left_out"] for r in gpu_steps.rows(False, processes, ahead, lambda: 1.0))


def test_missing_packages_are_named_and_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from core import hardware
    from core.train import versions

    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("deltalab", "bitsandbytes"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(hardware, "_installed", hardware._installed.__wrapped__)  # (it keeps what it found)
    found = versions()
    assert (found["deltalab"], found["bitsandbytes"]) == ("missing", "missing")
    assert found["torch"] == torch.__version__


# --- the tests --------------------------------------------------------------------------------------------------------

NOTHING = {"passed": 0, "skipped": 0, "not_run": 0, "failed": [], "failed_first": [], "broken": [], "kernels": {}}
FILE = gpu_tests.KERNELS
OUTPUT = f"""collecting ... collected 9 items / 2 deselected / 7 selected

{FILE}::test_outputs_and_gradients[nf4-0-dtype0] PASSED [ 14%]
{FILE}::test_outputs_and_gradients[nf4_lora_linear-1-dtype2] FAILED [ 28%]
{FILE}::test_a_size_as_in_training[nf4] PASSED [ 42%]
{FILE}::test_registration FAILED [ 57%]
tests/core/test_fast_gpu.py::test_of[a b] SKIPPED (needs a card) [ 71%]
tests/core/test_fast_gpu.py::test_next """
SUMMARY = f"""PASSED [ 85%]
=== short test summary info ===
FAILED {FILE}::test_outputs_and_gradients[nf4_lora_linear-1-dtype2] - AssertionError: off by 1e-1
FAILED {FILE}::test_registration - RuntimeError: x
=== 2 failed ===
"""


def test_what_a_session_says_is_read() -> None:
    told = gpu_tests.read(OUTPUT + SUMMARY, killed=False, code=1)
    assert [told["results"][t] for t in sorted(told["results"])].count("passed") == 3
    assert told["results"]["tests/core/test_fast_gpu.py::test_of[a b]"] == "skipped"
    assert told["reasons"][f"{FILE}::test_registration"] == "RuntimeError: x"
    assert (told["not_run"], told["broken"]) == (1, "")
    passed = gpu_tests.kernels_passed(told["results"], KERNELS, dict.fromkeys(KERNELS, True))
    assert passed["nf4"] is True
    assert passed["nf4_lora_linear"] is False
    assert passed["rope"] is None
    assert gpu_tests.kernels_passed(told["results"], KERNELS, dict.fromkeys(KERNELS, False))["nf4"] is None
    failed = [t for t, word in told["results"].items() if word == "failed"]
    assert list(gpu_tests.again(failed, KERNELS)) == ["nf4_lora_linear", FILE]


def test_a_session_that_is_killed_or_crashes_says_what_it_can() -> None:
    killed = gpu_tests.read(OUTPUT, killed=True, code=-9)
    assert (len(killed["results"]), killed["not_run"], killed["broken"]) == (5, 2, "")
    crashed = gpu_tests.read(OUTPUT + "Fatal Python error: Segmentation fault\n", killed=False, code=-11)
    assert crashed["results"]["tests/core/test_fast_gpu.py::test_next"] == "failed"
    assert gpu_tests.read("ImportError: no torch\n", killed=False, code=4)["broken"] == "ImportError: no torch"


def test_only_files_with_tests_for_a_card_are_read() -> None:
    found = gpu_tests.files()
    assert FILE in found
    assert {"tests/core/test_train_gpu.py", "tests/core/test_fast_gpu.py", "tests/oracles/test_bitsandbytes_gpu.py",
            "tests/core/test_hardware.py"} <= set(found)  # fmt: skip
    assert len(found) < 12
    assert "tests/test_gpu.py" not in found


# --- the command ------------------------------------------------------------------------------------------------------

PYTHON = """#!/bin/sh
# Stands in for Python: says what it is asked to run; the environment's has no torch, pip has no network.
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"-m pip"*) echo "no network" >&2; exit 1 ;;
  *find_spec*) case "$0" in .venv/*) exit 1 ;; esac ;;
  *"-m tests.gpu"*) echo "$0 ran $*" ;;
esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_without_a_network_the_python_that_is_there_is_taken(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("python3", "python3.11", "python3.12"):
        (tools / name).write_text(PYTHON, encoding="utf-8")
        (tools / name).chmod(0o755)

    def run() -> str:
        environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "MAKEFLAGS": ""}
        done = subprocess.run(
            ["make", "gpu", "GPU_ARGS=--dry-run"], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "python3.11 ran -m tests.gpu --dry-run" in run()
    (tmp_path / ".venv" / "bin" / "python").write_text(PYTHON.replace(".venv/*) exit 1", "none) exit 1"), "utf-8")
    assert ".venv/bin/python ran -m tests.gpu --dry-run" in run()
