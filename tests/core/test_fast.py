"""The fast forms of a step compute what the plain one computes: losses, gradients, whole runs, resumed runs."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from core.batches import IGNORED, Batch
from core.config import RunConfig, TrainConfig
from core.evaluate import answer_loss_sum
from core.events import Finished, Step
from core.fast import graphed
from core.fast.graphed import Bucket, Buffers, GraphedStep, Replayed, set_rate
from core.fast.llama import WrittenOut, why_not, written_out
from core.memory.measure import measure_step
from core.methods import METHODS, attach
from core.optimizers import make_optimizer, optimizer_state
from core.train import _Run, train

pytestmark = pytest.mark.usefixtures("untraced")

SHAPES = {
    "grouped": LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=90, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, attn_implementation="eager",
    ),
    "plain": LlamaConfig(
        hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3,
        vocab_size=70, tie_word_embeddings=False, attn_implementation="eager",
    ),
    "qwen2": Qwen2Config(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
        vocab_size=60, attn_implementation="eager",
    ),
}  # fmt: skip
WRITTEN = ("full", "lora", "qlora", "bitfit", "ln_tuning", "last_k", "rslora", "lora_fa")
PAIRS = [(s, m) for s in SHAPES for m in WRITTEN if (s, m) != ("plain", "bitfit")]  # (which has no biases)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def prepared(shape: str, method: str) -> Any:
    """A model with a method that has learnt something: pairs are not zero, norms not one, nothing is symmetric."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(SHAPES[shape]).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model = attach(model, method, METHODS[method].Config(), keep_base=False, device=torch.device("cpu")).model
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch_of(vocabulary: int, rows: int = 3, length: int = 11, seed: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (rows, length), generator=generator)
    labels = ids.clone()
    labels[torch.rand(rows, length, generator=generator) < 0.5] = IGNORED
    labels[:, 0] = IGNORED
    return Batch(ids, labels, int((labels[:, 1:] != IGNORED).sum()))


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("shape", "method"), PAIRS)
def test_the_written_out_decoder_is_transformers_own(shape: str, method: str) -> None:
    model = prepared(shape, method)
    assert why_not(model) == ""
    batch = batch_of(SHAPES[shape].vocab_size)
    mine = WrittenOut(model).loss_sum(batch.ids, batch.labels)
    plain = answer_loss_sum(model, batch.ids, batch.labels)
    assert mine.item() == pytest.approx(plain.item(), rel=2e-6)
    fast, slow = gradients(model, mine), gradients(model, plain)
    assert fast.keys() == slow.keys()
    for name, right in slow.items():
        assert (fast[name] - right).norm() <= 2e-5 * right.norm() + 1e-7, name


def distance(some: dict[Any, torch.Tensor], right: dict[Any, torch.Tensor]) -> float:
    """‖some − right‖ / ‖right‖ over all that `right` names."""
    squares = [((some[name] - right[name]).norm() ** 2, right[name].norm() ** 2) for name in right]
    return float((sum(d for d, _ in squares) / sum(r for _, r in squares)) ** 0.5)


# Every number in bfloat16 is rounded by up to 2⁻⁹ of itself, half a step. The two forms round at other places of the
# same chain: each comes to lie some distance away from float32, as a random draw, and neither can be held to the other.
# So the written-out form is held to what the plain one does. Over the gradients of a few batches its distance may be
# half as large again; that of a single tensor three times as large and two steps more, for there a draw can be lucky.
# (A wrong gradient is away by its own size.) Of the loss, where thousands of roundings cancel, half a step is asked.
STEP = 2**-8


