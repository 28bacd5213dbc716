"""Encoders as bases: loading, the classification head, and training them on texts with labels."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import events
from core.architecture import architecture_of_config
from core.base import context_tokens, describe_base, in_order, kind_of_base, load_base, load_config
from core.classify import Classification, labels_text, macro_f1, probabilities
from core.config import RunConfig, resolved, with_settings
from core.errors import BadInput, BaseUnavailable
from core.methods import METHODS, load_saved
from core.objective import CausalLM, answer, objective_for
from core.template import conversation
from core.train import _Run, train
from tests.checkpoints import ENCODERS, write, write_encoder

GOOD, BAD = ("joy", "great", "lovely", "superb"), ("dull", "awful", "boring", "poor")


def rows(count: int, seed: int, *, neutral: bool = False) -> list[tuple[str, str]]:
    """Sentences whose label hangs on one word; `neutral` adds some without such a word."""
    rng = random.Random(seed)
    out = []
    for i in range(count):
        label = ("yes", "no", "none")[i % (3 if neutral else 2)]
        word = {"yes": rng.choice(GOOD), "no": rng.choice(BAD), "none": "on Monday"}[label]
        out.append((f"The {rng.choice(('film', 'play', 'book'))} number {rng.randint(1, 99)} was {word}.", label))
    return out


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "reviews.csv"
    path.write_text("text,label\n" + "".join(f"{t},{label}\n" for t, label in rows(320, 1)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "graded.jsonl"
    lines = [json.dumps({"text": t, "label": label}) for t, label in rows(300, 2, neutral=True)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A pretrained encoder of every family, without a head."""
    return {f: write_encoder(f, tmp_path_factory.mktemp(f)) for f in ENCODERS}


def config(base: Path, data: Path, method: str = "lora", seed: int = 0, **settings: Any) -> RunConfig:
    loop = {"learning_rate": 1e-2, "steps": 4, "batch_size": 8, "eval_items": 20, "precision": "float32"} | settings
    run = RunConfig(base=str(base), task=None, data=str(data), method=method, seed=seed)
    return resolved(with_settings(run, loop))


def finished(stream: list[events.Event]) -> list[events.Evaluated]:
    assert isinstance(stream[-1], events.Finished), stream[-1]
    return [e for e in stream if isinstance(e, events.Evaluated)]


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_is_told_by_its_config_and_gets_a_head_that_the_seed_draws(
    family: str, bases: dict[str, Path]
) -> None:
    source = str(bases[family])
    assert kind_of_base(source) == describe_base(source)["task"] == "classification"
    one, two, other = (load_base(source, labels=("b", "a"), head_seed=s) for s in (1, 1, 2))
    assert one.labels == ("a", "b")
    assert one.model.config.id2label == {0: "a", 1: "b"}
    assert f"start as seed {1} draws them. Before training, its answers mean nothing" in one.notes[0]
    state, again, else_ = (dict(b.model.state_dict()) for b in (one, two, other))
    assert all(torch.equal(t, again[n]) for n, t in state.items())
    differ = {n for n, t in state.items() if not torch.equal(t, else_[n])}
    assert differ
    assert all("classifier" in n or "pooler" in n for n in differ)
    stored = load_file(bases[family] / "model.safetensors")
    assert not {n for n in differ if n in stored}, "what the checkpoint has is as it stands there"


