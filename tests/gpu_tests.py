"""The test part of `make gpu`: the tests marked `gpu`, within a time, in processes beside each other.

Only files that carry the mark are named, so that the others, and what they import, need not be there. The kernels' file
has a process of its own; the others share theirs, each process taking every n-th test (this module is their pytest
plugin). A test that failed is run again with nothing beside it, the kernels' in one process for each kernel: an illegal
access spoils every test after it in its process. (Where the kernels' process crashed, all of theirs are run so.) What
failed twice has failed. What was not reached is counted.

What each kernel's tests say (`kernels_passed`) decides whether that kernel may be used, whatever the others do.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Any

from tests.gpu_process import ROOT, end_group

KERNELS = "tests/kernels/test_kernels_gpu.py"
SHARE, ONLY = "DELTALAB_GPU_TESTS_SHARE", "DELTALAB_GPU_TESTS_KERNEL"  # what a session is told
MARK = re.compile(r"^\s*(?:@|pytestmark = \[?\s*)?pytest\.mark\.gpu\b", re.M)
RESULT = re.compile(r"^(tests/\S+?\.py::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.M)
REASON = re.compile(r"^(?:FAILED|ERROR) (tests/\S+?\.py::.+?) - (.+)$", re.M)
BEGUN = re.compile(r"^(tests/\S+?\.py::\S+)", re.M)
CHOSEN = re.compile(r"collected (\d+) items?(?: / \d+ deselected / (\d+) selected)?")
ONE_TEST = 120  # seconds that a test may take, where pytest-timeout is installed


def files() -> list[str]:
    """The files with tests for a card."""
    found = [p for p in sorted((ROOT / "tests").rglob("test_*.py")) if MARK.search(p.read_text(encoding="utf-8"))]
    return [p.relative_to(ROOT).as_posix() for p in found]


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Keep every n-th test, as SHARE says ("2/3": the second of three), and of one kernel, if ONLY names it. What
    trains in four bits is skipped where bitsandbytes is not installed."""
    import pytest

    if importlib.util.find_spec("bitsandbytes") is None:
        for item in items:
            if getattr(getattr(item, "callspec", None), "params", {}).get("method") == "qlora":
                item.add_marker(pytest.mark.skip(reason="Not installed: bitsandbytes."))
    number, _, count = os.environ.get(SHARE, "1/1").partition("/")
    kept = items[int(number) - 1 :: int(count)]
    if ONLY in os.environ:
        kept = [item for item in kept if kernel_of(item.nodeid, [os.environ[ONLY]])]
    chosen = set(map(id, kept))
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in chosen])
    items[:] = kept


class Session:
    """One process of pytest, which writes into a file: what it has written is there when it is killed."""

    def __init__(
        self, chosen: Sequence[str], share: str = "1/1", more: Sequence[str] = (), only: str | None = None
    ) -> None:
        told = {SHARE: share, "COLUMNS": "1000", **({} if only is None else {ONLY: only})}
        self.output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `ended`)
        command = [sys.executable, "-m", "pytest", "-v", "--color=no", "-m", "gpu", "-p", "tests.gpu_tests"]
        command += ["-p", "no:cacheprovider", "-o", "console_output_style=classic", *more, *chosen]
        if importlib.util.find_spec("pytest_timeout") is not None:
            command[3:3] = ["--timeout", str(ONE_TEST)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **told}, stdin=subprocess.DEVNULL,
            stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.killed = False

    def ended(self, until: float) -> str:
        """What it has written, when it has ended or (time.monotonic()) the time is up."""
        try:
            self.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.killed = True
        self.end()
        self.output.seek(0)
        text = self.output.read().decode(errors="replace")
        self.output.close()
        return text

    def end(self) -> None:
        """End it, and whatever it has started."""
        end_group(self.process)


def read(text: str, killed: bool, code: int | None) -> dict[str, Any]:
    """What a session says.

    Returns:
        results: id -> passed, failed or skipped. reasons: of failures. not_run: number of tests that were not reached.
        broken: why the session itself is no result, '' if it is one.
    """
    results: dict[str, str] = {}
    for name, word in RESULT.findall(text):
        told = {"PASSED": "passed", "XFAIL": "passed", "SKIPPED": "skipped"}.get(word, "failed")
        results[name] = "failed" if "failed" in (told, results.get(name)) else told
    reasons = {name: why[:300] for name, why in REASON.findall(text)}
    counted = CHOSEN.search(text)
    chosen = int(counted.group(2) or counted.group(1)) if counted else 0
    if not killed and code not in (0, 1, 5):
        running = [name for name in BEGUN.findall(text) if not any(known.startswith(name) for known in results)]
        if running:  # the interpreter has crashed in it
            results[running[-1]] = "failed"
            reasons[running[-1]] = f"pytest ended with {code}"
    broken = ""
    if counted is None or (not killed and code not in (0, 1, 5) and not results):
        broken = (text.strip().splitlines() or ["no output"])[-1][:300]
    return {"results": results, "reasons": reasons, "not_run": max(0, chosen - len(results)), "broken": broken}


def kernel_of(test: str, kernels: Iterable[str]) -> str | None:
    """The kernel that a test of the kernels' file is about."""
    found = re.search(r"\[(.+)\]", test)
    first = found.group(1).split("-")[0] if test.startswith(KERNELS) and found else ""
    return first if first in kernels else None