@pytest.mark.parametrize(("shape", "method"), PAIRS)
def test_in_bfloat16_it_is_as_near_to_float32_as_autocast_is(shape: str, method: str) -> None:
    model = prepared(shape, method)
    form, _ = written_out(model, "bfloat16", 20)
    assert form is not None
    right: dict[Any, torch.Tensor] = {}
    theirs: dict[Any, torch.Tensor] = {}
    mine: dict[Any, torch.Tensor] = {}
    for seed in range(3):
        batch = batch_of(SHAPES[shape].vocab_size, 6, 15, seed)
        exact = answer_loss_sum(model, batch.ids, batch.labels)
        with torch.autocast("cpu", torch.bfloat16):
            plain, fast = answer_loss_sum(model, batch.ids, batch.labels), form(batch)
        assert fast.dtype == torch.float32
        assert fast.item() != exact.item(), "it did not compute in bfloat16"
        assert [plain.item(), fast.item()] == pytest.approx([exact.item()] * 2, rel=STEP / 2)
        for found, loss in ((right, exact), (theirs, plain), (mine, fast)):
            found |= {(seed, name): g for name, g in gradients(model, loss).items()}
    assert mine.keys() == right.keys()
    assert all(g.dtype == torch.float32 for g in mine.values())
    assert distance(mine, right) <= 1.5 * distance(theirs, right)
    for key, gradient in right.items():
        assert distance(mine, {key: gradient}) <= 3 * distance(theirs, {key: gradient}) + 2 * STEP, key


class Shapes(TorchDispatchMode):
    """The shapes of all products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[Any] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__ in ("mm", "addmm", "bmm"):
            self.found.add(tuple(a.shape for a in args if isinstance(a, torch.Tensor)))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("precision", "same"), [("bfloat16", True), ("float32", False)])
def test_batches_of_like_length_have_products_of_the_same_shapes_in_bfloat16(precision: str, same: bool) -> None:
    """There each new shape costs a program of the library's that is kept; in float32 it costs nothing."""
    model = prepared("plain", "lora")
    form, _ = written_out(model, precision, 20)
    assert form is not None
    met = []
    for length, seed in ((13, 0), (15, 1), (16, 2)):
        with Shapes() as shapes:
            form(batch_of(SHAPES["plain"].vocab_size, 6, length, seed)).backward()
        met.append(frozenset(shapes.found))
    assert met[0]
    assert (len(set(met)) == 1) is same


@pytest.mark.parametrize(
    ("method", "settings", "reason"),
    [
        ("dora", {}, "around"),
        ("ia3", {}, "around"),
        ("prompt_tuning", {}, ""),
        ("lora", {"dropout": 0.1}, "drop inputs"),
    ],
)
def test_what_is_not_known_goes_the_plain_way(method: str, settings: dict[str, Any], reason: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPES["grouped"]).train()
    config = METHODS[method].Config(**settings)
    model = attach(model, method, config, keep_base=False, device=torch.device("cpu")).model
    form, why = written_out(model, "float32", 20)
    assert form is None
    assert reason in why
    assert why


def test_precision_length_and_family_are_looked_at() -> None:
    model = prepared("grouped", "lora")
    for precision in ("float32", "bfloat16"):
        form, _ = written_out(model, precision, 20)
        assert form is not None
        assert str(form.dtype) == f"torch.{precision}"
    assert "300 tokens" in written_out(model, "float32", 300)[1]
    model.model.layers[0].register_forward_hook(lambda *a: None)
    assert "listens" in written_out(model, "float32", 20)[1]
    other = AutoModelForCausalLM.from_config(
        LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=20,
                    hidden_act="gelu")
    )  # fmt: skip
    assert "settings" in why_not(other)


LOOP = {
    "learning_rate": 1e-3, "steps": 5, "batch_size": 8, "eval_items": 4, "skill_items": 0, "train_examples": 64,
    "precision": "float32", "eval_every": 100,
}  # fmt: skip


def steps(method: str, folder: Path, **loop: Any) -> list[tuple[float, float]]:
    """Loss and gradient norm of each."""
    config = RunConfig(method=method, train=TrainConfig(**{**LOOP, **loop}))
    events = list(train(config, folder))
    assert isinstance(events[-1], Finished), events[-1]
    return [(e.loss, e.grad_norm) for e in events if isinstance(e, Step)]


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_run_with_fast_off_has_the_same_losses(method: str, tmp_path: Path) -> None:
    fast = steps(method, tmp_path / "fast")
    plain = steps(method, tmp_path / "plain", fast_step=False)
    if method == "lora":
        assert fast == steps(method, tmp_path / "again"), "the same config and seed, bit for bit"
    assert fast != plain, "the setting switches nothing"
    assert [loss for loss, _ in fast] == pytest.approx([loss for loss, _ in plain], rel=1e-3)
    assert fast[0] == pytest.approx(plain[0], rel=1e-5)
    assert fast[0][0] == pytest.approx(plain[0][0], rel=2e-6)


