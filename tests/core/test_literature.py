"""The published comparison: whole, plausible, and each row with its source."""

from core.literature import SOURCE, method_comparison
from core.methods import METHODS


def test_every_experiment_has_its_source_and_plausible_numbers() -> None:
    rows = method_comparison()
    assert len(rows) == 36
    assert len({r.source for r in rows}) == 36
    for r in rows:
        assert r.source.startswith(SOURCE.replace("/tree/", "/blob/") + "/results/")
        assert r.source.endswith(f"{r.method}--llama-3.2-3B-{r.experiment}.json")
        assert 0 < r.trainable <= r.total < 4e9
        assert 0 <= r.test_accuracy <= 1
        assert 15 < r.memory_gib < 40
        assert r.ours is None or r.ours in METHODS


def test_only_full_fine_tuning_trains_everything() -> None:
    assert [r.method for r in method_comparison() if r.trainable == r.total] == ["full-finetuning"]
