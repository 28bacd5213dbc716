"""Batches: every example once an epoch, an order fixed by the seed, buckets that save padding, honest masks."""

from __future__ import annotations

import random

import pytest
import torch

from core.batches import IGNORED, Plan, collate
from core.template import Encoded

_rng = random.Random(4)
LENGTHS = [_rng.randint(5, 90) for _ in range(101)]


def epoch(plan: Plan, number: int) -> list[list[int]]:
    return [plan.rows(number * plan.per_epoch + i) for i in range(plan.per_epoch)]


@pytest.mark.parametrize("buckets", [True, False])
def test_an_epoch_holds_each_example_at_most_once_and_leaves_out_less_than_a_batch(buckets: bool) -> None:
    plan = Plan(LENGTHS, 8, seed=1, buckets=buckets)
    for number in range(3):
        rows = [r for batch in epoch(plan, number) for r in batch]
        assert len(rows) == len(set(rows)) == 101 // 8 * 8
        assert all(len(b) == 8 for b in epoch(plan, number))


def test_the_order_depends_on_the_seed_and_the_epoch_alone() -> None:
    plan, again = Plan(LENGTHS, 8, 1, buckets=True), Plan(LENGTHS, 8, 1, buckets=True)
    late = plan.rows(30)
    assert [plan.rows(n) for n in range(5)] == [again.rows(n) for n in range(5)]
    assert again.rows(30) == late
    assert epoch(plan, 0) != epoch(plan, 1)
    assert epoch(plan, 0) != epoch(Plan(LENGTHS, 8, 2, buckets=True), 0)


def test_buckets_compute_on_fewer_padded_tokens() -> None:
    lengths = LENGTHS * 8
    sizes = {}
    for buckets in (True, False):
        plan = Plan(lengths, 8, 0, buckets=buckets)
        sizes[buckets] = sum(plan.padded_tokens(n) for n in range(plan.per_epoch))
    assert sizes[True] < 0.75 * sizes[False]
    assert sizes[True] >= sum(lengths[i] for b in epoch(Plan(lengths, 8, 0, buckets=True), 0) for i in b)


def test_fewer_examples_than_a_batch_make_one_batch_of_all() -> None:
    plan = Plan([3, 4, 5], 32, 0, buckets=True)
    assert sorted(plan.rows(0)) == sorted(plan.rows(17)) == [0, 1, 2]


def test_collating_pads_on_the_right_and_counts_the_answers_tokens() -> None:
    batch = collate([Encoded([1, 2, 3], [IGNORED, 2, 3]), Encoded([4, 5], [IGNORED, 5])], pad_id=9)
    assert batch.ids.tolist() == [[1, 2, 3], [4, 5, 9]]
    assert batch.labels.tolist() == [[IGNORED, 2, 3], [IGNORED, 5, IGNORED]]
    assert batch.answer_tokens == 3
    assert batch.ids.dtype == torch.long