def test_a_run_in_bfloat16_learns_what_one_in_float32_does(tmp_path: Path) -> None:
    """As nearly as the plain form does. (That loses much of LoRA's first small updates: it adds them to outputs that
    have been rounded already.)"""
    right = steps("lora", tmp_path / "right")
    fast = steps("lora", tmp_path / "fast", precision="bfloat16")
    plain = steps("lora", tmp_path / "plain", precision="bfloat16", fast_step=False)

    def off(some: list[tuple[float, float]]) -> float:
        return max(abs(loss / exact - 1) for (loss, _), (exact, _) in zip(some, right, strict=True))

    assert 0 < off(fast) <= 1.5 * off(plain) + STEP / 2
    assert fast != plain, "the setting switches nothing"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_written_out_step_takes_less_memory(method: str, tmp_path: Path) -> None:
    config = RunConfig(method=method, train=TrainConfig(**{**LOOP, "precision": "bfloat16"}))
    run = _Run(config, tmp_path, lambda: False)
    run._prepare()
    run.measured_step = 0
    run._train_step()  # the optimizer's state exists from here on
    assert run.loss_sum is not run.plain_loss_sum

    def step(mark: Any) -> None:
        run._gradient_step(mark)
        run._apply(mark)

    peaks = []
    for form in (run.loss_sum, run.plain_loss_sum):
        run.loss_sum, run.step = form, 1  # the same batch for both
        peaks.append(measure_step(step, run.model, run.optimizer, run.device)[1].allocated_bytes)
    assert peaks[0] < peaks[1]


def test_the_run_says_which_way_it_goes(tmp_path: Path) -> None:
    for loop, reason in (({}, ""), ({"fast_step": False}, "fast_step is off"), ({"precision": "bfloat16"}, "")):
        run = _Run(RunConfig(train=TrainConfig(**{**LOOP, **loop})), tmp_path, lambda: False)
        run._prepare()
        assert reason in run.plain_because
        assert bool(run.plain_because) == bool(reason)
        assert run.graphs is None
        assert run.eager_because in ("there is no CUDA device", "fast_step is off")


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_one_setting_switches_everything_off(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fast_step off: transformers' decoder and default attention, PEFT's operations, AdamW's plain form. (That no
    kernel is launched then: fused_in_interpreter.py.)"""
    from core.layers import low_rank

    by_hand: list[bool] = []
    real = low_rank.LoRALinear.apply
    monkeypatch.setattr(low_rank.LoRALinear, "apply", lambda *a: by_hand.append(True) or real(*a))
    found = {}
    for fast in (True, False):
        run = _Run(RunConfig(method=method, train=TrainConfig(**{**LOOP, "fast_step": fast})), tmp_path, lambda: False)
        run._prepare()
        run.measured_step = 1  # that step goes through the model, layer by layer, either way
        by_hand.clear()
        step = run._train_step()
        assert bool(by_hand) == (fast and method != "full")
        assert run.model.config._attn_implementation == ("eager" if fast else "sdpa")
        assert [g["fused"] for g in run.optimizer.param_groups] == [fast]
        assert (run.loss_sum is run.plain_loss_sum) is not fast
        found[fast] = step.loss, step.grad_norm
    assert found[True] == pytest.approx(found[False], rel=1e-5)


def test_a_four_bit_layer_decodes_the_same_by_our_kernels_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a record says that the kernel pays, the layer decodes by it: bit for bit what bitsandbytes decodes."""
    from core.layers import four_bit

    layer = four_bit.FourBitLinear(torch.nn.Linear(128, 96))
    theirs = layer.dense_weight(torch.bfloat16)
    asked: list[int] = []
    monkeypatch.setattr(four_bit, "pays", lambda kernel, x, size: asked.append(size) or True)
    assert torch.equal(layer.dense_weight(torch.bfloat16), theirs)
    assert asked == [96 * 128]


