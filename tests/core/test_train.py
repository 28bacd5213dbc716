"""The training loop: it learns, repeats itself bit for bit, resumes exactly, accounts for memory, fails in words.

Small checkpoints that the tests write themselves stand for the families; the rows to learn are a few pairs of words.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from core import events
from core.base import load_base
from core.batches import IGNORED
from core.config import RunConfig, TrainConfig, resolved, with_settings
from core.errors import BadInput
from core.evaluate import answer_loss_sum
from core.methods import METHODS, attach, attach_saved, loading
from core.train import CHECKPOINT, _Run, learning_rate_factor, train
from tests import checkpoints

pytestmark = pytest.mark.usefixtures("untraced")

BIASED = ("llama_biased", "gpt2", "opt", "qwen2")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a tiny checkpoint of every family."""
    return {f: checkpoints.write(f, tmp_path_factory.mktemp(f)) for f in checkpoints.FAMILIES}


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `checkpoints.write_doubles` says."""
    return checkpoints.write_doubles(tmp_path_factory.mktemp("rows") / "rows.jsonl")


def config(base: Path, rows: Path, method: str = "lora", **loop: Any) -> RunConfig:
    settings = {"learning_rate": 1e-2, "steps": 6, "batch_size": 8, "eval_items": 4, "precision": "float32"} | loop
    run = RunConfig(base=str(base), task=None, data=str(rows), method=method)
    return resolved(with_settings(run, settings))


def losses(stream: list[events.Event]) -> list[float]:
    return [e.loss for e in stream if isinstance(e, events.Step)]


def adapter_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "adapter").rglob("*.safetensors"))}


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_family_trains_with_every_method(
    family: str, method: str, bases: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    # Vectors that rescale need higher rates than matrices to move anything in a dozen steps.
    rate = max(1e-2, METHODS[method].RATES[-1])
    stream = list(train(config(bases[family], rows, method, steps=12, eval_every=12, learning_rate=rate), tmp_path))
    if method == "bitfit" and family not in BIASED:
        failed = stream[-1]
        assert isinstance(failed, events.Failed)
        assert failed.failure == "incompatible"
        assert "bias" in failed.sentence
        return
    kinds = [e.kind for e in stream]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished", stream[-1]
    assert kinds.count("step") == 12
    assert stream[-1].trainable == stream[0].trainable  # type: ignore[union-attr]
    assert min(losses(stream)[6:]) < losses(stream)[0]
    assert (tmp_path / "adapter").is_dir()
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_a_resumed_run_equals_the_uninterrupted_one(
    method: str, optimizer: str, bases: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    """And so the same config and seed give the same losses, bit for bit."""
    # GPT-2 has dropout in the base: the random state takes part.
    same = config(bases["gpt2"], rows, method, steps=9, optimizer=optimizer)
    whole = list(train(same, tmp_path / "whole"))
    asked = iter([False] * 5 + [True])
    part = list(train(same, tmp_path / "parts", should_stop=lambda: next(asked)))
    assert isinstance(part[-1], events.Stopped)
    assert part[-1].step == 5
    rest = list(train(same, tmp_path / "parts", resume=True))
    assert isinstance(rest[0], events.Started)
    assert rest[0].resumed_at == 5
    assert losses(part) + losses(rest) == losses(whole)
    assert adapter_bytes(tmp_path / "parts") == adapter_bytes(tmp_path / "whole") != {}
    scores = [(e.step, e.loss, e.exact_match) for e in part + rest if isinstance(e, events.Evaluated)]
    assert scores == [(e.step, e.loss, e.exact_match) for e in whole if isinstance(e, events.Evaluated)]


def test_resuming_without_a_checkpoint_starts_from_the_beginning(
    bases: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    stream = list(train(config(bases["llama"], rows), tmp_path, resume=True))
    assert stream[0].resumed_at == 0  # type: ignore[union-attr]
    assert len(losses(stream)) == 6


def test_a_checkpoint_of_other_settings_is_refused(bases: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    list(train(config(bases["llama"], rows), tmp_path, should_stop=iter([False, True]).__next__))
    (failed,) = train(config(bases["llama"], rows, rank=4), tmp_path, resume=True)
    assert isinstance(failed, events.Failed)
    assert "another settings" in failed.sentence


def test_checkpoints_are_written_when_due_and_replaced_whole(
    bases: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    seen = []
    for event in train(config(bases["llama"], rows, checkpoint_every=2), tmp_path):
        if isinstance(event, events.Saved) and event.what == "checkpoint":
            seen.append(event.step)
            assert (tmp_path / event.path).stat().st_size == event.size_bytes
            assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []
    assert seen == [2, 4]


def run_of(cfg: RunConfig, folder: Path) -> _Run:
    run = _Run(cfg, folder, lambda: False)
    run._prepare()
    run.measured_step = 0
    return run


def test_accumulated_passes_give_the_gradient_of_one_large_batch(
    bases: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    """The passes hold different numbers of answer tokens: averaging their means would be wrong."""
    run = run_of(config(bases["llama"], rows, "full", batch_size=4, accumulation=3, clip=0.0), tmp_path)
    numbers = [i for n in run._micro(1) for i in run.plan.rows(n)]
    taken: dict[str, torch.Tensor] = {}
    run.optimizer.step = lambda: taken.update({n: p.grad.clone() for n, p in run.named.items()})  # type: ignore
    loss = run._train_step().loss
    from core.batches import collate
    from core.template import pad_id

    whole = collate([run.objective.train[i] for i in numbers], pad_id(run.tokenizer))  # type: ignore[attr-defined]
    mean = answer_loss_sum(run.model, whole.ids, whole.labels) / whole.answer_tokens
    mean.backward()
    assert loss == pytest.approx(mean.item(), rel=1e-5)
    for name, parameter in run.named.items():
        # float32 sums in another order: a few units in the last place of the largest entries
        torch.testing.assert_close(taken[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_the_loss_is_the_models_own_loss_on_the_labelled_tokens(family: str, bases: dict[str, Path]) -> None:
    """Oracle: transformers' own loss, computed from logits at every position, with an attention mask."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bases[family]).eval()
    torch.manual_seed(1)
    ids = torch.randint(4, 300, (3, 19))
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, :7] = IGNORED
    labels[1, 12:], mask[1, 12:], ids[1, 12:] = IGNORED, 0, 3  # a padded row
    reference = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    mine = answer_loss_sum(model, ids, labels) / int((labels[:, 1:] != IGNORED).sum())
    torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)
    assert model(input_ids=ids).logits.shape == (3, 19, model.config.vocab_size)  # the hook is gone


