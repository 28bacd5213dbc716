"""Counting a step's operations: views cost nothing, products cost what the formula says, and nothing is left out."""

from __future__ import annotations

import torch

from core.traffic import by_name, counting, size_bytes


def test_a_product_is_counted_to_the_byte() -> None:
    a, b = torch.zeros(6, 4), torch.zeros(4, 5)
    with counting() as found:
        a @ b
    (one,) = found
    assert (one.operations, one.read, one.written) == (2 * 6 * 4 * 5, 4 * (24 + 20), 4 * 30)


def test_looking_at_memory_in_another_way_is_free() -> None:
    a = torch.zeros(6, 4)
    with counting() as found:
        a.t().reshape(2, 12)[0].unsqueeze(0).expand(5, 12)
    assert [c.name for c in found] == ["clone"]  # reshape of a transposed tensor has to copy it


def test_what_is_repeated_lies_in_memory_once() -> None:
    assert size_bytes(torch.zeros(1, 4).expand(100, 4)) == 16


def test_writing_over_reads_nothing() -> None:
    a = torch.zeros(8)
    with counting() as found:
        a.zero_()
        a.add_(1.0)
    assert [(c.read, c.written) for c in found] == [(0, 32), (32, 32)]


def test_the_backward_pass_is_counted_too() -> None:
    w = torch.zeros(3, 3, requires_grad=True)
    x = torch.zeros(2, 3)
    with counting() as forward:
        y = (x @ w).sum()
    with counting() as backward:
        y.backward()
    assert [c.name for c in forward] == ["mm", "sum"]
    assert "mm" in [c.name for c in backward]
    assert by_name(forward)[0][0] == "mm"


def test_a_model_without_memory_is_counted_like_a_real_one() -> None:
    def run(device: str) -> list[tuple[str, float, int]]:
        layer = torch.nn.Linear(16, 8, device=device)
        x = torch.zeros(4, 16, device=device)
        with counting() as found:
            torch.nn.functional.silu(layer(x)).sum().backward()
        return [(c.name, c.operations, c.bytes) for c in found]

    assert run("meta") == run("cpu")