# --- captured steps, as far as a machine without CUDA can tell --------------------------------------------------------


def stepper(method: str, capture: Any = Replayed) -> tuple[GraphedStep, Any, list[torch.nn.Parameter]]:
    model = prepared("grouped", method)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, _ = make_optimizer("adamw", parameters, 1e-2, 0.0)
    made = GraphedStep(model, parameters, optimizer, 1.0, nullcontext, 0, torch.device("cpu"), capture)
    return made, model, parameters


def eager(method: str, batches: list[Batch]) -> list[tuple[float, float]]:
    """The same steps as the loop takes them."""
    model = prepared("grouped", method)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, _ = make_optimizer("adamw", parameters, 1e-2, 0.0)
    found = []
    for batch in batches:
        loss = answer_loss_sum(model, batch.ids, batch.labels) / batch.answer_tokens
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found.append((loss.item(), norm.item()))
    return found


@pytest.mark.parametrize("method", ["lora", "full", "bitfit"])
def test_a_replayed_step_is_the_loops_step(method: str) -> None:
    """Batches of several lengths, so that buckets come again after others, and shorter ones after longer ones."""
    batches = [batch_of(90, rows, length) for rows, length in ((3, 11), (3, 16), (2, 20), (3, 9), (3, 13), (2, 31))]
    steps, _, _ = stepper(method)
    mine = [steps.step(b) for b in batches]
    assert [m[0] for m in mine] == pytest.approx([e[0] for e in eager(method, batches)], rel=1e-5)
    assert [m[1] for m in mine] == pytest.approx([e[1] for e in eager(method, batches)], rel=1e-4)
    assert set(steps.graphs) == {Bucket(3, 16, 64), Bucket(2, 32, 64)}


def test_no_mask_is_made_and_none_is_missed() -> None:
    """Fused attention without a mask gives what it gives with transformers' own."""
    model = prepared("grouped", "lora")
    model.set_attn_implementation("sdpa")
    batch = batch_of(90)
    plain = answer_loss_sum(model, batch.ids, batch.labels).item()
    with graphed.without_mask(model):
        assert model.config._attn_implementation == graphed.MASKLESS
        assert answer_loss_sum(model, batch.ids, batch.labels).item() == pytest.approx(plain, rel=1e-6)
    assert model.config._attn_implementation == "sdpa"


def test_a_bucket_holds_its_batch_and_forgets_the_one_before() -> None:
    long, short = batch_of(90, 3, 16), batch_of(90, 3, 5)
    assert Bucket.of(long) == Bucket.of(short) == Bucket(3, 16, 64)
    used = Buffers(Bucket.of(long), torch.device("cpu"), 0)
    used.fill(long)
    used.fill(short)
    fresh = Buffers(Bucket.of(short), torch.device("cpu"), 0)
    fresh.fill(short)
    for name in ("ids", "places", "targets", "count"):
        assert torch.equal(getattr(used, name), getattr(fresh, name)), name
    counted = used.targets != IGNORED
    assert counted.sum() == short.answer_tokens == used.count
    row, column = used.places[counted] // 16, used.places[counted] % 16
    assert torch.equal(short.labels[row, column + 1], used.targets[counted])


def test_what_cannot_be_captured_runs_without_and_says_why() -> None:
    def broken(step: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    batches = [batch_of(90)] * 4
    steps, _, _ = stepper("lora", broken)
    mine = [steps.step(b) for b in batches]
    assert [m[0] for m in mine] == pytest.approx([e[0] for e in eager("lora", batches)], rel=1e-5)
    assert steps.reason == "RuntimeError: operation not permitted when stream is capturing"
    assert not steps.takes(batches[0])


def test_a_capture_that_fails_late_leaves_no_gradients() -> None:
    """After backward there are some, which on a card were never computed; the step that follows has its own alone."""

    def late(step: Any) -> Any:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 7.0)
        raise RuntimeError("cudaErrorStreamCaptureInvalidated")

    batches = [batch_of(90)] * 4
    steps, parameters, _ = stepper("lora", late)
    mine = [steps.step(b) for b in batches]
    right = eager("lora", batches)
    assert [m[0] for m in mine] == pytest.approx([e[0] for e in right], rel=1e-5)
    assert [m[1] for m in mine] == pytest.approx([e[1] for e in right], rel=1e-4)


