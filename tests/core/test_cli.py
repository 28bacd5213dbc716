"""The command line as people use it: answers, mistakes, exit codes, interruption, and the server it starts."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from core import cli
from core.cli.serve import has_display
from tests.checkpoints import FAMILIES, write
from tests.core.runs_support import wait_for

pytestmark = pytest.mark.usefixtures("untraced")

KEYS = {"run", "status", "seconds", "first_loss_seconds", "before", "after", "trainable", "total", "peak_bytes",
        "adapter"}  # fmt: skip
QUICK = ["--set", "steps=3", "batch_size=4", "learning_rate=0.001", "max_length=128", "precision=float32"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "data home"
    monkeypatch.setenv("DELTALAB_HOME", str(folder))
    monkeypatch.delenv("DELTALAB_STORE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it reads the variable once, when imported
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(write("llama_biased", tmp_path_factory.mktemp("bases")))


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> str:
    return str(write("llama", tmp_path_factory.mktemp("bases")))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "mine.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Number {i}?", "completion": f"{i}."}) + "\n" for i in range(24)))
    return str(path)


def ask(capsys, *arguments: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of one command, in this process."""
    capsys.readouterr()
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def spawn(*arguments: str, **more) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "core.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def standbys(child: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers that a server keeps warm."""
    return [p for p in psutil.Process(child.pid).children(recursive=True) if "--standby" in p.cmdline()]


# --- help and mistakes ------------------------------------------------------------------------------------------------