def test_a_head_of_the_checkpoint_is_used_as_it_is_when_it_has_as_many_labels(tmp_path: Path) -> None:
    folder = write_encoder("roberta", tmp_path, names=("NO", "yes"))
    stored = load_file(folder / "model.safetensors")
    plain = load_base(str(folder))
    assert plain.labels == ("NO", "yes")
    assert plain.notes == ("The checkpoint's own classification head is used, for NO, yes.",)
    own = load_base(str(folder), labels=("yes", "no"))
    assert own.labels == ("no", "yes"), "in the order of the head's outputs, by the names that are the same"
    for base in (plain, own):
        assert torch.equal(base.model.get_parameter("classifier.out_proj.weight"), stored["classifier.out_proj.weight"])
    renamed = load_base(str(folder), labels=("good", "bad"))
    assert renamed.labels == ("bad", "good")
    assert "It was for NO, yes; its outputs now stand for bad, good, in this order" in renamed.notes[0]
    more = load_base(str(folder), labels=("a", "b", "c"))
    assert "new, because the checkpoint's own is for 2 labels: classifier.out_proj (99 parameters)" in more.notes[0]
    assert torch.equal(more.model.get_parameter("classifier.dense.weight"), stored["classifier.dense.weight"])


def test_the_order_of_labels() -> None:
    assert in_order(("10", "9", "-1"), ("LABEL_0", "LABEL_1")) == ("-1", "9", "10")
    assert in_order(("b", "a", "C"), ()) == ("C", "a", "b")
    assert in_order(("Bad", "good"), ("GOOD", "bad")) == ("good", "Bad")


def test_an_encoder_without_head_and_labels_is_refused(bases: dict[str, Path]) -> None:
    with pytest.raises(BaseUnavailable, match="an encoder without a classification head") as caught:
        load_base(str(bases["bert"]))
    assert "text,label" in caught.value.advice


