"""One run in several processes is the run that one process would make: real processes, gloo, CPU.

The same rows, rates and seeds; what differs is the order in which float32 numbers are added (a batch's rows in two
sums instead of one). Importing torch costs a process seconds, so the runs of many tests share one start of two.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from core import events
from core.batches import IGNORED, Batch
from core.classify import TextBatch
from core.cli import main
from core.cli.stored import OWNER
from core.config import RunConfig, problems, resolved, with_settings
from core.distributed import World
from core.errors import BadInput
from core.methods import METHODS
from core.processes import trainer
from core.runs.store import Store
from core.train import CHECKPOINT, train
from tests import checkpoints

pytestmark = pytest.mark.usefixtures("untraced")

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
Told = dict[str, list[events.Event]]  # by name of the run
STEPS = 4
# Sums of some dozen float32 numbers in another order differ by a few 2⁻²³ ≈ 1e-7 of their size. Seen in all methods: at
# most 2e-7 for losses and 4e-7 for norms of the tiny bases, 3e-6 for losses of the embedded base.
SUMS = 5e-6
# A weight moves by about the learning rate (1e-2; LoRA+ 16 times that) in a step, divided by the size of its gradient:
# where that is near zero, its rounding counts. Seen: at most 1e-5. An average instead of a sum would move the same way
# under Adam, so it is the norms that tell it.
WEIGHTS = 1e-4
# With fsdp: one of each kind. What trains is a weight of the base or beside it; in a layer, in the root, in both; what
# they share is nothing, tied, or a buffer; the prompt is computed before the first layer, or in each.
CUT = ("full", "bitfit", "lora", "dora", "vera", "p_tuning", "prefix_tuning")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base (biases, tied embeddings), one with dropout, and rows to learn."""
    folder = tmp_path_factory.mktemp("together")
    checkpoints.write("llama_biased", folder)
    checkpoints.write("gpt2", folder)
    checkpoints.write_encoder("bert", folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    lines = [{"prompt": "twice " + "very " * (i % 5) + str(i), "completion": f"{2 * i}"} for i in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    texts = [
        f"{'very ' * (i % 5)}{word} {i},{label}" for i in range(20) for word, label in (("good", "yes"), ("bad", "no"))
    ]
    (folder / "labels.csv").write_text("\n".join(["text,label", *texts]), encoding="utf-8")
    return folder


def config(place: Path, method: str = "lora", family: str = "llama_biased", **loop: Any) -> RunConfig:
    """Batches of five: two processes get three rows and two."""
    settings = {
        "learning_rate": 1e-2, "steps": STEPS, "batch_size": 5, "eval_items": 4, "eval_every": 2,
        "precision": "float32",
    } | loop  # fmt: skip
    data = place / ("labels.csv" if family == "bert" else "rows.jsonl")
    run = RunConfig(base=str(place / family), task=None, data=str(data), method=method)
    return resolved(with_settings(run, settings))


def embedded(**loop: Any) -> RunConfig:
    settings = {
        "steps": 2, "batch_size": 8, "eval_items": 9, "eval_every": 2, "skill_items": 3, "precision": "float32",
    } | loop  # fmt: skip
    return resolved(with_settings(RunConfig(task="json", method="lora"), settings))


def runs(place: Path) -> dict[str, dict[str, Any]]:
    """Every run of the two processes, by name."""
    every: dict[str, dict[str, Any]] = {}

    def add(name: str, cfg: RunConfig, folder: str = "", **more: Any) -> None:
        every[name] = {"name": name, "config": cfg.to_dict(), "folder": str(place / (folder or name)), **more}

    for method in METHODS:
        add(f"ddp-{method}", config(place, method))
    for method in CUT:
        add(f"fsdp-{method}", config(place, method, parallel="fsdp"))
    for how in ("ddp", "fsdp"):
        # Passes of one row: for the second process none is left. A base with dropout: the random state takes part.
        add(f"{how}-few", config(place, "full", batch_size=1, accumulation=3, parallel=how))
        add(f"{how}-labels", config(place, "full", "bert", batch_size=3, parallel=how))
        add(f"{how}-whole", config(place, "full", "gpt2", steps=5, parallel=how))
        add(f"{how}-stopped", config(place, "full", "gpt2", steps=5, parallel=how), f"{how}-parts", stop_after=3)
        add(f"{how}-resumed", config(place, "full", "gpt2", steps=5, parallel=how), f"{how}-parts", resume=True)
        add(f"{how}-half", config(place, "full", parallel=how), stop_after=3)
        add(f"{how}-taken-over", config(place, "full", parallel=how), resume=True)
    add("embedded", embedded())
    add("too-long", config(place, max_length=8))
    return every


def alone(cfg: RunConfig, folder: Path, **more: Any) -> list[events.Event]:
    return list(train(cfg, folder, **more))


def stop_after(steps: int) -> Any:
    asked = iter([False] * steps + [True] * 99)
    return lambda: next(asked)


@pytest.fixture(scope="module")
def two(place: Path) -> Told:
    """What rank 0 said in each of `runs`, carried out under torchrun by two processes."""
    plan = runs(place)
    for how in ("ddp", "fsdp"):
        # One process begins this run; two take it over.
        alone(config(place, "full", parallel=how), place / f"{how}-taken-over", should_stop=stop_after(3))
    (place / "plan.json").write_text(json.dumps(list(plan.values())), encoding="utf-8")
    done = subprocess.run(
        [*TORCHRUN, "-m", "tests.core.distributed_runs", str(place / "plan.json")],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    for how in ("ddp", "fsdp"):  # to be looked at when others have gone on with it
        (place / f"{how}-copy").mkdir()
        shutil.copy(place / f"{how}-half" / CHECKPOINT, place / f"{how}-copy")
    told: dict[str, list[events.Event]] = {}
    for one in plan.values():
        told.setdefault(one["folder"], read(Path(one["folder"]) / "events-0.jsonl"))
    return {name: told[one["folder"]] for name, one in plan.items()}


def read(path: Path) -> list[events.Event]:
    return [events.from_dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def steps(stream: list[events.Event]) -> list[events.Step]:
    return [e for e in stream if isinstance(e, events.Step)]


def scores(stream: list[events.Event]) -> list[events.Evaluated]:
    return [e for e in stream if isinstance(e, events.Evaluated)]


def tensors(folder: Path) -> dict[str, Any]:
    out = {}
    for path in sorted((folder / "adapter").rglob("*.safetensors")):
        out |= {f"{path.name}:{name}": tensor for name, tensor in load_file(path).items()}
    return out


def check_equal(stream: list[events.Event], reference: list[events.Event]) -> None:
    """The same run up to rounding: losses, norms, tokens, rates and scores."""
    assert stream[-1].kind == reference[-1].kind == "finished", stream[-1]
    mine, other = steps(stream), steps(reference)
    assert [(s.step, s.tokens, s.learning_rate) for s in mine] == [(s.step, s.tokens, s.learning_rate) for s in other]
    assert [s.loss for s in mine] == pytest.approx([s.loss for s in other], rel=SUMS)
    assert [s.grad_norm for s in mine] == pytest.approx([s.grad_norm for s in other], rel=SUMS)
    assert [(e.step, e.exact_match, e.items, e.skills) for e in scores(stream)] == [
        (e.step, e.exact_match, e.items, e.skills) for e in scores(reference)
    ]
    assert [e.loss for e in scores(stream)] == pytest.approx([e.loss for e in scores(reference)], rel=SUMS)
    assert samples(stream) == samples(reference) != []


def samples(stream: list[events.Event]) -> list[events.Sampled]:
    return [e for e in stream if isinstance(e, events.Sampled)]


def check_same_adapter(folder: Path, other: Path) -> None:
    """The same files, the same tensors up to rounding."""
    mine, theirs = tensors(folder), tensors(other)
    assert mine.keys() == theirs.keys() != set()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=WEIGHTS, msg=name)
    names = [sorted(p.name for p in (f / "adapter").iterdir()) for f in (folder, other)]
    assert names[0] == names[1]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_make_the_run_that_one_makes(method: str, two: Told, place: Path, tmp_path: Path) -> None:
    reference = alone(config(place, method), tmp_path)
    for how in ("ddp", "fsdp") if method in CUT else ("ddp",):
        check_equal(two[f"{how}-{method}"], reference)
        check_same_adapter(place / f"{how}-{method}", tmp_path)
        started = two[f"{how}-{method}"][0]
        assert isinstance(started, events.Started)
        assert any(f"2 processes share each batch ({how})" in note for note in started.notes)
        mine, own = started, reference[0]
        assert isinstance(own, events.Started)
        assert (mine.trainable, mine.total, mine.examples) == (own.trainable, own.total, own.examples)


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_process_without_a_row_takes_part_and_passes_add_up(how: str, two: Told, place: Path, tmp_path: Path) -> None:
    """Three passes of one row each, which hold different numbers of answer tokens."""
    check_equal(two[f"{how}-few"], alone(config(place, "full", batch_size=1, accumulation=3), tmp_path))
    check_same_adapter(place / f"{how}-few", tmp_path)
    started = two[f"{how}-few"][0]
    assert isinstance(started, events.Started)
    assert any("without a row" in note for note in started.notes)


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_classifier_is_shared_too(how: str, two: Told, place: Path, tmp_path: Path) -> None:
    reference = alone(config(place, "full", "bert", batch_size=3), tmp_path)
    check_equal(two[f"{how}-labels"], reference)
    check_same_adapter(place / f"{how}-labels", tmp_path)
    assert [e.macro_f1 for e in scores(two[f"{how}-labels"])] == [e.macro_f1 for e in scores(reference)] != []


def test_the_embedded_base_scores_its_task_and_its_old_skills_the_same(two: Told, place: Path, tmp_path: Path) -> None:
    reference = alone(embedded(), tmp_path)
    check_equal(two["embedded"], reference)
    check_same_adapter(place / "embedded", tmp_path)
    assert len(scores(reference)[0].skills) == 5


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_resumed_run_of_two_equals_the_uninterrupted_one(how: str, two: Told, place: Path) -> None:
    """Bit for bit, on a base with dropout: each process goes on with its own random state."""
    parts = two[f"{how}-resumed"]  # both attempts
    whole = two[f"{how}-whole"]
    assert [e.step for e in parts if isinstance(e, events.Stopped)] == [3]
    assert [e.resumed_at for e in parts if isinstance(e, events.Started)] == [0, 3]
    assert [(s.step, s.loss, s.grad_norm) for s in steps(parts)] == [
        (s.step, s.loss, s.grad_norm) for s in steps(whole)
    ]
    mine, theirs = tensors(place / f"{how}-parts"), tensors(place / f"{how}-whole")
    assert mine.keys() == theirs.keys() != set()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_run_goes_on_in_another_number_of_processes(how: str, two: Told, place: Path, tmp_path: Path) -> None:
    """Begun by two and ended by one; begun by one and ended by two."""
    whole = alone(config(place, "full"), tmp_path)
    half = place / f"{how}-half"
    rest = alone(config(place, "full", parallel=how), half, resume=True)
    assert isinstance(rest[0], events.Started)
    assert rest[0].resumed_at == 3
    check_equal([*two[f"{how}-half"][1:-2], *rest[1:]], whole[1:])
    check_same_adapter(half, tmp_path)
    after = two[f"{how}-taken-over"]
    assert isinstance(after[0], events.Started)
    assert after[0].resumed_at == 3
    assert [s.loss for s in steps(after)] == pytest.approx([s.loss for s in steps(whole)][3:], rel=SUMS)
    check_same_adapter(place / f"{how}-taken-over", tmp_path)


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_checkpoint_holds_whole_tensors(how: str, two: Told, place: Path, tmp_path: Path) -> None:
    """As one process would have written it, beside the second process's random state."""
    list(train(config(place, "full"), tmp_path, should_stop=stop_after(3)))
    found = load_file(place / f"{how}-copy" / CHECKPOINT)
    own = load_file(tmp_path / CHECKPOINT)
    assert found.keys() == own.keys() | {"random.cpu.1"}
    assert torch.equal(found["random.cpu"], own["random.cpu"])  # rank 0 goes on with what it would have had alone
    assert not torch.equal(found["random.cpu"], found["random.cpu.1"])  # the others drop out other numbers
    for name, tensor in own.items():
        if not name.startswith("random"):
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=WEIGHTS, msg=name)


def test_files_are_written_once_and_only_rank_0_is_heard(two: Told, place: Path) -> None:
    for name in ("ddp-lora", "fsdp-full"):
        folder = place / name
        assert sorted(p.name for p in folder.iterdir()) == ["adapter", "events-0.jsonl", "events-1.jsonl"]
        saved = [e for e in two[name] if isinstance(e, events.Saved)]
        assert [(e.what, e.size_bytes > 0) for e in saved] == [("adapter", True)]
        other = read(folder / "events-1.jsonl")
        assert [e.kind for e in other] == [e.kind for e in two[name]]
        assert [s.loss for s in steps(other)] == [s.loss for s in steps(two[name])]
    assert not Path("/nowhere").exists()


def test_the_ledger_is_one_processes_own(two: Told) -> None:
    """With DDP all weights and a copy of the gradients; with FSDP half of the weights and of the optimizer's states."""
    terms = {}
    for how in ("ddp", "fsdp"):
        finished = two[f"{how}-full"][-1]
        assert isinstance(finished, events.Finished)
        terms[how] = {t["name"]: t["bytes"] for t in finished.ledger["terms"]}
        assert sum(terms[how].values()) == finished.ledger["allocated_bytes"] == finished.peak_bytes
    trained = 4 * finished.trainable
    assert terms["ddp"]["trained weights"] == terms["ddp"]["gradient buckets"] == trained
    assert "gradient buckets" not in terms["fsdp"]
    # torch pads each tensor to as many rows as make equal parts; all here have even numbers of rows.
    assert terms["fsdp"]["trained weights"] == trained // 2
    assert terms["fsdp"]["optimizer state"] == pytest.approx(terms["ddp"]["optimizer state"] / 2, rel=0.02)


def test_what_no_process_can_do_is_said_once(two: Told) -> None:
    (failed,) = two["too-long"]
    assert isinstance(failed, events.Failed)
    assert failed.failure == "bad_input"
    assert "longer than the limit" in failed.sentence


# --- what cannot be divided -------------------------------------------------------------------------------------------


def test_what_cannot_be_cut_into_parts_is_refused(place: Path) -> None:
    with pytest.raises(BadInput, match="4-bit weights apart"):
        config(place, "qlora", parallel="fsdp")
    with pytest.raises(BadInput, match="states for whole tensors"):
        config(place, "full", parallel="fsdp", optimizer="adamw_8bit")
    assert problems(config(place, "qlora", parallel="ddp", optimizer="adamw_8bit")) == []


@pytest.mark.parametrize(("count", "said"), [(0, "from 1 to"), (1000, "from 1 to")])
def test_an_impossible_number_of_processes_is_refused(count: int, said: str, place: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=said):
        list(trainer(count)(config(place), tmp_path))


def test_every_row_and_every_item_is_somebodys() -> None:
    ids, ones = torch.arange(10).reshape(5, 2), torch.ones(5, 2, dtype=torch.long)
    for batch in (Batch(ids, ones, 5), TextBatch(ids, ones, ones, ones[:, 0])):
        parts = [World(rank, 3).share(batch) for rank in range(3)]
        assert sorted(int(row[0]) for part in parts for row in part.ids) == [0, 2, 4, 6, 8]
        assert [part.count for part in parts] == [2, 2, 1]
        none = World(7, 8).share(batch)
        assert none.ids.shape == (1, 2)
        assert set(none.labels.flatten().tolist()) == {IGNORED}
        assert none.count == 0
    things = list(range(7))
    dealt = [World(rank, 3).part(things) for rank in range(3)]
    assert sorted(x for part in dealt for x in part) == things


# --- failures: no process waits for one that is gone ------------------------------------------------------------------


def test_what_one_process_cannot_do_ends_all_with_its_sentence(place: Path, tmp_path: Path) -> None:
    """The second process finds no data where the first has it, as on a machine that lacks the file."""
    cfg = config(place).to_dict() | {"data": "rows.jsonl"}
    code = f"""
import json, os
from pathlib import Path
from core.config import RunConfig
from core.events import to_dict
from core.train import train
os.chdir({str(place)!r} if os.environ["RANK"] == "0" else {str(tmp_path)!r})
for event in train(RunConfig.from_dict({cfg!r}), Path({str(tmp_path / "run")!r})):
    if os.environ["RANK"] == "0":
        print(json.dumps(to_dict(event)), flush=True)
"""
    done = subprocess.run(
        [*TORCHRUN, "--no-python", sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    failed = events.from_dict(json.loads(done.stdout.splitlines()[-1]))
    assert isinstance(failed, events.Failed)
    assert failed.failure == "bad_input"
    assert "rows.jsonl" in failed.sentence
    assert failed.sentence.endswith("(Process 2 of 2.)")


def followers() -> list[psutil.Process]:
    """The processes that a run has started beside this one (which may have others: a browser's)."""
    return [c for c in psutil.Process().children() if "core.processes" in c.cmdline()]


def test_a_killed_follower_ends_the_run_in_words_and_it_can_go_on(place: Path, tmp_path: Path) -> None:
    cfg = config(place, steps=2000, checkpoint_every=5)
    stream = []
    killed_at = 0.0
    for event in trainer(2)(cfg, tmp_path):
        stream.append(event)
        if event.kind == "saved" and not killed_at:
            (other,) = followers()
            other.kill()
            killed_at = time.monotonic()
    assert time.monotonic() - killed_at < 20
    failed = stream[-1]
    assert isinstance(failed, events.Failed)
    assert failed.failure == "process_lost"
    assert "Process 2 of 2 was ended by SIGKILL" in failed.sentence
    assert "resume" in failed.advice
    assert followers() == []
    assert (tmp_path / CHECKPOINT).exists()


def cli(*arguments: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "core.cli", *arguments],
        cwd=ROOT, env=ENVIRONMENT | {"DELTALAB_HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def wait_for_step(home: Path, step: int) -> str:
    """Until the newest run has come so far; its id."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for run in Store(home=home).runs(OWNER):
            if run.step >= step:
                return run.id
        time.sleep(0.1)
    raise AssertionError("the run did not begin")


def test_the_command_line_trains_in_two_processes_and_stops_and_resumes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C stops both after a step; a SIGKILL of the first ends the second; what is left is resumed by one."""
    flags = ["--base", str(place / "llama_biased"), "--data", str(place / "rows.jsonl"), "--processes", "2", "--json"]
    knobs = ["--set", "steps=200", "batch_size=5", "eval_items=4", "checkpoint_every=50", "precision=float32"]
    with cli("train", *flags, *knobs, home=tmp_path) as first:
        run = wait_for_step(tmp_path, 4)
        first.send_signal(signal.SIGINT)
        _, err = first.communicate(timeout=30)
    assert first.returncode == 1
    assert f"deltalab runs resume {run}" in err
    assert "Traceback" not in err
    stopped = Store(home=tmp_path).get(run, OWNER)
    assert (stopped.status, stopped.resumable) == ("interrupted", True)
    with cli("runs", "resume", run, "--processes", "2", "--json", home=tmp_path) as second:
        wait_for_step(tmp_path, stopped.step + 4)
        (other,) = psutil.Process(second.pid).children()
        second.kill()
        second.wait(10)
    gone, alive = psutil.wait_procs([other], timeout=10)
    assert (len(gone), alive) == (1, [])
    monkeypatch.setenv("DELTALAB_HOME", str(tmp_path))
    assert main(["runs", "resume", run, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["step"]) == ("finished", 200)
    assert sorted(p.name for p in Path(told["adapter"]).iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "deltalab.json",
    ]  # fmt: skip
