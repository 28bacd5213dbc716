"""Scoring: batched generation equals one by one, streaming equals generating, and graders decide."""

from __future__ import annotations

import pytest
import torch

from core import evaluate
from core.base import context_tokens
from core.batches import IGNORED
from core.errors import BadInput
from core.evaluate import Item, answer_loss, generate, item_of, room, score, stream
from core.template import Message, dialogue, encode_all, prompt_ids, template_of
from tests import checkpoints

PROMPTS = ["Who owns a cat?", "3 + 4", "What is the job of Ana, who lives in Lyon with a grey cat?", "Yes"]


@pytest.fixture(scope="module", params=checkpoints.FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A tiny model of each family and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = checkpoints.write(request.param, tmp_path_factory.mktemp(request.param))
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def ask(prompt: str) -> tuple[Message, ...]:
    return (Message("user", prompt),)


def greedy_by_hand(model: torch.nn.Module, tokenizer, prompt: str, limit: int) -> str:
    """The definition: the likeliest next token, again and again, on the unpadded text and without a cache."""
    ids = prompt_ids(tokenizer, ask(prompt))
    out: list[int] = []
    with torch.no_grad():
        while len(out) < limit:
            token = int(model.eval()(input_ids=torch.tensor([ids + out]), use_cache=False).logits[0, -1].argmax())
            if token in template_of(tokenizer).stop_ids:
                break
            out.append(token)
    return tokenizer.decode(out).strip()


def test_batched_generation_is_greedy_decoding_of_each_prompt(loaded) -> None:
    model, tokenizer = loaded
    model.train()
    answers = generate(model, tokenizer, [ask(p) for p in PROMPTS], 10)
    assert model.training, "the mode from before is restored"
    assert answers == [greedy_by_hand(model, tokenizer, p, 10) for p in PROMPTS]


def test_streaming_gives_the_same_answer_in_pieces(loaded) -> None:
    model, tokenizer = loaded
    pieces = list(stream(model, tokenizer, ask(PROMPTS[2]), 12))
    assert "".join(pieces).strip() == generate(model, tokenizer, [ask(PROMPTS[2])], 12)[0]


def test_the_held_out_loss_is_the_mean_over_tokens_whatever_the_batches(loaded) -> None:
    model, tokenizer = loaded
    encoded = encode_all(tokenizer, [dialogue(p, p[::-1]) for p in PROMPTS])
    one, many = (answer_loss(model, tokenizer, encoded, batch_size=size) for size in (1, 3))
    assert one == pytest.approx(many, rel=1e-5)
    total, tokens = 0.0, 0
    with torch.no_grad():
        for e in encoded:
            logits = model.eval()(input_ids=torch.tensor([e.ids])).logits[0, :-1].double().log_softmax(-1)
            for position, label in enumerate(e.labels[1:]):
                if label != IGNORED:
                    total -= float(logits[position, label])
                    tokens += 1
    assert one == pytest.approx(total / tokens, rel=1e-4)


def test_a_score_is_what_the_grader_says(loaded) -> None:
    model, tokenizer = loaded
    answer = generate(model, tokenizer, [ask("Yes")], 9)[0]
    items = [item_of(dialogue("Yes", "no such answer")), Item(ask("Yes"), "x", lambda text: True)]
    scored = score(model, tokenizer, items)
    assert scored.right == (answer == "no such answer", True)
    assert scored.share == sum(scored.right) / 2
    assert len(scored.answers) == 2
    assert score(model, tokenizer, []).share == 0.0


def test_a_models_own_generation_config_changes_nothing(loaded) -> None:
    """What a hub model brings along (penalties, beams, sampling) would enter every score unseen."""
    model, tokenizer = loaded
    plain = generate(model, tokenizer, [ask(p) for p in PROMPTS], 12)
    own = model.generation_config
    odd = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "num_beams": 3, "min_new_tokens": 9}
    for name, value in odd.items():
        setattr(own, name, value)
    assert generate(model, tokenizer, [ask(p) for p in PROMPTS], 12) == plain
    assert "".join(stream(model, tokenizer, ask(PROMPTS[2]), 12)).strip() == plain[2]
    assert model.generation_config is own, "it is put back for whoever saves the model"


def test_an_answer_ends_where_the_models_context_ends(loaded) -> None:
    """GPT-2 and OPT have no positions beyond theirs: asking for one would be an index error."""
    model, tokenizer = loaded
    context = context_tokens(model)
    assert context == model.config.max_position_embeddings
    words = 1
    while len(prompt_ids(tokenizer, ask("a b " * (words + 1)))) < context:
        words += 1
    prompt = ask("a b " * words)
    left = context - len(prompt_ids(tokenizer, prompt))
    assert room(model, context - left, 1000) == left
    assert room(model, context - left, 1) == 1
    generate(model, tokenizer, [prompt], 1000)
    list(stream(model, tokenizer, prompt, 1000))
    for answer in (generate, lambda m, t, prompts, limit: list(stream(m, t, prompts[0], limit))):
        with pytest.raises(BadInput, match=rf"reads {context} at most"):
            answer(model, tokenizer, [ask("a b " * context)], 4)


def test_nothing_held_out_has_no_loss(loaded) -> None:
    assert answer_loss(*loaded, []) is None


def test_no_more_rows_at_once_than_their_keys_and_values_have_room_for(monkeypatch: pytest.MonkeyPatch, loaded) -> None:
    model, tokenizer = loaded
    whole = generate(model, tokenizer, [ask(p) for p in PROMPTS], 6)
    asked = []
    one = model.generate

    def noting(**arguments):
        asked.append(len(arguments["input_ids"]))
        return one(**arguments)

    monkeypatch.setattr(model, "generate", noting)
    monkeypatch.setattr(evaluate, "GENERATION_BYTES", 1)
    assert generate(model, tokenizer, [ask(p) for p in PROMPTS], 6) == whole
    assert asked == [1] * len(PROMPTS)
