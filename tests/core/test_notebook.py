"""Kernels: what code says as plain data, the limits, and who can reach what. Real processes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.errors import BadInput, Refused
from core.notebook import outputs, permission, sandbox
from core.notebook.kernel import Execution
from core.notebook.kernels import Kernels
from core.units import GIB, MIB

OWNER, OTHER = "the-learner", "somebody-else"
Run = Callable[..., Execution]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernels]:
    """One learner's kernel for all tests of this file that do not end it."""
    made = Kernels(tmp_path_factory.mktemp("home"), most=2, most_bytes=GIB)
    os.environ["DELTALAB_SECRET"] = "not-for-learners"
    yield made
    del os.environ["DELTALAB_SECRET"]
    made.close()


def wait(execution: Execution, seconds: float = 60) -> Execution:
    deadline = time.monotonic() + seconds
    while not execution.over:
        assert time.monotonic() < deadline, execution
        time.sleep(0.02)
    return execution


@pytest.fixture
def run(kernels: Kernels) -> Run:
    """run(code) -> how it went."""

    def one(code: str, *, owner: str = OWNER, seconds: float = 20, name: str = "03_a/cell", **how: Any) -> Execution:
        return wait(kernels.run(owner, name, code, seconds=seconds, **how), seconds + 60)

    return one


def said(execution: Execution) -> str:
    return outputs.printed(execution.outputs.snapshot())


def test_what_code_says_comes_as_plain_data(run: Run) -> None:
    done = run("import sys\nprint('one')\nprint('two')\nprint('oh', file=sys.stderr)\n6 * 7")
    assert done.end == "ok"
    assert done.outputs.snapshot() == [
        {"kind": "text", "name": "stdout", "text": "one\ntwo\n"},
        {"kind": "text", "name": "stderr", "text": "oh\n"},
        {"kind": "value", "text": "42"},
    ]


def test_tables_and_figures_are_data(run: Run) -> None:
    done = run(
        "import pandas as pd\nimport plotly.graph_objects as go\nfrom IPython.display import display\n"
        "display(pd.DataFrame({'rank': [1, 8], 'loss': [0.5, float('nan')]}, index=['a', 'b']))\n"
        "go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))"
    )
    table, figure = done.outputs.snapshot()
    assert table == {
        "kind": "table", "columns": ["index", "rank", "loss"], "rows": [["a", 1, 0.5], ["b", 8, "nan"]], "total": 2,
    }  # fmt: skip
    assert figure["kind"] == "figure"
    assert figure["figure"]["data"][0]["type"] == "scatter"


def test_an_error_names_the_learners_own_lines(run: Run) -> None:
    run("def halve(x):\n    return x / 0\n", name="03_a/earlier")
    done = run("import json\ny = 1\nhalve(y)")
    assert done.end == "error"
    (error,) = done.outputs.snapshot()
    assert (error["name"], error["message"], error["line"]) == ("ZeroDivisionError", "division by zero", 3)
    assert error["frames"] == [
        {"line": 3, "name": "", "text": "halve(y)", "here": True},
        {"line": 2, "name": "halve", "text": "return x / 0", "here": False},
    ]
    (inside,) = run("import json\njson.loads('{')").outputs.snapshot()
    assert inside["line"] == 2
    assert inside["where"].startswith("decoder.py, line ")
    (syntax,) = run("x = 1\nif x\n    pass").outputs.snapshot()
    assert (syntax["name"], syntax["line"]) == ("SyntaxError", 2)
    (ask,) = run("input('Your name?')").outputs.snapshot()
    assert "input() cannot ask here" in ask["message"]


def test_cells_share_a_namespace_and_the_checkouts_core(run: Run) -> None:
    import core

    run("shared = 'still here'")
    assert "still here" in said(run("print(shared)"))
    assert str(Path(core.__file__)) in said(run("import core\nprint(core.__file__)"))