def test_help_answers_at_once():
    """Nothing heavy may be imported for it: that is what makes it quick on any machine."""
    code = (
        "import sys\nfrom core import cli\ncli.main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'sqlalchemy', 'streamlit', 'rich', 'psutil', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for word in ("train", "runs", "chat", "probe", "params", "doctor", "serve"):
        assert word in done.stdout


@pytest.mark.parametrize("command", ["train", "runs", "runs list", "chat", "probe", "params", "doctor", "serve"])
def test_every_command_explains_itself(capsys, command):
    code, out, _ = ask(capsys, *command.split(), "--help")
    assert code == 0
    assert "usage: deltalab" in out


def test_without_a_command_help_is_shown(capsys):
    code, out, _ = ask(capsys)
    assert (code, "COMMAND" in out) == (0, True)
    code, out, _ = ask(capsys, "--version")
    assert code == 0
    assert out.strip()


def test_the_knobs_are_listed_from_their_fields(capsys):
    code, out, _ = ask(capsys, "train", "--task", "json", "--set", "help")
    assert code == 0
    for part in ("rank = 8", "1 to 1024", "learning_rate = by method and task", "schedule = linear", "cosine"):
        assert part in out
    assert ask(capsys, "params", "--method", "bitfit", "--set", "help")[0] == 0


MISTAKES = {
    "train": "task",
    "train --task json --data x": "not allowed with",
    "train --task poetry": "no task 'poetry'; the tasks are json",
    "train --task json --method magic": "no method 'magic'. The methods are full",
    "train --task json --set rank": "--set takes KEY=VALUE, not 'rank'",
    "train --task json --set colour=red": "no setting called 'colour'",
    "train --task json --set rank=many": "rank must be a whole number",
    "train --task json --set rank=0 steps=0": "rank must be at least 1",
    "train --task json --seed many": "invalid int value",
    "train --task json --seed -1": "The seed must be",
    "train --data /no/such.jsonl": "There is no file /no/such.jsonl",
    "train --base /no/such/folder --task json": "There is no folder /no/such/folder",
    "train --base owner/name --task json --json": "HF_HUB_OFFLINE forbids fetching it",
    "runs fly": "invalid choice: 'fly'",
    "runs --limit 0": "at least 1",
    "runs show": "required: RUN",
    "runs show nothing": "There is no run 'nothing'",
    "runs show last": "There are no runs yet",
    "runs cancel nothing": "There is no run",
    "runs delete nothing": "There is no run",
    "runs resume nothing": "There is no run",
    "runs list --limit 0": "at least 1",
    "chat nothing": "There is no run 'nothing'",
    "chat --base /no/such --prompt x": "There is no folder",
    "chat --prompt": "expected one argument",
    "chat --prompt x --only before": "none is named",
    "chat --prompt x --max-new-tokens 0": "from 1 to 4096",
    "chat --prompt x --temperature -1": "from 0 to 10",
    "chat --prompt x --temperature nan": "from 0 to 10",
    "chat --prompt x --seed -1": "--seed must be",
    "chat --prompt x --sides after,merged": "none is named",
    "chat --prompt x --only after --sides before": "not allowed with",
    "params --model /no/such": "There is no folder",
    "params --method magic": "no method 'magic'",
    "params --set rank=-3": "rank must be at least 1",
    "serve --port 99999": "from 0 to 65535",
    "serve --host no.such.host.invalid": "There is no address",
    "fly": "invalid choice: 'fly'",
    "train --task json --fly": "unrecognized arguments",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(capsys, line):
    code, out, err = ask(capsys, *line.split())
    assert code == 2
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert MISTAKES[line].lower() in last.lower()
    assert "Traceback" not in err
    assert last.endswith(".")
    assert len(err.strip().splitlines()) == 1


def test_a_malformed_file_is_named_with_its_line_before_anything_is_loaded(capsys, tmp_path, home):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    code, out, err = ask(capsys, "train", "--data", str(path))
    assert (code, out) == (2, "")
    assert err.startswith("Line 2 of bad.jsonl has no 'completion'")
    assert len(err.splitlines()) == 1


def test_bitfit_without_biases_says_who_has_some(capsys, bare, data):
    code, out, err = ask(capsys, "train", "--base", bare, "--data", data, "--method", "bitfit", "--json", *QUICK)
    assert (code, out) == (2, "")
    assert "bias" in err
    assert len(err.strip().splitlines()) == 1
    assert json.loads(ask(capsys, "runs", "list", "--json")[1])["runs"] == [], "what never began is no run"
    code, out, err = ask(capsys, "params", "--model", bare, "--method", "bitfit", "--json")
    assert (code, out) == (2, "")
    assert "bias" in err


def test_an_empty_prompt_is_a_mistake(capsys):
    code, _, err = ask(capsys, "chat", "--prompt", "  ")
    assert code == 2
    assert "empty" in err


# --- train, runs, chat ------------------------------------------------------------------------------------------------


def test_train_then_look_then_talk_then_delete(capsys, base, data, home):
    code, out, err = ask(
        capsys, "train", "--base", base, "--data", data, "--method", "lora", "--seed", "1", "--title", "Mine", "--json",
        *QUICK,
    )  # fmt: skip
    assert (code, err) == (0, "")
    got = json.loads(out.strip().splitlines()[-1])
    assert set(got) >= KEYS
    assert got["status"] == "finished"
    assert set(got["before"]) >= {"task", "skills"}
    assert 0 <= got["before"]["task"] <= 1
    assert got["after"]["skills"] == {}
    assert 0 < got["trainable"] < got["total"]
    assert 0 < got["first_loss_seconds"] < got["seconds"]
    assert got["peak_bytes"] >= 0
    assert (Path(got["adapter"]) / "adapter_model.safetensors").is_file()
    assert Path(got["adapter"]).is_relative_to(home)

    # The same seed gives the same run; another one does not.
    again = json.loads(ask(capsys, "train", "--base", base, "--data", data, "--seed", "1", "--json", *QUICK)[1])
    other = json.loads(ask(capsys, "train", "--base", base, "--data", data, "--seed", "2", "--json", *QUICK)[1])
    assert again["after"] == got["after"]
    assert other["after"]["loss"] != got["after"]["loss"]

    listed = json.loads(ask(capsys, "runs", "list", "--json")[1])["runs"]
    assert [run["run"] for run in listed] == [other["run"], again["run"], got["run"]]
    assert {k: listed[2][k] for k in got if k != "data"} == {k: v for k, v in got.items() if k != "data"}
    for line in (["--json"], ["list", "--json"], ["--json", "list"]):  # without an action, runs are listed
        assert json.loads(ask(capsys, "runs", *line)[1])["runs"] == listed
    for line in (["--limit", "2"], ["list", "--limit", "2"], ["--limit", "2", "list"]):
        assert ask(capsys, "runs", *line) == ask(capsys, "runs", "list", "--limit", "2")
    assert len(ask(capsys, "runs")[1].splitlines()) == 3
    assert json.loads(ask(capsys, "runs", "--json", "show", "last")[1])["run"] == other["run"]
    code, out, _ = ask(capsys, "runs", "list", "--limit", "1")
    assert code == 0
    assert out.startswith(other["run"])
    assert len(out.splitlines()) == 1
    shown = json.loads(ask(capsys, "runs", "show", got["run"][:8], "--json")[1])
    assert [e["kind"] for e in shown["events"]].count("step") == 3
    assert shown["config"]["settings"]["rank"] == 8
    code, out, _ = ask(capsys, "runs", "show", "last")
    assert code == 0
    assert "learning_rate=0.001" in out
    assert other["run"] in out

    code, out, err = ask(capsys, "chat", got["run"], "--prompt", "Number 3?", "--json", "--max-new-tokens", "5")
    assert code == 0, err
    sides = json.loads(out)
    assert set(sides) == {"prompt", "before", "after"}
    code, out, _ = ask(capsys, "chat", base, "--prompt", "Number 3?", "--json", "--max-new-tokens", "5")
    assert code == 2, "a folder without an adapter is no run"
    plain = json.loads(
        ask(capsys, "chat", "--base", base, "--prompt", "Number 3?", "--json", "--max-new-tokens", "5")[1]
    )
    assert plain == {"prompt": "Number 3?", "answer": sides["before"]}
    alone = ask(capsys, "chat", got["adapter"], "--base", base, "--prompt", "Number 3?", "--only", "after", "--json",
                "--max-new-tokens", "5")  # fmt: skip
    assert json.loads(alone[1])["after"] == sides["after"]
    talk = ["chat", got["run"], "--prompt", "Number 3?", "--json", "--max-new-tokens", "5"]
    every = json.loads(ask(capsys, *talk, "--sides", "merged,before, after")[1])
    assert every == {**sides, "merged": sides["after"]}, "in float32 the merged model decides as the adapter did"
    assert list(every) == ["prompt", "before", "after", "merged"]
    assert json.loads(ask(capsys, *talk, "--only", "merged")[1]) == {"prompt": "Number 3?", "merged": every["merged"]}
    hot = [*talk, "--temperature", "1.5", "--only", "after"]
    drawn = json.loads(ask(capsys, *hot)[1])
    assert drawn["temperature"] == 1.5
    assert json.loads(ask(capsys, *hot, "--seed", str(drawn["seed"]))[1]) == drawn
    for wrong in ("both", ","):
        code, out, err = ask(capsys, *talk, "--sides", wrong)
        assert (code, out) == (2, "")
        assert "side" in err
    code, out, _ = ask(capsys, "chat", "last", "--prompt", "Number 3?", "--max-new-tokens", "5")
    assert code == 0
    assert out.startswith("before: ")

    code, _, err = ask(capsys, "runs", "resume", got["run"])
    assert (code, "finished" in err) == (2, True)
    code, out, _ = ask(capsys, "runs", "cancel", got["run"])
    assert (code, out) == (0, f"{got['run']}: finished\n")
    code, out, _ = ask(capsys, "runs", "delete", got["run"], "last", "--json")
    assert (code, json.loads(out)["deleted"]) == (0, [got["run"], other["run"]])
    assert not Path(got["adapter"]).exists()
    assert [r["run"] for r in json.loads(ask(capsys, "runs", "list", "--json")[1])["runs"]] == [again["run"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_on_every_family(capsys, data, tmp_path, family):
    """A local folder, the person's own data, and their tokenizer's own template: from the file to the saved change."""
    folder = str(write(family, tmp_path))
    for method in ("lora", "qlora") if family == "gpt2" else ("lora",):  # GPT-2's layers are Conv1D
        code, out, err = ask(
            capsys, "train", "--base", folder, "--data", data, "--method", method, "--json", *QUICK, "eval_items=4"
        )
        assert (code, err) == (0, ""), (method, err)
        got = json.loads(out)
        assert got["after"]["loss"] != got["before"]["loss"]
        assert got["before"]["loss"] == pytest.approx(math.log(384), rel=0.15), "untrained: as good as guessing"


def test_people_see_progress_on_standard_error_and_the_result_on_standard_output(capsys, base, data):
    code, out, err = ask(capsys, "train", "--base", base, "--data", data, *QUICK)
    assert code == 0
    for part in ("24 rows of mine.jsonl: 'prompt' is read as the question", "parameters train", "step    0:", "Saved"):
        assert part in err
    assert "before  after" in out
    assert re.search(r"Talk to it: deltalab chat [0-9a-f]{16}", out)


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> str:
    """A file with a row of every kind that a person should know about; the lines are in the test below."""
    rows = [{"prompt": f"Number {i}?", "completion": f"{i}."} for i in range(60)]
    rows[2] = rows[1]
    rows[4] = {"prompt": " number  3?", "completion": "Four."}
    rows[6] = {"prompt": "Silence?", "completion": " "}
    rows[8] = {"prompt": "Long?", "completion": "word " * 300}
    rows += [{"prompt": f"Number {i}", "completion": f"{i}."} for i in range(10, 60)]  # but for the question mark
    path = tmp_path_factory.mktemp("data") / "odd.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ODD = (
    "1 row is longer than 128 tokens and will be left out: line 9.",
    "1 row repeats an earlier one: line 3.",
    "1 row gives another answer to a question asked before: line 5.",
    "1 row has an empty answer, which teaches the model to say nothing: line 7.",
)


def test_what_is_odd_about_the_data_is_said_before_training(capsys, base, odd):
    code, out, err = ask(capsys, "train", "--base", base, "--data", odd, *QUICK)
    assert code == 0
    said = err.splitlines()
    begun = next(i for i, line in enumerate(said) if "parameters train" in line)
    taken = "110 rows of odd.jsonl: 'prompt' is read as the question and 'completion' as the answer."
    for sentence in (taken, *ODD):
        assert sentence in said[:begun], "a line of its own, before anything is trained"
    assert any("in the training rows too, so the score will flatter" in line for line in said[:begun])
    assert not any(sentence in out for sentence in ODD)


def test_data_of_which_nothing_can_be_held_out(capsys, base, tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text("".join(json.dumps({"prompt": "The same?", "completion": f"{i}."}) + "\n" for i in range(24)))
    code, out, err = ask(capsys, "train", "--base", base, "--data", str(path), *QUICK)
    assert code == 0
    assert "Nothing can be held out, because there are fewer than two different questions" in err
    assert "step    0: nothing is held out that could be scored" in err.splitlines()
    assert "Talk to it" in out
    got = json.loads(ask(capsys, "runs", "--json", "show", "last")[1])
    assert (got["before"]["task"], got["after"]["loss"]) == (None, None)
    assert "nothing is held out" in ask(capsys, "runs", "show", "last")[1]


def test_what_is_odd_about_the_data_stands_in_the_json(capsys, base, odd, data):
    code, out, err = ask(capsys, "train", "--base", base, "--data", odd, "--json", *QUICK)
    assert (code, err) == (0, "")
    (line,) = out.splitlines()
    got = json.loads(line)
    assert set(got) >= KEYS
    found = got["data"]
    assert (found["name"], found["format"], found["rows"]) == ("odd.jsonl", "jsonl", 110)
    assert found["train"] + found["held_out"] == 110 == found["counted"]
    assert {k: found[k] for k in ("too_long", "duplicates", "contradictions", "empty_prompts", "empty_answers")} == {
        "too_long": 1, "duplicates": 1, "contradictions": 1, "empty_prompts": 0, "empty_answers": 1,
    }  # fmt: skip
    assert found["leakage"] > 0
    assert found["tokens"]["shortest"] <= found["tokens"]["median"] <= 128 < found["tokens"]["longest"]
    assert set(ODD) < set(found["warnings"])
    assert "'prompt' is read as the question" in found["taken"]
    assert (
        json.loads(ask(capsys, "train", "--base", base, "--data", data, "--json", *QUICK)[1])["data"]["duplicates"] == 0
    )


def test_a_row_that_the_template_refuses_is_named_before_a_run_is_made(capsys, tmp_path):
    folder = write("llama", tmp_path)
    path = folder / "chat_template.jinja"
    path.write_text("{% if 'forbidden' in messages[0].content %}{{ raise_exception('Not that word') }}{% endif %}"
                    + path.read_text())  # fmt: skip
    rows = [*({"prompt": f"{i}?", "completion": "a"} for i in range(3)), {"prompt": "forbidden", "completion": "b"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = ask(capsys, "train", "--base", str(folder), "--data", str(tmp_path / "x.jsonl"), *QUICK)
    assert (code, out) == (2, "")
    assert err.startswith("Line 4 of x.jsonl: ")
    assert "Not that word" in err
    assert len(err.splitlines()) == 1
    assert json.loads(ask(capsys, "runs", "--json")[1])["runs"] == []


def test_a_built_in_task_on_the_embedded_base(capsys):
    from core.base import EMBEDDED_FOLDER

    if not (EMBEDDED_FOLDER / "model.safetensors").exists():
        pytest.skip("the embedded base has not been trained yet")
    code, out, err = ask(
        capsys, "train", "--task", "json", "--json", "--set", "steps=2", "eval_items=4", "skill_items=2",
        "train_examples=64",
    )  # fmt: skip
    assert (code, err) == (0, "")
    got = json.loads(out)
    assert got["task"] == "json"
    assert len(got["before"]["skills"]) == 5
    assert set(got["after"]["skills"]) == set(got["before"]["skills"])


def test_a_run_out_of_time_has_failed(capsys, base, data, monkeypatch):
    monkeypatch.setenv("DELTALAB_MAX_SECONDS", "0.3")
    code, out, err = ask(capsys, "train", "--base", base, "--data", data, "--json", "--set", "steps=100000",
                         "batch_size=4", "learning_rate=0.001", "precision=float32")  # fmt: skip
    assert code == 1
    assert json.loads(out)["status"] == "failed"
    assert "limit" in err
    assert "Traceback" not in err


def test_control_c_leaves_a_run_that_can_be_resumed(capsys, base, data, home):
    child = spawn("train", "--base", base, "--data", data, "--json", "--set", "steps=4000", "batch_size=2",
                  "learning_rate=0.001", "eval_items=4", "eval_every=4000", "precision=float32")  # fmt: skip
    try:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and child.poll() is None:
            runs = json.loads(ask(capsys, "runs", "list", "--json")[1])["runs"] if home.exists() else []
            if runs and runs[0]["step"] > 0:
                break
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=400)
    finally:
        child.kill()
    assert child.returncode == 1, err
    got = json.loads(out)
    assert got["status"] == "interrupted"
    assert 0 < got["step"] < 4000
    assert f"deltalab runs resume {got['run']}" in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    # The rest would take long: a cancelled resumption still goes on from where the first attempt stopped.
    child = spawn("runs", "resume", "last", "--json")
    cancelled: list[str] = []
    try:
        while time.monotonic() < deadline + 400 and child.poll() is None:
            run = json.loads(ask(capsys, "runs", "list", "--json")[1])["runs"][0]
            if run["status"] == "running" and run["step"] > got["step"]:
                break
            time.sleep(0.1)
        # A second resumption of a run that is at work follows it, disturbs nothing, and says nothing until the end.
        cancel = threading.Timer(1, lambda: cancelled.append(spawn("runs", "cancel", got["run"][:6]).communicate()[0]))
        cancel.start()
        code, followed, _ = ask(capsys, "runs", "resume", "last", "--json")
        cancel.join()
        assert code == 1
        assert "stopping after its current step" in cancelled[0]
        out, err = child.communicate(timeout=400)
    finally:
        child.kill()
    assert child.returncode == 1
    resumed = json.loads(out)
    assert json.loads(followed) == resumed
    assert resumed["status"] == "cancelled"
    assert resumed["step"] > got["step"]
    events = json.loads(ask(capsys, "runs", "show", "last", "--json")[1])["events"]
    assert [e["resumed_at"] for e in events if e["kind"] == "started"][-1] == got["step"]
    steps = [e["step"] for e in events if e["kind"] == "step"]
    assert steps == list(range(1, resumed["step"] + 1)), "no step twice and none left out"


def test_a_conversation_from_a_pipe(capsys, monkeypatch, base):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Number 1?\n\nNumber 2?\n"))
    code, out, err = ask(capsys, "chat", "--base", base, "--max-new-tokens", "4", "--json")
    assert (code, err) == (0, "")
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["Number 1?", "Number 2?"]


# --- params, doctor, serve --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "bitfit", "pissa", "vera", "lora_fa", "p_tuning"])
def test_params_are_those_of_the_attached_method(capsys, base, method, tmp_path):
    from core.base import load_base
    from core.methods import METHODS

    code, out, err = ask(capsys, "params", "--model", base, "--method", method, "--json")
    assert (code, err) == (0, "")
    got = json.loads(out)
    model = load_base(base).model
    assert got["total"] == sum(p.numel() for p in model.parameters())
    attached = METHODS[method].apply(model, METHODS[method].Config())
    assert got["trainable"] == sum(p.numel() for p in attached.model.parameters() if p.requires_grad)
    assert got["percent"] == pytest.approx(100 * got["trainable"] / got["total"])
    assert sum(m["trainable"] for m in got["modules"]) == got["trainable"]
    assert set(got) == {"total", "trainable", "percent", "adapter_bytes", "modules"}
    attached.save(tmp_path / "saved")
    saved = sum(f.stat().st_size for f in (tmp_path / "saved").rglob("*.safetensors"))
    assert got["adapter_bytes"] <= saved < got["adapter_bytes"] + 16_384, "but for the file's header"


def test_params_of_a_config_alone(capsys, bare, tmp_path):
    (tmp_path / "config.json").write_text((Path(bare) / "config.json").read_text())
    few = json.loads(ask(capsys, "params", "--model", str(tmp_path), "--set", "rank=1", "--json")[1])
    many = json.loads(ask(capsys, "params", "--model", str(tmp_path), "--set", "rank=4", "--json")[1])
    assert many["trainable"] == 4 * few["trainable"]
    code, out, _ = ask(capsys, "params", "--model", str(tmp_path))
    assert code == 0
    assert "q_proj" in out


def test_doctor(capsys, home):
    code, out, err = ask(capsys, "doctor", "--json")
    assert (code, err) == (0, "")
    got = json.loads(out)
    assert got["precision"] in ("float32", "bfloat16")
    assert got["threads"] >= 1
    assert got["versions"]["torch"]
    assert got["data_folder"] == str(home.resolve())
    assert got["runs"] == 0
    assert got["offline"] is True
    assert got["broken"] == []
    assert got["code"]["sandbox"] or got["code"]["why"]
    code, out, err = ask(capsys, "doctor")
    assert (code, err) == (0, "")
    for part in ("device", "bitsandbytes", "code cells", "threads", str(home.resolve()), "note:"):
        assert part in out


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DELTALAB_STORE", "sqlite:////no/such/folder/runs.db"), ("DELTALAB_STORE", "nonsense"),
     ("DELTALAB_HOME", "/proc/nothing/here")],
)  # fmt: skip
def test_a_store_that_cannot_be_opened_is_said(capsys, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    code, out, err = ask(capsys, "runs", "list")
    assert (code, out) == (2, "")
    assert "cannot be opened" in err
    assert "Traceback" not in err
    code, out, err = ask(capsys, "doctor", "--json")
    assert code == 1
    assert json.loads(out)["broken"]


def test_a_port_in_use_is_said(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = ask(capsys, "serve", "--port", str(port), "--no-browser")
    assert (code, out) == (2, "")
    assert f"Port {port} on 127.0.0.1 cannot be used" in err
    assert "--port 0" in err


@pytest.mark.parametrize(
    ("host", "number", "warm", "calls"),
    [
        # The name that is called, the page that calls, and whether it is let in: a name bent to this address is not;
        ("127.0.0.1", signal.SIGINT, True, [("127.0.0.1", "127.0.0.1", True)]),
        ("127.0.0.1", signal.SIGTERM, True, [("class.example", "class.example", False)]),
        # nor is a page of another site.
        (
            "0.0.0.0",
            signal.SIGTERM,
            False,
            [("class.example", "class.example", True), ("class.example", "evil.example", False)],
        ),
    ],
)
def test_serve_says_where_it_is_is_called_by_that_name_and_ends_with_its_server(host, number, warm, calls, monkeypatch):
    """A page over HTTP, and real websockets, as a page opens them. warm: a worker is kept for the first run, and ends
    with the server."""
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    monkeypatch.setenv("DELTALAB_WARM", str(int(warm)))
    monkeypatch.delenv("STREAMLIT_SERVER_ALLOWED_HOSTS", raising=False)
    alone = host == "127.0.0.1"
    child = spawn("serve", "--host", host, "--port", "0", "--no-browser", *([] if alone else ["--json"]))
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        if alone:
            found = re.match(r"Deltalab: http://127\.0\.0\.1:(\d+)$", line)
            assert found, line
            port = int(found.group(1))
        else:
            told_first = json.loads(line)
            assert set(told_first) == {"url", "host", "port", "pid"}
            port = told_first["port"]
        address = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(address, timeout=30) as page:
            assert page.status == 200
        for called, origin, welcome in calls:
            line = socket.create_connection(("127.0.0.1", port), timeout=30)
            stream, site = f"ws://{called}:{port}/_stcore/stream", f"http://{origin}:{port}"
            try:
                with connect(stream, sock=line, subprotocols=["streamlit"], origin=site) as page:  # type: ignore[list-item, arg-type]
                    told = page.subprotocol
            except InvalidStatus as why:
                told = why.response.status_code
            assert told == ("streamlit" if welcome else 403), (called, origin)
        if warm:
            wait_for(lambda: standbys(child))
        workers = standbys(child)
        child.send_signal(number)
        _, err = child.communicate(timeout=400)
    finally:
        child.kill()
    assert child.returncode == 0, err
    assert "Traceback" not in err
    assert "external IP" not in err
    assert bool(workers) is warm
    wait_for(lambda: not any(worker.is_running() for worker in workers), 60)
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=5)


def test_a_browser_is_opened_only_where_somebody_sees_it(monkeypatch):
    for name in ("CI", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform.startswith("linux"):
        assert not has_display()
        monkeypatch.setenv("DISPLAY", ":0")
        assert has_display()
    monkeypatch.setenv("CI", "1")
    assert not has_display()


def test_a_reader_that_goes_away_is_no_error(home):
    done = subprocess.run(
        f"{sys.executable} -m core.cli --help | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, env={**os.environ}, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