def test_gradient_checkpointing_changes_memory_and_not_the_losses(
    bases: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    plain = list(train(config(bases["llama"], rows), tmp_path / "a"))
    less = list(train(config(bases["llama"], rows, gradient_checkpointing=True), tmp_path / "b"))
    assert losses(plain) == pytest.approx(losses(less), rel=1e-5)
    assert less[-1].peak_bytes < plain[-1].peak_bytes  # type: ignore[union-attr]


def test_bfloat16_follows_float32_closely(bases: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    exact = list(train(config(bases["llama"], rows), tmp_path / "a"))
    short = list(train(config(bases["llama"], rows, precision="bfloat16"), tmp_path / "b"))
    assert short[0].dtype == "bfloat16"  # type: ignore[union-attr]
    # bfloat16 keeps 8 bits of a number: about three decimal digits of a loss near 6
    assert losses(short) == pytest.approx(losses(exact), rel=2e-2)
    assert losses(short) != losses(exact)


class LiveBytes(TorchDispatchMode):
    """An own count of live storages, by birth and death of every one: what the measured ledger is held against."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.known: set[int] = set()
        self.level = self.peak = 0

    def _gone(self, key: int) -> None:
        self.level -= self.live.pop(key)
        self.known.discard(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs or {})) if isinstance(t, torch.Tensor)}
        for tensor in tree_iter(out):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self.known or key in inputs:
                continue
            self.known.add(key)
            self.live[key] = storage.nbytes()
            weakref.finalize(storage, self._gone, key)
            self.level += storage.nbytes()
        self.peak = max(self.peak, self.level)
        return out


@pytest.mark.parametrize("method", METHODS)
def test_the_measured_ledger_adds_up_and_agrees_with_an_own_count(
    method: str, bases: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    cfg = config(bases["llama_biased"], rows, method, steps=8)
    finished = list(train(cfg, tmp_path / "run"))[-1]
    assert isinstance(finished, events.Finished)
    ledger = finished.ledger
    terms = {t["name"]: t["bytes"] for t in ledger["terms"]}
    assert sum(terms.values()) == ledger["allocated_bytes"] == finished.peak_bytes
    assert terms["trained weights"] == 4 * finished.trainable
    # AdamW: two float32 states a trained parameter, and a step count of 4 bytes a tensor
    assert 8 * finished.trainable <= terms["optimizer state"] <= 8 * finished.trainable + 4 * 200
    assert ("quantization constants" in terms) == (method == "qlora")
    # LoRA's matrices come on top of the base; the biases of BitFit are part of it.
    frozen = {"lora": finished.total, "bitfit": finished.total - finished.trainable}
    if method in frozen:
        assert terms["frozen weights"] == pytest.approx(4 * frozen[method], rel=0.01)
    # (What is measured is a step through transformers' own model; the written-out one takes less.)
    run = run_of(cfg, tmp_path / "again")
    run.loss_sum = run.plain_loss_sum
    measured = _Run(cfg, tmp_path / "third", lambda: False)
    measured._prepare()
    step = measured.measured_step
    assert 2 <= step <= 8
    for _ in range(step - 1):
        run._train_step()
    run.step = step - 1
    with LiveBytes() as count:
        run._train_step()
    extra = terms["gradients"] + terms["activations and temporaries"]
    # The dispatcher does not see what kernels allocate inside an operator; the allocator does.
    assert count.peak <= extra * 1.001
    assert count.peak >= 0.85 * extra


def test_a_diverging_loss_ends_the_run_in_words(rows: Path, tmp_path: Path) -> None:
    """A base whose output layer overflows: the very first loss is not a number."""
    from safetensors.torch import load_file, save_file

    base = checkpoints.write("llama", tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"] * 1e38
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    last = list(train(config(base, rows), tmp_path / "run"))[-1]
    assert isinstance(last, events.Failed)
    assert last.failure == "diverged"
    assert "learning rate" in last.advice
    assert not (tmp_path / "run" / "adapter").exists()


def test_lack_of_memory_ends_the_run_in_words(bases: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    """In a process that may not grow: real failed allocations."""
    cfg = config(bases["llama"], rows, steps=2, batch_size=40, eval_items=4, learning_rate=1e-3)
    code = """
import json, resource, sys
import torch
from pathlib import Path
from core.config import RunConfig
from core import train as loop, events, objective
original = objective.answer_loss_sum
def hungry(model, ids, labels):
    limit = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 200 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return original(model, ids.repeat(60, 12)[:, :250], labels.repeat(60, 12)[:, :250])
objective.answer_loss_sum = hungry
last = list(loop.train(RunConfig.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2])))[-1]
print(json.dumps(events.to_dict(last)))
"""
    out = subprocess.run(
        [sys.executable, "-c", code, json.dumps(cfg.to_dict()), str(tmp_path)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr[-2000:]
    last = json.loads(out.stdout.splitlines()[-1])
    assert last["kind"] == "failed"
    assert last["failure"] == "out_of_memory"
    assert "ran out of memory" in last["sentence"]
    assert "batch_size 20" in last["advice"]
    assert "gradient_checkpointing" in last["advice"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base": "/nowhere/at/all"}, "nowhere"),
        ({"data": "/nowhere/rows.jsonl"}, "rows.jsonl"),
        ({"method": "lora", "settings": {"rank": 0}}, "rank"),
        ({"train": {"max_length": 8}}, "longer than the limit"),
    ],
)
def test_bad_input_is_a_failed_event_with_a_sentence(
    change: dict[str, Any], said: str, bases: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    record = config(bases["llama"], rows).to_dict()
    for key, value in change.items():
        record[key] = {**record[key], **value} if isinstance(value, dict) else value
    last = list(train(RunConfig.from_dict(record), tmp_path))[-1]
    assert isinstance(last, events.Failed)
    assert said in last.sentence + last.advice


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_learning_rate_rises_and_falls_as_said(schedule: str) -> None:
    factors = [learning_rate_factor(s, 100, 0.1, schedule) for s in range(1, 101)]
    assert factors[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert max(factors) == 1.0
    assert all(f > 0 for f in factors)
    after = factors[10:]
    assert after == sorted(after, reverse=True)
    assert after[45] == pytest.approx({"linear": 0.5, "cosine": 0.5, "constant": 1.0}[schedule])
    assert learning_rate_factor(1, 10, 0.0, schedule) == 1.0


def test_events_survive_json(bases: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    for event in train(config(bases["llama"], rows, steps=2), tmp_path):
        assert events.from_dict(json.loads(json.dumps(events.to_dict(event)))) == event


def test_scores_and_samples_come_before_during_and_after(bases: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    stream = list(train(config(bases["llama"], rows, steps=8), tmp_path))
    steps = [e.step for e in stream if isinstance(e, events.Evaluated)]
    assert steps == [0, 2, 4, 6, 8]
    samples = [e for e in stream if isinstance(e, events.Sampled)]
    assert [e.step for e in samples] == steps
    assert {s["prompt"] for s in samples[0].samples} == {s["prompt"] for s in samples[-1].samples}
    assert all(math.isfinite(e.loss) for e in stream if isinstance(e, events.Evaluated))


def test_a_random_kill_while_a_checkpoint_is_written_leaves_a_whole_one(
    bases: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    """A leftover partial file beside a whole checkpoint is ignored and overwritten."""
    cfg = config(bases["llama"], rows)
    list(train(cfg, tmp_path, should_stop=iter([False, False, True]).__next__))
    (tmp_path / "checkpoint.partial").write_bytes(b"half")
    stream = list(train(cfg, tmp_path, resume=True))
    assert stream[0].resumed_at == 2  # type: ignore[union-attr]
    assert stream[-1].kind == "finished"


# --- what lies beyond a limit, and what a run began with --------------------------------------------------------------


def long_rows(folder: Path) -> Path:
    """Forty short rows and ten of some thousand characters, which no tiny base can read."""
    lines = [{"prompt": f"twice {i}", "completion": f"{2 * i}"} for i in range(40)]
    lines += [{"prompt": f"long {i} " + "and on " * 300, "completion": "yes"} for i in range(10)]
    path = folder / "long.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("max_length", [128, 4096])
def test_rows_beyond_the_limit_are_neither_trained_on_nor_scored(
    family: str, max_length: int, bases: dict[str, Path], tmp_path: Path
) -> None:
    cfg = config(bases[family], long_rows(tmp_path), max_length=max_length, held_out=0.4, eval_items=50)
    run = run_of(cfg, tmp_path / "run")
    limit = min(max_length, run.model.config.max_position_embeddings)
    learnt: Any = run.objective
    assert max(len(e.ids) for e in [*learnt.train, *learnt.held_out_rows]) <= limit
    assert len(learnt.held_out_rows) == len(learnt.items) == learnt.held_out
    assert all("and on" not in item.messages[-1].content for item in learnt.items)
    said = " ".join(learnt.notes)
    assert f"examples are longer than {limit} tokens" in said
    assert f"held-out rows are longer than {limit} tokens" in said
    assert (f"reads {limit} tokens at most" in said) == (limit < max_length)
    assert list(train(cfg, tmp_path / "whole"))[-1].kind == "finished"


def test_before_means_the_base_even_where_a_method_starts_as_something_else(tmp_path: Path) -> None:
    before = {}
    for method in ("lora", "prompt_tuning"):
        loop = TrainConfig(steps=1, eval_items=8, skill_items=4)
        config = RunConfig(task="json", method=method, train=loop)
        scores = [e for e in train(config, tmp_path / method) if isinstance(e, events.Evaluated)]
        before[method] = (scores[0].exact_match, scores[0].loss, scores[0].skills)
    assert before["prompt_tuning"] == before["lora"]


def test_without_held_out_rows_there_is_no_loss_to_tell(bases: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    stream = list(train(config(bases["llama"], rows, held_out=0.0), tmp_path))
    assert stream[-1].kind == "finished"
    scores = [e for e in stream if isinstance(e, events.Evaluated)]
    assert [(e.loss, e.exact_match, e.items) for e in scores] == [(None, None, 0)] * len(scores)
    assert scores


def test_memory_is_measured_also_when_an_epoch_is_one_step(bases: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    finished = list(train(config(bases["llama"], rows, batch_size=64, steps=3), tmp_path))[-1]
    assert isinstance(finished, events.Finished)
    assert finished.peak_bytes == finished.ledger["allocated_bytes"] > 0


def test_a_run_does_not_go_on_upon_other_weights(bases: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    """The same folder with other weights in it: a checkpoint's delta would mean something else there."""
    base = tmp_path / "base"
    shutil.copytree(bases["llama"], base)
    cfg = config(base, rows, checkpoint_every=2)
    stops = iter([False] * 4 + [True] * 9)
    assert list(train(cfg, tmp_path / "run", should_stop=lambda: next(stops)))[-1].kind == "stopped"
    weights = load_file(base / "model.safetensors")
    save_file({n: t + 1e-4 for n, t in weights.items()}, base / "model.safetensors", metadata={"format": "pt"})
    failed = list(train(cfg, tmp_path / "run", resume=True))[-1]
    assert isinstance(failed, events.Failed)
    assert failed.failure == "bad_input"
    assert "not those that this run began with" in failed.sentence


