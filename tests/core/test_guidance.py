"""Guided attention: the links lead where the words stand, and the loss is least where attention follows them."""

import math

import pytest

from core.guidance import FLOOR, Step, attention_of, guidance_loss, links
from core.pretrain import Recipe, batches, build_model, build_tokenizer
from core.world.item import Reading, Statement

torch = pytest.importorskip("torch")

PROMPT = (
    "<|user|>Passage: Ada Lund lives in Rome. The cat belongs to Leo Moss.\nQuestion: Where is Ada Lund?<|assistant|>"
)
READING = Reading(
    (
        Statement("Ada Lund lives in Rome.", "Ada", "Rome"),
        Statement("The cat belongs to Leo Moss.", "Leo", "cat"),
    ),
    name="Ada",
    evidence=0,
)


def words_and_spans(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    tokenizer = build_tokenizer(Recipe(tokenizer_examples=2_000))
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [text[begin:end].strip() for begin, end in found.offset_mapping], found.offset_mapping


def test_links_lead_to_the_words() -> None:
    words, spans = words_and_spans(PROMPT)
    last = len(words) - 1
    found = links(READING, PROMPT, spans)
    assert [(step, words[query], words[key]) for step, query, key in found] == [
        (Step.NAME, "Rome", "Ada"),
        (Step.VALUE, "Leo", "cat"),
        (Step.NAME, "<|assistant|>", "Ada"),
        (Step.MATCH, "<|assistant|>", "Rome"),
    ]
    assert found[2][1] == last
    assert found[2][2] > found[1][1], "the name in the question, not the one in the passage"
    assert all(key < query for _, query, key in found), "nothing looks ahead"


def test_without_evidence_there_is_no_match_and_a_value_can_be_asked_for() -> None:
    words, spans = words_and_spans(PROMPT.replace("Where is Ada Lund?", "Who owns a cat?"))
    reading = Reading(READING.statements, value="cat")
    found = links(reading, PROMPT.replace("Where is Ada Lund?", "Who owns a cat?"), spans)
    assert not [link for link in found if link[0] is Step.MATCH]
    step, query, key = found[-1]
    assert (step, query, words[key]) == (Step.VALUE, len(words) - 1, "cat")
    assert key > found[1][1], "the value in the question"


def test_the_loss_is_that_of_the_attention_paid() -> None:
    gathering, matching = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    gathering[0, 0, 2, 1] = 1.0
    matching[0, 0, 3, 2] = 0.25
    to = torch.tensor([[Step.NAME, 0, 2, 1], [Step.MATCH, 0, 3, 2]])
    expected = -math.log(1 + FLOOR) - math.log(0.25 + FLOOR)
    assert guidance_loss([gathering, matching], to).item() == pytest.approx(expected, rel=1e-5)
    assert guidance_loss([gathering, matching], to[:0]).item() == 0


def test_a_few_steps_on_the_guidance_alone_turn_the_heads() -> None:
    recipe = Recipe()
    tokenizer = build_tokenizer(recipe)
    torch.manual_seed(0)
    model = build_model(recipe, tokenizer)
    model.set_attn_implementation("eager")
    layers = [model.model.layers[i] for i in (recipe.gathering_layer, recipe.matching_layer)]
    batch = max(batches(recipe, tokenizer, 0, 8), key=lambda batch: len(batch.links))
    to = batch.links[batch.links[:, 0] != Step.MATCH]  # within a sentence: a few steps do
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        with attention_of(layers) as attention:
            model.model(input_ids=batch.ids, use_cache=False)
        loss = guidance_loss(attention, to)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert not any(layer.self_attn._forward_hooks for layer in layers)  # type: ignore[union-attr]
