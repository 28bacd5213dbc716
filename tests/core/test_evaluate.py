"""Scoring: batched generation equals one by one, streaming equals generating, and graders decide."""

from __future__ import annotations

import pytest
import torch

from core.batches import IGNORED
from core.evaluate import Item, answer_loss, generate, item_of, score, stream
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