def test_an_adapter_is_not_put_on_other_weights(bases: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases["llama"], base)
    assert list(train(config(base, rows), tmp_path / "run"))[-1].kind == "finished"
    attach_saved(load_base(str(base)).model, tmp_path / "run" / "adapter")
    attach_saved(load_base(str(bases["llama"])).model, tmp_path / "run" / "adapter")  # elsewhere, but the same weights
    weights = load_file(base / "model.safetensors")
    save_file({n: t + 1e-4 for n, t in weights.items()}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="other weights of base"):
        attach_saved(load_base(str(base)).model, tmp_path / "run" / "adapter")


def test_a_full_disk_is_said_in_words(
    bases: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    failed = list(train(config(bases["llama"], rows, checkpoint_every=2), tmp_path))[-1]
    assert isinstance(failed, events.Failed)
    assert (failed.failure, "disk is full" in failed.sentence, "resume" in failed.advice) == ("disk_full", True, True)


@pytest.mark.parametrize(
    ("method", "precision", "device", "expected"),
    [
        ("full", "bfloat16", "cuda:0", ("float32", "cuda:0")),
        ("bitfit", "bfloat16", "cuda:0", ("float32", "cuda:0")),
        ("lora", "bfloat16", "cuda:0", ("bfloat16", "cuda:0")),
        ("lora", "float32", "cuda:0", ("float32", "cuda:0")),
        ("qlora", "bfloat16", "cuda:0", ("bfloat16", "cpu")),
        ("qlora", "bfloat16", "cpu", ("float32", "cpu")),
        (None, "bfloat16", "cuda", ("bfloat16", "cuda")),
    ],
)
def test_a_base_is_loaded_no_larger_than_its_method_needs(
    method: str | None, precision: str, device: str, expected: tuple[str, str]
) -> None:
    how = loading(method, precision, device)
    assert (how["dtype"], how["device"]) == expected


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_train_on_a_base_in_sixteen_bits_as_on_one_in_32(method: str, bases: dict[str, Path]) -> None:
    """What a GPU run does, on the CPU: frozen weights in bfloat16, trained ones in float32, passes under autocast."""
    seen: dict[str, list[float]] = {}
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        attached = attach(load_base(str(bases["llama"]), dtype=dtype).model, method, METHODS[method].Config())
        trained = [p for p in attached.model.parameters() if p.requires_grad]
        assert {p.dtype for p in trained} == {torch.float32}
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        ids = torch.arange(1, 17).reshape(2, 8)
        seen[dtype] = []
        for _ in range(20):
            with torch.autocast("cpu", torch.bfloat16):
                loss = answer_loss_sum(attached.model, ids, ids)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen[dtype].append(loss.item())
    # bfloat16 keeps 8 bits: the weights themselves are off by up to 2⁻⁹ of their size.
    assert seen["bfloat16"] == pytest.approx(seen["float32"], rel=0.01)
    assert seen["bfloat16"][-1] < 0.95 * seen["bfloat16"][0]


def test_attention_is_plain_on_short_rows_and_fused_on_long_ones(
    bases: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    """What is quicker on a CPU; the numbers are the same."""
    cfg = config(bases["llama"], rows)
    plain = run_of(cfg, tmp_path / "plain")
    assert plain.model.config._attn_implementation == "eager"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.train.EAGER_TOKENS", 4)
        fused = run_of(cfg, tmp_path / "fused")
    assert fused.model.config._attn_implementation == "sdpa"
    one, other = ([run._train_step().loss for _ in range(6)] for run in (plain, fused))
    assert one == pytest.approx(other, rel=1e-4)
