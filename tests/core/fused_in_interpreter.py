"""The decoder with kernels, its kernels run by Triton's interpreter. Run in a process of its own by
tests/kernels/test_triton.py:

python -m pytest tests/core/fused_in_interpreter.py
"""

import tests.kernels.interpreter  # noqa: F401, I001 (first of all: it sets what the kernels' decorators read)

from collections import Counter
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import RunConfig, resolved, with_settings
from core.evaluate import answer_loss_sum
from core.events import Finished, Started, Step
from core.fast import llama
from core.fast.fused import with_kernels
from core.fast.graphed import GraphedStep, Replayed
from core.optimizers import make_optimizer
from core.train import train
from kernels.base import switched_off
from tests import checkpoints
from tests.core.test_fast import SHAPES, STEP, batch_of, distance, eager, gradients, prepared

torch.set_num_threads(1)
# The interpreter takes a moment for every row of a kernel: few of them.
TOKENS = {"rows": 2, "length": 7}
OPERATIONS = {
    "rms_norm": ("_op", "_backward_op"), "rope": ("_op",), "swiglu": ("_op", "_backward_op"),
    "linear_cross_entropy": ("loss_of_logits_",), "nf4": ("_op",), "lora_grads": ("_op",),
    "nf4_lora_linear": ("_op", "_backward_op"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kernel's operations are called."""
    found: Counter[str] = Counter()

    def counting(name: str, operation: Any) -> Any:
        def counted(*args: Any) -> Any:
            found[name] += 1
            return operation(*args)

        return counted

    for name, operations in OPERATIONS.items():
        file = import_module(f"kernels.{name}")
        for operation in operations:
            monkeypatch.setattr(file, operation, counting(name, getattr(file, operation)))
    return found


BETWEEN = {"rms_norm", "rope", "swiglu", "linear_cross_entropy"}


@pytest.mark.parametrize(
    ("shape", "method", "inside"),
    [
        ("grouped", "full", set()), ("plain", "lora", {"lora_grads"}), ("qwen2", "ln_tuning", set()),
        ("grouped", "bitfit", set()), ("grouped", "qlora", {"nf4_lora_linear", "nf4", "lora_grads"}),
        ("plain", "dora", set()),
    ],
)  # fmt: skip
def test_the_decoder_with_kernels_is_transformers_own(
    shape: str, method: str, inside: set[str], launched: Counter[str]
) -> None:
    model = prepared(shape, method)
    form, because = with_kernels(model)
    assert form is not None, because
    batch = batch_of(SHAPES[shape].vocab_size, **TOKENS)
    with switched_off():
        plain = answer_loss_sum(model, batch.ids, batch.labels)
        right = gradients(model, plain)
    assert not launched
    mine = form(batch)
    found = gradients(model, mine)
    assert set(launched) == BETWEEN | inside
    assert mine.item() == pytest.approx(plain.item(), rel=2e-6)
    assert found.keys() == right.keys()
    for name, exact in right.items():
        assert (found[name] - exact).norm() <= 2e-5 * exact.norm() + 1e-7, name


@pytest.mark.parametrize("method", ["lora", "full"])
def test_in_16_bits_it_errs_as_transformers_does(method: str) -> None:
    """Under autocast, against the same model in 32 bits: the error is that of 16 bits, with kernels and without. (How
    near is said at test_fast.STEP.)"""
    model = prepared("grouped", method)
    form, _ = with_kernels(model)
    assert form is not None
    batch = batch_of(90)
    with switched_off():
        exact = gradients(model, answer_loss_sum(model, batch.ids, batch.labels))
        with torch.autocast("cpu", torch.bfloat16):
            plain = gradients(model, answer_loss_sum(model, batch.ids, batch.labels))
    with torch.autocast("cpu", torch.bfloat16):
        loss = form(batch)
    mine = gradients(model, loss)

    assert 0 < distance(mine, exact) <= 1.5 * distance(plain, exact)
    for name, right in exact.items():
        assert distance(mine, {name: right}) <= 3 * distance(plain, {name: right}) + 2 * STEP, name


def test_captured_steps_take_the_form_too(launched: Counter[str]) -> None:
    batches = [batch_of(90, rows, length) for rows, length in ((1, 7), (1, 5))]
    model = prepared("grouped", "lora")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, _ = make_optimizer("adamw", parameters, 1e-2, 0.0)
    form, _ = with_kernels(model)
    device = torch.device("cpu")
    steps = GraphedStep(model, parameters, optimizer, 1.0, nullcontext, 0, device, Replayed, form)
    mine = [steps.step(b) for b in batches]
    assert set(launched) >= BETWEEN
    with switched_off():
        plain = eager("lora", batches)
    assert [m[0] for m in mine] == pytest.approx([e[0] for e in plain], rel=1e-5)
    assert [m[1] for m in mine] == pytest.approx([e[1] for e in plain], rel=1e-4)


def test_a_run_takes_the_kernels_and_one_setting_leaves_them_out(
    tmp_path: Path, launched: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "PLAIN_TOKENS", 0)  # (on a processor the decoder that is written out comes first)
    base = checkpoints.write("llama_biased", tmp_path / "base")
    rows = checkpoints.write_doubles(tmp_path / "rows.jsonl", 12)
    run = RunConfig(base=str(base), task=None, data=str(rows), method="lora")
    asked = {"learning_rate": 1e-2, "steps": 2, "batch_size": 1, "eval_items": 4, "eval_every": 100,
             "precision": "bfloat16"}  # fmt: skip
    config = resolved(with_settings(run, asked))

    def losses(name: str, config: RunConfig) -> tuple[list[float], str]:
        events = list(train(config, tmp_path / name))
        assert isinstance(events[0], Started)
        assert isinstance(events[-1], Finished), events[-1]
        return [e.loss for e in events if isinstance(e, Step)], events[-1].others

    plain, others = losses("plain", with_settings(config, {"fast_step": False}))
    assert not launched
    assert others == ""
    mine, others = losses("mine", config)
    assert set(launched) == BETWEEN | {"lora_grads"}
    assert others == "with kernels"
    assert mine != plain
    assert mine == pytest.approx(plain, rel=2e-2)
