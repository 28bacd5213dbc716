"""Guided attention: the links lead where the words stand, and the loss is least where attention follows them."""

import math

import pytest

from core.guidance import FLOOR, HEADS, Pieces, Step, attention_of, guidance_loss, links
from core.pretrain import Recipe, attention_mask, batches, build_model, build_tokenizer
from core.world.item import Example, Reading, Statement

torch = pytest.importorskip("torch")

PASSAGE = "Passage: Ada Lund lives in Rome. The cat belongs to Leo Moss.\nQuestion: "
TOLD = (Statement("Ada Lund lives in Rome.", "Ada", "Rome"), Statement("The cat belongs to Leo Moss.", "Leo", "cat"))


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(Recipe(tokenizer_examples=2_000))


def linked(tokenizer, example: Example) -> tuple[list[tuple[Step, int, int]], list[str]]:
    """The links other than to the token before, and the words of the whole dialogue."""

    def cut(text: str) -> tuple[str, Pieces]:
        return text, tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping

    given, written = cut(f"<|user|>{example.prompt}<|assistant|>"), cut(f"{example.completion}<|end|>")
    found = links(example, given, written)
    words = [text[begin:end].strip() for text, spans in (given, written) for begin, end in spans]
    before = [(query, key) for step, query, key in found if step is Step.PREVIOUS]
    assert before == ([(i, i - 1) for i in range(1, len(words))] if found else [])
    assert all(key < query for _, query, key in found), "nothing looks ahead"
    return [link for link in found if link[0] is not Step.PREVIOUS], words


def test_a_question_is_led_to_the_name_and_from_there_to_the_answer(tokenizer) -> None:
    reading = Reading(TOLD, name="Ada", evidence=0)
    found, words = linked(tokenizer, Example(f"{PASSAGE}Where is Ada Lund?", "Rome", reading=reading, copied=True))
    assert [(step, words[query], words[key]) for step, query, key in found] == [
        (Step.NAME, "Rome", "Ada"),
        (Step.VALUE, "Leo", "cat"),
        (Step.NAME, "<|assistant|>", "Ada"),
        (Step.COPY, "<|assistant|>", "Rome"),
    ]
    assert found[2][2] > found[1][1], "the name in the question, not the one in the passage"


def test_where_the_value_comes_first_the_name_is_the_place(tokenizer) -> None:
    reading = Reading(TOLD, value="cat", evidence=1)
    found, words = linked(tokenizer, Example(f"{PASSAGE}Who owns a cat?", "Leo Moss", reading=reading, copied=True))
    assert [(step, words[query], words[key]) for step, query, key in found[2:]] == [
        (Step.VALUE, "<|assistant|>", "cat"),
        (Step.COPY, "<|assistant|>", "Leo"),
        (Step.COPY, "Leo", "Moss"),
    ]
    assert found[2][2] > found[1][1], "the value in the question"


def test_what_is_not_said_is_looked_for_nowhere(tokenizer) -> None:
    reading = Reading(TOLD, name="Ada")
    found, _ = linked(tokenizer, Example(f"{PASSAGE}What is the pet of Ada Lund?", "It is not said.", reading=reading))
    assert Step.COPY not in {step for step, *_ in found}


def test_a_copy_is_led_along_by_what_occurs_once(tokenizer) -> None:
    found, words = linked(tokenizer, Example("Reverse: cat dog cat soup", "soup cat dog cat", copied=True))
    assert [(words[query], words[key]) for _, query, key in found] == [("<|assistant|>", "soup"), ("cat", "dog")]
    assert linked(tokenizer, Example("12 + 23 =", "35"))[0] == []


def test_the_loss_is_that_of_the_attention_paid() -> None:
    gathering, matching = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    gathering[0, HEADS[Step.NAME], 2, 1] = 1.0
    matching[0, HEADS[Step.COPY], 3, 2] = 0.25
    to = torch.tensor([[Step.NAME, 0, 2, 1], [Step.COPY, 0, 3, 2]])
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
    batch = next(batches(recipe, tokenizer, 0, 1))
    to = batch.links[batch.links[:, 0] != Step.COPY]  # within a sentence: a few steps do
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        with attention_of(layers) as attention:
            model.model(
                input_ids=batch.ids,
                position_ids=batch.positions,
                attention_mask=attention_mask(batch.dialogue, torch.float32),
                use_cache=False,
            )
        loss = guidance_loss(attention, to)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert not any(layer.self_attn._forward_hooks for layer in layers)  # type: ignore[union-attr]