def test_another_learner_reaches_another_kernel(run: Run, kernels: Kernels) -> None:
    run("mine = 'a secret of mine'")
    theirs = run("print('mine' in globals())", owner=OTHER)
    assert said(theirs).strip() == "False"
    assert kernels.last(OTHER, "03_a/cell") is theirs
    assert kernels.last(OWNER, "03_a/cell") is not theirs
    before = kernels._kernels[OWNER].pid
    kernels.restart(OTHER)
    kernels.interrupt("nobody")
    assert kernels.alive(OWNER)
    assert kernels._kernels[OWNER].pid == before
    assert not kernels.alive(OTHER)


def test_nothing_of_the_servers_environment_is_in_the_kernel(run: Run, kernels: Kernels) -> None:
    done = run("import os\nprint(sorted(os.environ))\nprint(os.getcwd())\nprint(os.environ['DELTALAB_HOME'])")
    names, cwd, home = said(done).strip().splitlines()
    assert "DELTALAB_SECRET" not in names
    assert "not-for-learners" not in said(run("import os\nprint(dict(os.environ))"))
    assert Path(cwd).name == "work"
    assert Path(home) != kernels.home
    assert OWNER not in cwd


def test_a_loop_without_end_is_stopped_and_what_was_defined_stays(run: Run, kernels: Kernels) -> None:
    run("kept = 'kept'")
    done = run("while True:\n    pass", seconds=1)
    assert done.end == "too_long"
    assert "ran longer than 1 s" in done.sentence
    assert said(run("print(kept)")).strip() == "kept"

    running = kernels.run(OWNER, "03_a/loop", "import time\nwhile True:\n    time.sleep(0.01)", seconds=30)
    waiting = kernels.run(OWNER, "03_a/after", "print('never')", seconds=30)
    assert kernels.run(OWNER, "03_a/loop", "print('twice')", seconds=30) is running
    while running.phase != "running":
        time.sleep(0.02)
    time.sleep(0.3)
    kernels.interrupt(OWNER)
    assert wait(running).end == "interrupted"
    assert running.seconds < 5
    assert wait(waiting).end == "dropped"
    assert said(waiting) == ""
    assert said(run("print(kept)")).strip() == "kept"


def test_a_flood_of_output_is_cut(run: Run) -> None:
    done = run("for i in range(200_000):\n    print('a line of some length')")
    assert done.end == "ok"
    text, note = done.outputs.snapshot()
    assert len(text["text"]) == outputs.MOST_CHARACTERS
    assert "more than fits" in note["text"]


def test_one_print_of_everything_does_not_reach_the_server(run: Run) -> None:
    done = run("print('x' * 40_000_000)")
    assert done.end == "ok"
    assert done.outputs.snapshot() == [{"kind": "note", "text": "A part of the output was too large to be shown."}]
    assert said(run("print('after it')")).strip() == "after it"


def test_too_much_at_once_is_an_error_and_too_much_in_all_ends_the_kernel(run: Run) -> None:
    (error,) = run("x = bytearray(60 * 2**30)").outputs.snapshot()
    assert error["name"] == "MemoryError"
    assert "not enough memory" in error["message"]
    bomb = "held = []\nwhile True:\n    held.append(bytearray(20_000_000))"
    done = run(bomb, owner=OTHER, seconds=120)
    assert (done.end, done.sentence[:15]) in [("too_large", "Your code took "), ("error", "")]
    assert said(run("print('there again')", owner=OTHER)).strip() == "there again"


def test_what_code_holds_in_all_is_limited(tmp_path: Path) -> None:
    small = Kernels(tmp_path, most_bytes=250 * MIB)
    try:
        done = wait(
            small.run(OWNER, "a/b", "held = []\nwhile True:\n    held.append(bytearray(1_000_000))", seconds=30)
        )
        assert done.end == "too_large"
        assert "a cell may take 250 MiB" in done.sentence
        assert not small.alive(OWNER)
        assert said(wait(small.run(OWNER, "a/b", "print('again')", seconds=30))).strip() == "again"
    finally:
        small.close()


