"""The methods on encoders: what the conformance suite asks of language models, and a head that trains with each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core.architecture import Architecture, classifier_of
from core.errors import BadInput, Incompatible
from core.methods import METHODS, attach_saved, saved_as
from core.methods.saved import head_in
from tests.checkpoints import ENCODERS, make_encoder

PROMPTS = [name for name, module in METHODS.items() if hasattr(module, "PROMPT")]
TRAINED = [m for m in METHODS if m not in PROMPTS]
# ModernBERT has next to no biases; ALBERT's blocks share their weights, so that there is one.
LACKS = {("bitfit", "modernbert"), ("last_k", "albert")}
EVERY = [(m, f) for m in TRAINED for f in ENCODERS if (m, f) not in LACKS]
MAIN = [(m, f) for m in TRAINED for f in ("bert", "distilbert")]
on_all = pytest.mark.parametrize(("method", "family"), EVERY)
on_main = pytest.mark.parametrize(("method", "family"), MAIN)


def ids(seed: int = 1) -> torch.Tensor:
    return torch.randint(10, 300, (4, 9), generator=torch.Generator().manual_seed(seed))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids()).logits


def attach(method: str, family: str, seed: int = 7, **settings):
    model = make_encoder(family)
    torch.manual_seed(seed)
    return METHODS[method].apply(model, METHODS[method].Config(**settings))


def train(attached, steps: int = 2) -> None:
    trained = [p for p in attached.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        attached.model(input_ids=ids(step), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        optimizer.step()


@on_all
def test_the_closed_form_counts_the_head_too_and_is_the_attached_count(method: str, family: str) -> None:
    module = METHODS[method]
    table = Architecture.of(make_encoder(family))
    assert Architecture.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    attached = attach(method, family)
    real = sum(p.numel() for p in attached.model.parameters() if p.requires_grad)
    sites = module.sites(table, module.Config())
    assert module.count(table, module.Config()) == real == sum(site.trained for site in sites)
    assert {site.module for site in sites} >= set(table.classifier)
    assert len({site.module for site in sites}) == len(sites)


@on_all
def test_the_head_trains_whole_and_nothing_trains_that_was_not_promised(method: str, family: str) -> None:
    attached = attach(method, family)
    before = {n: p.detach().clone() for n, p in attached.model.named_parameters()}
    train(attached)
    trained, head = set(attached.trainable_names()), set(classifier_of(attached.model))
    assert {n for n in before if n.rpartition(".")[0] in head} <= trained
    assert trained == {n for n, p in attached.model.named_parameters() if p.requires_grad}
    for name, parameter in attached.model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
        # Of the embeddings only the rows that occurred move; a key's bias is cancelled by the softmax.
        if name not in trained:
            assert torch.equal(parameter, before[name]), name
    for name in (n for n in before if n.rpartition(".")[0] in head):
        assert not torch.equal(attached.model.get_parameter(name), before[name]), name


@on_main
def test_disable_gives_the_base_and_its_head_back_and_enable_undoes_it(method: str, family: str) -> None:
    base = logits(make_encoder(family))
    attached = attach(method, family)
    start = logits(attached.model)
    if method not in ("qlora", "pissa"):
        assert torch.equal(start, base)
    train(attached)
    trained = logits(attached.model)
    assert not torch.equal(trained, start)
    attached.disable()
    assert torch.equal(logits(attached.model), base if method == "pissa" else start)
    attached.enable()
    assert torch.equal(logits(attached.model), trained)


@on_main
def test_what_is_saved_and_loaded_computes_the_same_bits(method: str, family: str, tmp_path: Path) -> None:
    attached = attach(method, family)
    train(attached)
    trained = logits(attached.model)
    attached.disable()
    attached.save(tmp_path / "a")  # while switched off: the change is saved all the same
    attached.enable()
    assert saved_as(tmp_path / "a") == (method, METHODS[method].Config())
    assert head_in(tmp_path / "a") == {"labels": ("LABEL_0", "LABEL_1", "LABEL_2"), "head_seed": 0}
    again = attach_saved(make_encoder(family), tmp_path / "a")
    assert torch.equal(logits(again.model), trained)
    again.disable()
    again.load(tmp_path / "a")  # while switched off
    again.enable()
    assert torch.equal(logits(again.model), trained)


@pytest.mark.parametrize(("method", "family"), [(m, f) for m, f in MAIN if METHODS[m].MERGES])
def test_merged_equals_unmerged_with_the_trained_head(method: str, family: str) -> None:
    attached = attach(method, family)
    train(attached)
    before = logits(attached.model)
    merged = attached.merge()
    assert [n for n, _ in merged.named_parameters()] == [n for n, _ in make_encoder(family).named_parameters()]
    assert not any(p.requires_grad for p in merged.parameters())
    torch.testing.assert_close(logits(merged), before, rtol=0, atol=3e-6)


def test_a_run_that_keeps_no_base_says_so_when_it_is_switched_off() -> None:
    attached = METHODS["lora"].apply(make_encoder("bert"), METHODS["lora"].Config(), keep_base=False)
    train(attached)
    trained = logits(attached.model)
    with pytest.raises(Exception, match="no copy was kept"):
        attached.disable()
    assert torch.equal(logits(attached.model), trained), "nothing was switched half-way"


@pytest.mark.parametrize("method", PROMPTS)
def test_trained_tokens_are_refused_on_an_encoder(method: str) -> None:
    for attempt in (
        lambda: attach(method, "bert"),
        lambda: METHODS[method].count(Architecture.of(make_encoder("bert")), METHODS[method].Config()),
    ):
        with pytest.raises(Incompatible, match="read off its first token") as caught:
            attempt()
        assert "lora" in caught.value.advice


def test_what_a_method_cannot_train_is_said() -> None:
    with pytest.raises(Incompatible, match="belongs to the classification head"):
        attach("lora", "bert", target_modules="query,classifier")
    with pytest.raises(Incompatible, match="belongs to the classification head"):
        attach("lora", "roberta", target_modules="out_proj")
    with pytest.raises(Incompatible, match="has 1 blocks"):
        attach("last_k", "albert")


def test_bitfit_trains_what_its_authors_train() -> None:
    """All biases, the pooler's among them, and the classifier whole (their code, `_deactivate_relevant_gradients`)."""
    attached = attach("bitfit", "bert")
    names = {n for n, _ in make_encoder("bert").named_parameters()}
    assert set(attached.trainable_names()) == {n for n in names if "bias" in n or "classifier" in n}
    assert "bert.pooler.dense.bias" in attached.trainable_names()
    assert "bert.pooler.dense.weight" not in attached.trainable_names()