def again(failed: Iterable[str], kernels: Iterable[str]) -> dict[str, list[str]]:
    """The tests that are to be run again, by process: a kernel's, or a file's."""
    found: dict[str, list[str]] = {}
    for test in failed:
        found.setdefault(kernel_of(test, kernels) or test.partition("::")[0], []).append(test)
    return found


def run(seconds: float, kernels: Sequence[str], beside: int = 1) -> dict[str, Any]:
    """Run them.

    Args:
        seconds: in all; what has not ended by then is ended. kernels: names of all. beside: processes at a time for
            what is not the kernels'.

    Returns:
        passed, skipped, not_run: numbers. failed: [{"test", "why"}]. failed_first: ids of tests that failed beside
        others and passed alone. broken: sessions that gave no result, why. kernels: name -> whether its tests passed
        (None: not known).
    """
    until = time.monotonic() + seconds
    if importlib.util.find_spec("pytest") is None:
        return {"passed": 0, "skipped": 0, "not_run": 0, "failed": [], "failed_first": [], "kernels": {},
                "left_out": "Not installed: pytest.", "broken": []}  # fmt: skip
    with ExitStack() as stack:
        return _run(until, seconds, kernels, beside, stack)


def _run(until: float, seconds: float, kernels: Sequence[str], beside: int, stack: ExitStack) -> dict[str, Any]:
    def begun(chosen: Sequence[str], share: str = "1/1", only: str | None = None) -> Session:
        session = Session(chosen, share, only=only)
        stack.callback(session.end)  # whatever happens meanwhile
        return session

    others = [file for file in files() if file != KERNELS]
    sessions = [begun([KERNELS])] + [begun(others, f"{n + 1}/{beside}") for n in range(beside) if others]
    told = [_told(session, until - 0.25 * seconds) for session in sessions]
    results: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for one in told:
        results |= one["results"]
        reasons |= one["reasons"]
    whole = dict.fromkeys(kernels, not sessions[0].killed and not told[0]["not_run"])
    first = [test for test, word in results.items() if word == "failed"]
    to_repeat = again(first, kernels)
    if not sessions[0].killed and told[0]["not_run"]:  # crashed: each kernel's tests by themselves, then
        alone = {name: begun([KERNELS], only=name) for name in kernels}
        told[0]["not_run"] = 0
        for name, session in alone.items():
            one = _told(session, until)
            results |= one["results"]
            reasons |= one["reasons"]
            told.append(one)
            whole[name] = not session.killed and not one["not_run"]
            to_repeat.pop(name, None)
    for chosen in to_repeat.values():
        if time.monotonic() > until - 10:
            break
        second = _told(begun(chosen), until)
        results |= second["results"]
        reasons |= second["reasons"]
    words = list(results.values())
    return {
        "passed": words.count("passed"), "skipped": words.count("skipped"),
        "not_run": sum(one["not_run"] for one in told),
        "failed": [{"test": t, "why": reasons.get(t, "")} for t, word in results.items() if word == "failed"],
        "failed_first": [test for test in first if results[test] != "failed"],
        "broken": [one["broken"] for one in told if one["broken"]],
        "kernels": kernels_passed(results, kernels, whole),
    }  # fmt: skip


def _told(session: Session, until: float) -> dict[str, Any]:
    text = session.ended(until)
    return read(text, session.killed, session.process.returncode)


def kernels_passed(
    results: dict[str, str], kernels: Iterable[str], whole: Mapping[str, bool]
) -> dict[str, bool | None]:
    """Whether each kernel's own tests passed. None: some were not reached (it is not `whole`), or none ran."""
    found: dict[str, bool | None] = {}
    for name in kernels:
        words = [word for test, word in results.items() if kernel_of(test, [name])]
        found[name] = False if "failed" in words else (True if whole[name] and "passed" in words else None)
    return found


def line(told: dict[str, Any]) -> str:
    """What they said, for a person."""
    if "left_out" in told:
        return str(told["left_out"])
    parts = [f"{told['passed']} passed", f"{len(told['failed'])} failed", f"{told['skipped']} skipped"]
    parts += [f"{told['not_run']} not reached"] if told["not_run"] else []
    parts += [f"{len(told['failed_first'])} passed only alone"] if told["failed_first"] else []
    parts += [f"no result: {why}" for why in told["broken"]]
    return ", ".join(parts)


def collected() -> dict[str, Any]:
    """For a rehearsal: the tests are found and can be imported."""
    session = Session(files(), more=["--collect-only"])
    text = session.ended(time.monotonic() + 1200)
    counted = CHOSEN.search(text)
    names = [line for line in text.splitlines() if "<Function" in line or "::" in line]
    number = int(counted.group(2) or counted.group(1)) if counted else len(names)
    return {"found": number, "code": session.process.returncode, "last": (text.strip().splitlines() or [""])[-1]}


def failures(told: dict[str, Any]) -> Iterator[str]:
    """What counts as a failure of the run."""
    yield from (f"test {one['test']}: {one['why']}" for one in told.get("failed", []))
    yield from (f"tests: {why}" for why in told.get("broken", []))