def test_weights_that_are_not_the_encoders_are_refused(tmp_path: Path) -> None:
    folder = write_encoder("bert", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    lost = {n: t for n, t in tensors.items() if "layer.1.attention.self.query" not in n}
    save_file(lost, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseUnavailable, match=r"do not fit its config.json: 2 parameters are missing"):
        load_base(str(folder), labels=("a", "b"))
    tensors["bert.encoder.layer.0.output.dense.weight"] = torch.zeros(3, 3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseUnavailable, match=r"do not fit its config.json"):
        load_base(str(folder), labels=("a", "b"))


def test_bert_as_a_decoder_stays_a_language_model(tmp_path: Path) -> None:
    folder = write_encoder("bert", tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    for change in ({"is_decoder": True}, {"architectures": ["BertLMHeadModel"]}):
        (folder / "config.json").write_text(json.dumps(raw | change))
        assert kind_of_base(str(folder)) == "causal_lm"
    assert kind_of_base("embedded") == kind_of_base("owner/unseen") == kind_of_base("/nowhere") == "causal_lm"


def test_roberta_counts_its_positions_from_behind_the_padding(bases: dict[str, Path]) -> None:
    """132 positions, the padding token has number 3 in this tokenizer: 128 are left, and the 128th token works."""
    base = load_base(str(bases["roberta"]), labels=("a", "b"))
    assert base.model.config.pad_token_id == 3
    assert describe_base(str(bases["roberta"]))["context"] == context_tokens(base.model) == 128
    base.model(input_ids=torch.full((1, 128), 20))
    with pytest.raises((IndexError, RuntimeError)):
        base.model(input_ids=torch.full((1, 129), 20))


def test_a_configuration_alone_is_counted_with_a_head_for_its_labels(bases: dict[str, Path]) -> None:
    table = architecture_of_config(load_config(str(bases["distilbert"])))
    assert table.classifier == ("pre_classifier", "classifier")
    lora = METHODS["lora"]
    head = sum(site.trained for site in lora.sites(table, lora.Config()) if site.module in table.classifier)
    assert head == 32 * 32 + 32 + 32 * 2 + 2
    assert lora.count(table, lora.Config()) == head + 2 * 8 * (4 * (32 + 32) + 2 * (32 + 64))


# --- scores -----------------------------------------------------------------------------------------------------------


def test_macro_f1_weighs_every_label_the_same() -> None:
    # label 0: 2·1/(2+3); label 1: 2·1/(2+1): by hand.
    assert macro_f1([0, 0, 1, 1, 2], [0, 1, 1, 0, 0]) == pytest.approx((2 / 5 + 2 / 4 + 0) / 3)
    assert macro_f1([0] * 9 + [1], [0] * 10) == pytest.approx((18 / 19) / 2)
    assert macro_f1([0, 1], [0, 1]) == 1
    assert macro_f1([], []) == 0


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ENCODERS)
def test_every_family_trains(family: str, bases: dict[str, Path], reviews: Path, tmp_path: Path) -> None:
    method = "ia3" if family == "modernbert" else "bitfit"
    stream = list(train(config(bases[family], reviews, method), tmp_path))
    scores = finished(stream)
    started = stream[0]
    assert isinstance(started, events.Started)
    assert started.base["labels"] == ["no", "yes"]
    assert any("classification head for no, yes is new" in note for note in started.notes)
    assert (started.examples, started.held_out) == (288, 20)
    assert all(e.macro_f1 is not None and 0 <= e.macro_f1 <= 1 and e.skills == {} for e in scores)
    assert {e.tokens for e in stream if isinstance(e, events.Step)} == {8}, "a label a text"
    assert (tmp_path / "adapter").is_dir()


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].START != "other"])
def test_every_method_trains_and_its_run_is_found_again(
    method: str, bases: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    """What the last scores said, the saved folder says too, through the same door as the chat's."""
    stream = list(train(config(bases["distilbert"], reviews, method), tmp_path))
    finished(stream)
    sample = [e for e in stream if isinstance(e, events.Sampled)][-1].samples[0]
    base, attached = load_saved(str(bases["distilbert"]), tmp_path / "adapter", precision="float32", device="cpu")
    assert attached is not None
    assert base.labels == ("no", "yes")
    assert probabilities(base.model, base.tokenizer, sample["prompt"])[0][0] == sample["output"]
    first = next(e for e in stream if isinstance(e, events.Sampled)).samples
    if method not in ("qlora",):
        attached.disable()
        untrained = [probabilities(base.model, base.tokenizer, s["prompt"])[0][0] for s in first]
        assert untrained == [s["output"] for s in first], "switched off, the head is the one that the run began with"


def test_the_same_config_and_seed_give_the_same_losses_and_a_resumed_run_is_no_other(
    bases: dict[str, Path], graded: Path, tmp_path: Path
) -> None:
    same = config(bases["bert"], graded, "lora", steps=6, accumulation=2)  # BERT has dropout: the random state counts
    first, second = (list(train(same, tmp_path / n)) for n in "ab")
    losses = [[e.loss for e in s if isinstance(e, events.Step)] for s in (first, second)]
    assert losses[0] == losses[1]
    asked = iter([False] * 4 + [True])
    part = list(train(same, tmp_path / "c", should_stop=lambda: next(asked)))
    rest = list(train(same, tmp_path / "c", resume=True))
    assert [e.loss for e in part + rest if isinstance(e, events.Step)] == losses[0]
    files = [(tmp_path / n / "adapter" / "adapter_model.safetensors").read_bytes() for n in "abc"]
    assert files[0] == files[1] == files[2]
    other = list(train(config(bases["bert"], graded, "lora", seed=1, steps=6, accumulation=2), tmp_path / "d"))
    assert next(e.loss for e in other if isinstance(e, events.Step)) != losses[0][0]


def test_accumulated_passes_give_the_gradient_of_one_large_batch(
    bases: dict[str, Path], graded: Path, tmp_path: Path
) -> None:
    run = _Run(
        config(bases["roberta"], graded, "full", batch_size=5, accumulation=3, clip=0.0), tmp_path, lambda: False
    )
    run._prepare()
    run.measured_step = 0
    run.model.eval()  # no dropout
    numbers = [i for n in run._micro(1) for i in run.plan.rows(n)]
    objective: Any = run.objective
    whole = objective.batch(numbers)
    mean = objective.loss_sum(run.model, whole) / whole.count
    wanted = torch.autograd.grad(mean, run.parameters)
    run.step = 1
    loss, _, counted = run._gradients(lambda part: None)
    assert (counted, loss) == (15, pytest.approx(mean.item(), rel=1e-5))
    for name, grad in zip(run.named, wanted, strict=True):
        # Sums in another order: float32 rounding of gradients of size 1e-2.
        torch.testing.assert_close(run.named[name].grad, grad, rtol=1e-4, atol=1e-7, msg=name)


def test_a_small_encoder_learns_and_what_it_has_learnt_serves_bitfit_lora_and_ia3(
    reviews: Path, graded: Path, tmp_path: Path
) -> None:
    """From random weights full fine-tuning learns to tell three kinds of sentence apart. Its encoder, with a new head
    for a question of two answers, is what a pretrained one is to the methods that leave most of it as it is."""
    blank = write_encoder("bert", tmp_path / "blank", initializer_range=0.2)
    scores = finished(list(train(config(blank, graded, "full", steps=80, batch_size=32, learning_rate=3e-3,
                                        eval_items=100, held_out=0.3), tmp_path / "full")))  # fmt: skip
    assert (scores[0].exact_match or 0) < 0.6
    assert (scores[-1].exact_match or 0) > 0.9
    assert (scores[-1].macro_f1 or 0) > 0.9
    (tmp_path / "full" / "adapter" / "deltalab.json").unlink()  # a folder like any other
    from tests.checkpoints import make_encoder_tokenizer

    make_encoder_tokenizer("bert").save_pretrained(tmp_path / "full" / "adapter")
    for method, rate in (("bitfit", 1e-2), ("lora", 1e-2), ("ia3", 3e-2)):
        run = config(tmp_path / "full" / "adapter", reviews, method, steps=30, batch_size=32, learning_rate=rate,
                     eval_items=100, held_out=0.3)  # fmt: skip
        stream = list(train(run, tmp_path / method))
        scores = finished(stream)
        assert "new, because the checkpoint's own is for 3 labels" in " ".join(stream[0].notes)  # type: ignore[union-attr]
        assert (scores[-1].exact_match or 0) > 0.75, (method, scores[-1])  # chance: a half, ± 0.1 on 96 rows
        assert (scores[-1].macro_f1 or 0) > 0.7, method


def test_a_head_that_the_checkpoint_brings_knows_its_labels_before_the_first_step(
    reviews: Path, tmp_path: Path
) -> None:
    blank = write_encoder("distilbert", tmp_path / "blank", initializer_range=0.2)
    run = config(blank, reviews, "full", steps=50, batch_size=32, learning_rate=3e-3, eval_items=100)
    learnt = finished(list(train(run, tmp_path / "full")))[-1]
    folder = tmp_path / "full" / "adapter"
    from tests.checkpoints import make_encoder_tokenizer

    make_encoder_tokenizer("distilbert").save_pretrained(folder)
    scores = finished(list(train(config(folder, reviews, "bitfit", steps=1, eval_items=100), tmp_path / "more")))
    assert scores[0].exact_match == learnt.exact_match
    assert scores[0].loss == pytest.approx(learnt.loss, rel=1e-5)


# --- what goes together -----------------------------------------------------------------------------------------------


def test_the_base_chooses_the_objective(bases: dict[str, Path], reviews: Path, tmp_path: Path) -> None:
    assert isinstance(objective_for(config(bases["bert"], reviews)), Classification)
    assert isinstance(objective_for(config(write("gpt2", tmp_path), reviews)), CausalLM)


def test_a_language_model_learns_to_answer_with_the_label(reviews: Path, tmp_path: Path) -> None:
    stream = list(train(config(write("gpt2", tmp_path), reviews, eval_items=4), tmp_path / "run"))
    assert finished(stream)[-1].macro_f1 is None
    assert next(e for e in stream if isinstance(e, events.Sampled)).samples[0]["reference"] in ("yes", "no")


def test_what_does_not_go_together_ends_in_words(bases: dict[str, Path], tmp_path: Path) -> None:
    asked = RunConfig(base=str(bases["bert"]), task="json")
    (failed,) = train(asked, tmp_path / "a")
    assert isinstance(failed, events.Failed)
    assert "is an encoder, which gives labels to texts" in failed.sentence
    assert "text,label" in failed.advice
    talk = tmp_path / "talk.jsonl"
    talk.write_text('{"prompt": "a", "completion": "b"}\n')
    (failed,) = train(config(bases["bert"], talk), tmp_path / "b")
    assert "holds questions and answers" in failed.sentence  # type: ignore[union-attr]
    labelled = tmp_path / "rows.csv"
    labelled.write_text("text,label\n" + "a,x\nb,y\n" * 8)
    (failed,) = train(config(bases["bert"], labelled, "prompt_tuning"), tmp_path / "c")
    assert "read off its first token" in failed.sentence  # type: ignore[union-attr]
    long = tmp_path / "long.csv"
    long.write_text("text,label\n" + f"{'word ' * 200},x\n{'more ' * 200},y\n" * 8)
    (failed,) = train(config(bases["bert"], long), tmp_path / "d")
    assert "longer than the limit of 128 tokens" in failed.sentence  # type: ignore[union-attr]


def test_pairs_are_trained_on_and_asked_for_with_an_empty_line(bases: dict[str, Path], tmp_path: Path) -> None:
    data = tmp_path / "pairs.csv"
    rng = random.Random(0)
    lines = [f"{a},{b},{'same' if a == b else 'other'}" for a, b in
             ((rng.choice(GOOD), rng.choice(GOOD)) for _ in range(60))]  # fmt: skip
    data.write_text("sentence1,sentence2,label\n" + "\n".join(lines) + "\n")
    stream = list(train(config(bases["bert"], data), tmp_path / "run"))
    finished(stream)
    sample = [e for e in stream if isinstance(e, events.Sampled)][-1].samples[0]
    base, _ = load_saved(str(bases["bert"]), tmp_path / "run" / "adapter", precision="float32", device="cpu")
    first, _, second = sample["prompt"].partition("\n\n")
    assert second
    found = dict(probabilities(base.model, base.tokenizer, sample["prompt"]))
    ids = base.tokenizer(first, second, return_tensors="pt", return_token_type_ids=True)
    with torch.no_grad():
        wanted = base.model(**ids).logits.softmax(1)[0]
    assert [found[label] for label in base.labels] == pytest.approx(wanted.tolist(), rel=1e-5)


def test_a_classifier_answers_with_labels_and_probabilities(tmp_path: Path) -> None:
    base = load_base(str(write_encoder("electra", tmp_path, names=tuple("abcdefg"))))
    found = probabilities(base.model, base.tokenizer, "Is the film good?")
    assert sum(share for _, share in found) == pytest.approx(1, abs=1e-6)
    assert [share for _, share in found] == sorted((share for _, share in found), reverse=True)
    said = "".join(answer(base.model, base.tokenizer, conversation("Is the film good?"), 8))
    assert said == labels_text(base.model, base.tokenizer, "Is the film good?")
    assert said.startswith(f"{found[0][0]} ({100 * found[0][1]:.0f} %), ")
    assert said.endswith(", and 2 more")
    with pytest.raises(BadInput, match=r"has .* tokens, and this model reads 128 at most"):
        probabilities(base.model, base.tokenizer, "word " * 200)


def test_published_rates_for_encoders_are_the_defaults(bases: dict[str, Path], reviews: Path, tmp_path: Path) -> None:
    gpt2 = str(write("gpt2", tmp_path))
    for method, module in METHODS.items():
        asked = RunConfig(base=str(bases["roberta"]), task=None, data=str(reviews), method=method)
        rate, _ = getattr(module, "PUBLISHED_ENCODER", module.PUBLISHED)
        assert resolved(asked).train.learning_rate == rate
        other = RunConfig(base=gpt2, task=None, data=str(reviews), method=method)
        assert resolved(other).train.learning_rate == module.PUBLISHED[0]
