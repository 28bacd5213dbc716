"""The decoder with kernels: what happens without Triton or a record. (With them: fused_in_interpreter.py.)"""

from __future__ import annotations

import pytest
import torch

from core.fast.fused import with_kernels
from kernels import base
from tests.core.test_fast import SHAPES, batch_of, gradients, prepared


def test_no_record_no_such_form(monkeypatch: pytest.MonkeyPatch) -> None:
    model = prepared("grouped", "lora")
    assert with_kernels(model) == (None, "no record says that a kernel is faster here")
    monkeypatch.setattr("core.fast.fused.sizes", lambda name, x: (0, 1) if name == "rope" else None)
    form, because = with_kernels(model)
    assert form is not None
    assert because == ""
    model.model.layers[0].mlp.register_forward_hook(lambda *a: None)
    assert "listens" in with_kernels(model)[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_where_no_size_pays_it_is_plain_pytorch(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card whose record begins at larger sizes: the same losses from the references of the kernels."""
    from core.evaluate import answer_loss_sum

    monkeypatch.setattr("core.fast.fused.sizes", lambda name, x: (1e12, 1e15))
    model = prepared(shape, "lora")
    form, _ = with_kernels(model)
    assert form is not None
    batch = batch_of(SHAPES[shape].vocab_size)
    plain = answer_loss_sum(model, batch.ids, batch.labels)
    right = gradients(model, plain)
    mine = form(batch)
    assert mine.item() == pytest.approx(plain.item(), rel=2e-6)
    for name, found in gradients(model, mine).items():
        assert (found - right[name]).norm() <= 2e-5 * right[name].norm() + 1e-7, name


def test_off_is_off_whatever_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "runs_on", lambda x: True)
    monkeypatch.setenv(base.SETTING, "1")
    x = torch.zeros(1)
    assert base.pays("rope", x, 1)
    with base.switched_off():
        assert not base.pays("rope", x, 1)
        with base.switched_off():
            pass
        assert not base.pays("rope", x, 1)
    assert base.pays("rope", x, 1)