def test_there_are_not_more_buckets_than_memory_is_kept_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed, "MOST_BUCKETS", 1)
    steps, _, _ = stepper("lora")
    short, long = batch_of(90, 3, 8), batch_of(90, 3, 40)
    assert steps.takes(short)
    steps.step(short)
    assert steps.takes(short)
    assert not steps.takes(long)


def test_reasons_not_to_capture() -> None:
    model = prepared("grouped", "lora")
    parameters = [p for p in model.parameters() if p.requires_grad]
    adamw, _ = make_optimizer("adamw", parameters, 1e-2, 0.0)
    eight, _ = make_optimizer("adamw_8bit", parameters, 1e-2, 0.0)
    cuda: dict[str, Any] = {
        "device": torch.device("cuda"), "processes": 1, "passes": 1, "recomputing": False, "causal": True,
    }  # fmt: skip
    assert graphed.why_not(model, adamw, **cuda) == ""
    assert "counts its steps" in graphed.why_not(model, eight, **cuda)
    for name, value, reason in (
        ("device", torch.device("cpu"), "no CUDA"), ("processes", 2, "several processes"), ("passes", 4, "passes"),
        ("recomputing", True, "recomputed"), ("causal", False, "classifier"),
    ):  # fmt: skip
        assert reason in graphed.why_not(model, adamw, **{**cuda, name: value})
    dropping = attach(
        AutoModelForCausalLM.from_config(SHAPES["grouped"]), "lora", METHODS["lora"].Config(dropout=0.1),
        keep_base=False, device=torch.device("cpu"),
    ).model  # fmt: skip
    assert "at random" in graphed.why_not(dropping, adamw, **cuda)
    # Attention's own dropout is no layer: a number, called as the family likes.
    config = copy.deepcopy(SHAPES["grouped"])
    config.attention_dropout = 0.1
    dropping = AutoModelForCausalLM.from_config(config)
    assert "at random" in graphed.why_not(dropping, adamw, **cuda)


def test_a_bucket_never_reaches_past_the_positions() -> None:
    """Rows are padded to multiples of sixteen, and a model may have read its last position before that."""
    model = prepared("grouped", "lora")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, _ = make_optimizer("adamw", parameters, 1e-2, 0.0)
    model.config.max_position_embeddings = 20
    made = GraphedStep(model, parameters, optimizer, 1.0, nullcontext, 0, torch.device("cpu"), Replayed)
    assert made.takes(batch_of(90, 3, 16))
    assert not made.takes(batch_of(90, 3, 20))


def test_a_rate_in_a_tensor_is_written_in_place_and_saved() -> None:
    model = prepared("grouped", "lora")
    optimizer, _ = make_optimizer("adamw", [p for p in model.parameters() if p.requires_grad], 1e-2, 0.0)
    graphed.make_capturable(optimizer, torch.device("cpu"))
    (group,) = optimizer.param_groups
    rate = group["lr"]
    set_rate(group, 3e-3)
    assert group["lr"] is rate
    assert math.isclose(rate.item(), 3e-3, rel_tol=1e-6)
    tensors, described = optimizer_state(optimizer)
    assert torch.equal(tensors["group0.lr"], rate)
    assert described["groups"][0]["capturable"] is True


def test_the_ledger_has_a_term_for_what_graphs_keep(tmp_path: Path) -> None:
    run = _Run(RunConfig(train=TrainConfig(**LOOP)), tmp_path, lambda: False)
    run._prepare()
    while run.step < run.measured_step:
        run._train_step()
    before = run.ledger
    run.graphs = dataclasses.make_dataclass("Graphs", ["bytes", "graphs"])(12_345, {"a": 1})
    run._account_for_graphs()
    assert run.ledger["allocated_bytes"] == before["allocated_bytes"] + 12_345
    assert sum(t["bytes"] for t in run.ledger["terms"]) == run.ledger["allocated_bytes"]
