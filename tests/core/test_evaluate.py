"""Scoring: batched generation equals one by one, streaming equals generating, and graders decide."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from core import evaluate
from core.base import context_tokens, load_base
from core.batches import IGNORED
from core.errors import BadInput
from core.evaluate import Item, Lead, answer_loss, generate, item_of, room, score, stream
from core.objective import world_items
from core.template import Message, dialogue, encode_all, prompt_ids, template_of
from core.world import SKILLS
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


def test_several_answers_take_turns_on_one_model(loaded) -> None:
    """Nothing is computed between two texts, so the model may be changed there: here, what it likes to say."""
    model, tokenizer = loaded
    tastes = {
        name: torch.randn(len(tokenizer), generator=torch.Generator().manual_seed(n)) for n, name in enumerate("ab")
    }
    now = "a"
    hook = model.get_output_embeddings().register_forward_hook(
        lambda _module, _args, logits: logits + 20 * tastes[now][: logits.shape[-1]]
    )
    alone = {}
    for now in tastes:
        alone[now] = list(stream(model, tokenizer, ask(PROMPTS[2]), 12))
    assert alone["a"] != alone["b"]
    turns = {name: stream(model, tokenizer, ask(PROMPTS[2]), 12) for name in tastes}
    together: dict[str, list[str]] = {name: [] for name in tastes}
    own = model.generation_config
    with evaluate.answering(model):
        while turns:
            for now in list(turns):
                text = next(turns[now], None)
                if text is None:
                    del turns[now]
                else:
                    together[now].append(text)
    hook.remove()
    assert together == alone
    assert model.generation_config is own


def test_a_text_for_every_token_and_whether_the_answer_is_whole(loaded) -> None:
    model, tokenizer = loaded

    def drained() -> tuple[list[str], bool]:
        texts = []
        answer = stream(model, tokenizer, ask(PROMPTS[0]), 12)
        while True:
            try:
                texts.append(next(answer))
            except StopIteration as end:
                return texts, end.value

    texts, whole = drained()
    assert len(texts) == 12
    assert not whole
    assert "".join(texts).strip() == greedy_by_hand(model, tokenizer, PROMPTS[0], 12)
    # The likeliest of all tokens is now the one that ends an answer: it counts, and has no text.
    stop = template_of(tokenizer).stop_ids[0]
    hook = model.get_output_embeddings().register_forward_hook(
        lambda _m, _i, logits: (
            torch.nn.functional.one_hot(torch.tensor(stop), logits.shape[-1]).expand_as(logits).float()
        )
    )
    assert drained() == ([""], True)
    hook.remove()


def test_dice_follow_the_softmax_and_their_seed() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -20.0]])
    for temperature in (0.5, 1.0, 2.0):
        dice = evaluate.Dice(temperature, 0)
        rolls = 20_000
        counts = dice(torch.empty(0), logits.expand(rolls, -1)).argmax(-1).bincount(minlength=5)
        expected = torch.softmax(logits[0] / temperature, 0)
        spread = 4 * (expected * (1 - expected) / rolls).sqrt() + 1e-9  # four standard errors
        assert ((counts / rolls - expected).abs() <= spread).all(), temperature
    one, same, other = (evaluate.Dice(1.0, seed) for seed in (5, 5, 6))
    flat = torch.zeros(1, 1000)
    assert torch.equal(one(torch.empty(0), flat), same(torch.empty(0), flat))
    assert not torch.equal(one(torch.empty(0), flat), other(torch.empty(0), flat))


def test_sampling_leaves_the_processes_random_numbers_alone(loaded) -> None:
    model, tokenizer = loaded
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    answers = {"".join(stream(model, tokenizer, ask(PROMPTS[2]), 12, 1.0, seed=2)) for _ in range(2)}
    assert torch.equal(torch.rand(3), expected)
    assert len(answers) == 1


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


def test_one_pass_settles_what_greedy_decoding_would_say(loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items whose reference is what the model says need no generation; the others get one, and nobody's answer or
    share is another for it."""
    model, tokenizer = loaded
    says = generate(model, tokenizer, [ask(p) for p in PROMPTS], 6)
    references = [says[0], "no such answer", says[2] + " and more", says[3]]
    items = [item_of(dialogue(p, r)) for p, r in zip(PROMPTS, references, strict=True)]
    monkeypatch.setattr(evaluate, "leads", lambda model, prompts, wanted, pad: [None] * len(prompts))
    plain = score(model, tokenizer, items)
    monkeypatch.undo()
    assert score(model, tokenizer, items) == plain
    # Tokens that greedy decoding by hand goes on with, and then others in their places.
    prompts = [prompt_ids(tokenizer, ask(p)) for p in PROMPTS]
    with torch.no_grad():
        wanted = [list(p) for p in prompts]
        for row in wanted:
            for _ in range(5):
                row.append(int(model.eval()(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    wanted = [row[len(p) :] for row, p in zip(wanted, prompts, strict=True)]
    monkeypatch.setattr(evaluate, "MARGIN", 0.0)
    assert evaluate.leads(model, prompts, wanted, 0) == [Lead(5)] * len(PROMPTS)
    for place in (0, 3, 4):
        other = [[t + (n == place) for n, t in enumerate(row)] for row in wanted]
        turned = [Lead(place, row[place]) for row in wanted]
        assert evaluate.leads(model, prompts, other, 0) == turned, place
    monkeypatch.setattr(evaluate, "MARGIN", 1e9)
    monkeypatch.setattr(evaluate, "MARGIN_FLOAT32", 1e9)
    assert evaluate.leads(model, prompts, wanted, 0) == [None] * len(PROMPTS), "too close to call"
    monkeypatch.setattr(evaluate, "MARGIN", 0.0)
    monkeypatch.setattr(evaluate, "LOGITS_BYTES", 1)
    assert evaluate.leads(model, prompts, wanted, 0) == [Lead(5)] * len(PROMPTS), "one row at a time"
    long = [[*prompts[0] * 200][: context_tokens(model)]]
    assert evaluate.leads(model, long, wanted[:1], 0) == [None], "there is no room for the answer"


def test_what_cannot_be_right_any_more_is_not_generated(loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong answers count as wrong all the same; those that are shown are whole; and where an answer may still be right
    by the grader's rule, or ends early, it is what generating gives."""
    model, tokenizer = loaded
    says = generate(model, tokenizer, [ask(p) for p in PROMPTS], 14)
    references = ["quite another", says[1], "nothing of it", "no"]
    items = [item_of(dialogue(p, r)) for p, r in zip(PROMPTS, references, strict=True)]
    monkeypatch.setattr(evaluate, "MARGIN", 0.0)
    asked: list[int] = []
    real = evaluate._generate

    def counting(model, tokenizer, encoded, *args):
        asked.append(len(encoded))
        return real(model, tokenizer, encoded, *args)

    monkeypatch.setattr(evaluate, "_generate", counting)
    plain = score(model, tokenizer, items)
    brief = score(model, tokenizer, items, whole=1)
    assert brief.right == plain.right
    assert brief.answers[0] == plain.answers[0]
    for whole, begun in zip(plain.answers, brief.answers, strict=True):
        assert whole.startswith(begun.rstrip("\ufffd"))
    # (What these models say is seldom text, of which only text is given up.)
    hopeless = [dataclasses.replace(item, hopeful=lambda beginning: False) for item in items]
    assert score(model, tokenizer, hopeless, whole=1).right == plain.right
    assert asked[0] >= asked[1] >= asked[2]
    assert asked[0] >= 3
    assert asked[2] == 1, "the one that is shown"
    # A grader that may yet be content has it to the end.
    lenient = [Item(item.messages, item.reference, lambda text: True) for item in items]
    assert score(model, tokenizer, lenient, whole=0).answers == plain.answers
    # An answer that is the reference's beginning is over there, and known without generating.
    stop = template_of(tokenizer).stop_ids[0]
    hook = model.get_output_embeddings().register_forward_hook(
        lambda _m, _i, logits: (
            torch.nn.functional.one_hot(torch.tensor(stop), logits.shape[-1]).expand_as(logits).float()
        )
    )
    assert score(model, tokenizer, items).answers == ("",) * len(items)
    hook.remove()
    assert asked[-1] == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_margin_is_far_beyond_what_the_order_of_sums_decides(precision: str) -> None:
    """The embedded base, questions of all its skills: logits of a whole row at once, and token by token with a cache on
    the padded left, as `generate` computes them."""
    base = load_base("embedded")
    model, tokenizer = base.model, base.tokenizer
    items = [item for name in SKILLS for item in world_items(name, "heldout", 4, 1)]
    prompts = [prompt_ids(tokenizer, item.messages) for item in items]
    wanted = [tokenizer(item.reference, add_special_tokens=False)["input_ids"][:8] for item in items]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    differences = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        out = model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
        for place in range(max(map(len, wanted))):
            for row, (prompt, answer) in enumerate(zip(prompts, wanted, strict=True)):
                if place < len(answer):
                    whole = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 + place]
                    differences.append(float((whole.float() - out.logits[row, -1].float()).abs().max()))
            token = torch.tensor([[answer[place] if place < len(answer) else 0] for answer in wanted])
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            out = model(
                input_ids=token, attention_mask=mask, past_key_values=out.past_key_values,
                position_ids=mask.sum(1, keepdim=True) - 1,
            )  # fmt: skip
    print(precision, "largest difference of a logit", max(differences), "of", len(differences))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        margin = evaluate._margin(model, torch.device("cpu"))
    assert margin == (evaluate.MARGIN if precision == "bfloat16" else evaluate.MARGIN_FLOAT32)
    assert max(differences) < margin / (4 if precision == "bfloat16" else 10)


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