def test_a_killed_kernel_is_told_and_comes_back(run: Run, kernels: Kernels) -> None:
    execution = kernels.run(OTHER, "03_a/cell", "import time\nprint('on', flush=True)\ntime.sleep(30)", seconds=40)
    while not said(execution):
        time.sleep(0.05)
    pid = kernels._kernels[OTHER].pid
    assert pid is not None
    for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
        os.kill(process.pid, signal.SIGKILL)
    assert wait(execution).end == "died"
    assert "killed from outside" in execution.sentence
    assert "run them again" in execution.sentence
    assert said(run("print('back')", owner=OTHER)).strip() == "back"


def test_code_that_leaves_is_told(run: Run) -> None:
    done = run("import os\nos._exit(3)", owner=OTHER)
    assert done.end == "died"
    assert "ended by itself" in done.sentence


def test_exit_ends_the_kernel_under_the_cell_that_calls_it(run: Run) -> None:
    for leave in ("exit()", "quit()"):
        done = run(f"x = 1\nprint('so far')\n{leave}", owner=OTHER)
        assert done.end == "died", leave
        assert "ended by itself" in done.sentence
        assert said(done).strip() == "so far"
        assert said(run("'x' in globals()", owner=OTHER, name="03_a/next")) == "False"


def test_to_leave_by_an_error_leaves_the_kernel_as_it_is(run: Run) -> None:
    (told,) = run("kept = 5\nimport sys\nsys.exit(3)").outputs.snapshot()
    assert (told["name"], told["line"]) == ("SystemExit", 3)
    assert "still there" in told["message"]
    assert said(run("kept")) == "5"