def test_which_layers_ia3_and_adapters_take_in_each_family() -> None:
    """Keys, values and the MLP's second matrix of both blocks; adapters behind attention and MLP."""
    for family in ENCODERS:
        table = Architecture.of(make_encoder(family))
        blocks = 1 if family == "albert" else 2
        places = 2 if family == "modernbert" else 3  # queries, keys and values in one matrix
        scaled = METHODS["ia3"].sites(table, METHODS["ia3"].Config())
        assert len(scaled) - len(table.classifier) == blocks * places, family
        behind = METHODS["adapters"].sites(table, METHODS["adapters"].Config())
        assert len(behind) - len(table.classifier) == blocks * 2, family


def test_an_adapter_for_other_labels_or_another_family_is_refused(tmp_path: Path) -> None:
    for method in ("lora", "bitfit", "full"):
        attach(method, "bert").save(tmp_path / method)
        with pytest.raises(BadInput, match="LABEL_0, LABEL_1, LABEL_2 apart; this model's labels are LABEL_0, LABEL_1"):
            attach_saved(make_encoder("bert", labels=2), tmp_path / method)
        with pytest.raises(BadInput, match="trained on a bert model"):
            attach_saved(make_encoder("roberta"), tmp_path / method)


def test_an_encoder_without_biases_is_refused_by_bitfit_and_told_of_others() -> None:
    with pytest.raises(Incompatible, match="has no bias vectors") as caught:
        attach("bitfit", "modernbert")
    assert "RoBERTa" in caught.value.advice