def test_kernels_end_with_the_server(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = (
        "import sys, time\nfrom pathlib import Path\nfrom core.notebook.kernels import Kernels\n"
        f"k = Kernels(Path({str(tmp_path)!r}))\ne = k.run('me', 'a/b', '1', seconds=30)\n"
        "while not e.over: time.sleep(0.05)\nprint(k._kernels['me'].pid, flush=True)\ntime.sleep(60)\n"
    )
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    pid = int(server.stdout.readline())
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    server.kill()
    server.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def test_only_so_many_at_once_and_the_idle_make_room(tmp_path: Path) -> None:
    two = Kernels(tmp_path, most=1, idle_seconds=1.0)
    try:
        busy = two.run("one", "a/b", "import time\ntime.sleep(3)", seconds=30)
        with pytest.raises(Refused, match="All 1 kernels of this server are at work"):
            two.run("two", "a/b", "1", seconds=30)
        assert wait(busy).end == "ok"
        time.sleep(0.1)
        assert wait(two.run("two", "a/b", "1", seconds=30)).end == "ok"
        assert not two.alive("one")
        deadline = time.monotonic() + 10
        while two.alive("two") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not two.alive("two")  # nobody has asked for a second
        assert wait(two.run("two", "a/b", "print(1)", seconds=30)).end == "ok"
    finally:
        two.close()


CHECKS = Path(__file__).parents[1] / "browser" / "lessons" / "00_code" / "checks.py"


def test_exercises_are_checked_where_the_code_ran(run: Run) -> None:
    ask = {"name": "03_a/count", "check": (str(CHECKS), "count_them")}
    right = run("def count(d, k, r):\n    print('tried')\n    return r * (d + k)", **ask)
    verdict = right.outputs.snapshot()[-1]
    assert verdict == {"kind": "verdict", "right": True, "text": "B has d times r numbers and A has r times k."}
    wrong = run("def count(d, k, r):\n    return d * r", **ask)
    assert wrong.outputs.snapshot() == [
        {"kind": "verdict", "right": False, "text": "There are two thin matrices; count the numbers in both."}
    ]
    raising = run("def count(d, k, r):\n    return d + 'r'", **ask).outputs.snapshot()[-1]
    assert "raised TypeError in line 2 of your code" in raising["text"]
    # What the last try has defined is no answer of this one.
    assert "Define a function" in said(run("x = 1", **ask))
    assert run("1 / 0", **ask).outputs.snapshot()[-1]["kind"] == "error"
    endless = run("def count(d, k, r):\n    while True: pass", **ask, seconds=1)
    assert endless.end == "too_long"


@pytest.mark.skipif(not sandbox.sandbox().on, reason=f"no sandbox here: {sandbox.sandbox().why}")
def test_in_the_sandbox_nothing_else_is_seen(run: Run, kernels: Kernels) -> None:
    (kernels.home / "secret").write_text("the key")
    look = f"""
import os, pathlib, socket
print(pathlib.Path({str(kernels.home / "secret")!r}).exists())
print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit())[-1] < 100)
print(os.path.exists('/proc/{os.getpid()}'))
try:
    socket.create_connection(('127.0.0.1', 22), timeout=1)
except OSError as error:
    print(type(error).__name__)
try:
    open({str(Path(sandbox.ROOT) / "core" / "written.py")!r}, 'w')
except OSError as error:
    print(error.strerror)
open('mine.txt', 'w').write('here I may write')
"""
    seen = said(run(look)).split("\n")[:5]
    assert seen == ["False", "True", "False", "ConnectionRefusedError", "Read-only file system"]


def test_without_a_sandbox_it_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.notebook import kernel

    monkeypatch.setattr(kernel, "sandbox", lambda: sandbox.Sandbox(False, "for a test"))
    bare = Kernels(tmp_path)
    try:
        done = wait(bare.run(OWNER, "a/b", "import os\nprint(os.getppid())", seconds=30))
        assert said(done).strip() == str(os.getpid())
        looping = bare.run(OWNER, "a/b", "while True: pass", seconds=30)
        while looping.phase != "running":
            time.sleep(0.02)
        time.sleep(0.2)
        bare.interrupt(OWNER)
        assert wait(looping).end == "interrupted"
        assert bare.alive(OWNER)
    finally:
        bare.close()


def test_code_that_is_too_long_is_refused(kernels: Kernels) -> None:
    with pytest.raises(Refused, match="16,000 characters"):
        kernels.run(OWNER, "a/b", "x" * 16_001, seconds=1)


# --- without a process ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "reachable", "on"),
    [("", False, True), ("", True, False), ("auto", True, False), ("on", True, True), ("off", False, False)],
)
def test_code_is_off_where_others_can_come(asked: str, reachable: bool, on: bool) -> None:
    found = permission.permission(reachable=reachable, environment={"DELTALAB_CODE": asked})
    assert found.on == on
    assert bool(found.reason) != on


def test_a_choice_that_means_nothing_is_told() -> None:
    with pytest.raises(BadInput, match="DELTALAB_CODE must be one of auto, on, off"):
        permission.permission(reachable=False, environment={"DELTALAB_CODE": "yes please"})


def test_outputs_are_shortened_for_keeping() -> None:
    long = [
        {"kind": "text", "name": "stdout", "text": "ä" * 50_000},
        {"kind": "figure", "figure": {"data": [1] * 9000}},
    ]
    kept = outputs.shortened(long, 8_000)
    assert len(json.dumps(kept)) < 9_000
    assert kept[0]["text"].endswith("(the rest was not kept)")
    assert kept[-1]["kind"] == "note"
    short = [{"kind": "value", "text": "1"}]
    assert outputs.shortened(short, 8_000) == short


def test_progress_bars_are_shown_as_a_terminal_leaves_them() -> None:
    assert outputs.settled("0 %\r50 %\r100 %\nnext\r\n") == "100 %\nnext\n"


def test_folders_of_learners_who_are_gone_are_removed(tmp_path: Path) -> None:
    for name, days in (("old", 90), ("new", 1)):
        (tmp_path / "code" / name / "work").mkdir(parents=True)
        then = time.time() - days * 24 * 3600
        os.utime(tmp_path / "code" / name, (then, then))
    sandbox.Place.sweep(tmp_path)
    assert [p.name for p in (tmp_path / "code").iterdir()] == ["new"]
