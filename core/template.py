"""Conversations as token ids: the chat template, and which tokens the loss counts.

How it works: the whole conversation is rendered to text R by the tokenizer's own chat template. For every assistant
turn i the text that a model would see just before answering, P_i, is rendered too. P_i must be a prefix of R, in text
and in tokens; what follows it, up to and including the token that ends the answer, is what the loss counts. So the
model is trained on exactly the prefixes that it will be asked to continue, or the conversation is refused with a
sentence. A tokenizer without a chat template gets the plain one below; a template that knows no system role gets the
system text at the head of the first question.

What it is not: a place for tools, images or documents. It needs no torch, and works with any tokenizer of transformers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from core.batches import IGNORED
from core.errors import BadInput, BaseUnavailable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant")

# The plain template, for tokenizers without one of their own: a system text, then questions and answers under their
# headings, every answer ended by the tokenizer's end-of-text token. Plain words, so that a model which never saw a
# conversation reads them as text it knows. No heading ends in a space: it would merge with the answer's first token.
PLAIN_SYSTEM = "{content}\n\n"
PLAIN_USER = "### Question:\n{content}\n\n"
PLAIN_OPENING = "### Answer:\n"
PLAIN_BETWEEN = "\n\n"


@dataclass(frozen=True)
class Message:
    """One turn. role: 'system', 'user' or 'assistant'; content: its text."""

    role: str
    content: str


@dataclass(frozen=True)
class Dialogue:
    """A conversation to learn from: an optional system turn, then user and assistant turns, an assistant turn last."""

    messages: tuple[Message, ...]

    @property
    def question(self) -> tuple[Message, ...]:
        """Everything before the last answer: what the model is given when the dialogue is used for scoring."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The last assistant turn: what the model should say."""
        return self.messages[-1].content


@dataclass(frozen=True)
class Encoded:
    """A dialogue as tokens.

    ids: token ids. labels: as long as `ids`, aligned with it (the loss shifts by one itself): the same id where the
    token belongs to an answer or ends one, `IGNORED` everywhere else.
    """

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Template:
    """What probing a tokenizer's chat template found out.

    own: the tokenizer has a chat template; otherwise the plain one is used.
    opening: what stands before an answer when the template cannot say so itself (see `_probe`); None: it can.
    closing: the text that ends every answer; tail: what the template writes behind it at the end of a conversation.
    append_end: the template ends answers with nothing, so the end-of-text token is appended to the last one.
    folds_system: the template knows no system role; a system text goes to the head of the first question.
    stop_ids: the tokens at which an answer ends, for generation.
    sentence: which template is used, for people.
    """

    own: bool
    opening: str | None
    closing: str
    tail: str
    append_end: bool
    folds_system: bool
    stop_ids: tuple[int, ...]
    sentence: str


def dialogue(prompt: str, completion: str) -> Dialogue:
    """The dialogue of one question and its answer."""
    return Dialogue((Message("user", prompt), Message("assistant", completion)))


def conversation(messages: str | Dialogue | Iterable[Message | Mapping[str, str]]) -> tuple[Message, ...]:
    """Messages from whatever form they come in: a prompt, a dialogue, `Message`s or {"role", "content"} dicts.

    Raises:
        BadInput: a role that is none of `ROLES`, or a content that is no text.
    """
    if isinstance(messages, str):
        return (Message("user", messages),)
    if isinstance(messages, Dialogue):
        return messages.messages
    turns = []
    for turn in messages:
        if not isinstance(turn, Message):
            turn = Message(turn.get("role", ""), turn.get("content", ""))
        if turn.role not in ROLES or not isinstance(turn.content, str):
            raise BadInput(
                f"A message has the role {turn.role!r}.", f"Each message needs a text and one of {', '.join(ROLES)}."
            )
        turns.append(turn)
    return tuple(turns)


_templates: WeakKeyDictionary[Any, tuple[Any, Template]] = WeakKeyDictionary()


def template_of(tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template that `encode` and `prompt_ids` use with this tokenizer; probed once per tokenizer.

    Raises:
        BaseUnavailable: nothing in this tokenizer can end an answer, or its template cannot be used for training.
    """
    key = (str(tokenizer.chat_template), tokenizer.eos_token, len(tokenizer))
    known = _templates.get(tokenizer)
    if known is None or known[0] != key:
        known = (key, _probe(tokenizer) if tokenizer.chat_template else _plain(tokenizer))
        _templates[tokenizer] = known
    return known[1]


def _plain(tokenizer: PreTrainedTokenizerBase) -> Template:
    if tokenizer.eos_token is None:
        raise BaseUnavailable(
            "This tokenizer has no chat template and no end-of-text token, so nothing can say where an answer ends.",
            "Set eos_token in its tokenizer_config.json.",
        )
    return Template(
        own=False, opening=None, closing=tokenizer.eos_token, tail="", append_end=False, folds_system=False,
        stop_ids=(tokenizer.eos_token_id,),
        sentence="The tokenizer has no chat template, so the plain one is used: ### Question: … ### Answer: …",
    )  # fmt: skip


_ASK, _ANSWER, _SYSTEM = "What is it?", "Quartz, number 70.", "Speak plainly about stones."


def _probe(tokenizer: PreTrainedTokenizerBase) -> Template:
    """Find out what a chat template does, from how it renders a known question and answer."""
    ask, answer = Message("user", _ASK), Message("assistant", _ANSWER)
    try:
        whole = _apply(tokenizer, [ask, answer])
        before = _apply(tokenizer, [ask])
        asked = _apply(tokenizer, [ask], generation=True)
    except BadInput as why:
        raise BaseUnavailable(
            f"The chat template of this tokenizer cannot render a question and an answer. {why.sentence}",
            "Use a base with another template, or remove the template to use the plain one.",
        ) from why
    if whole.count(_ANSWER) != 1:
        raise BaseUnavailable(
            "The chat template of this tokenizer does not show the answers it is given.", "Use a base made for chat."
        )
    opening = None
    if not (asked != before and whole.startswith(asked)):
        # Either the template knows no generation prompt, or its generation prompt holds what a finished answer lacks
        # (an opened thinking block). Both times the conversation itself says what stands before an answer.
        if not whole.startswith(before):
            raise BaseUnavailable(
                "The chat template of this tokenizer writes a question differently once it has been answered, "
                "so no prompt could be told apart from its answer.",
                "Use a base with another chat template.",
            )
        opening = whole[len(before) : whole.index(_ANSWER)].rstrip(" ")
        if not opening.strip():
            opening = ""
    rest = whole[whole.index(_ANSWER) + len(_ANSWER) :]
    ends = [(rest.find(t), -len(t), t) for t in tokenizer.get_added_vocab() if t.strip() and t in rest]
    stops = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    if ends:
        place, _, token = min(ends)
        closing, tail = rest[: place + len(token)], rest[place + len(token) :]
        end_id = tokenizer.convert_tokens_to_ids(token)
        stops = [end_id, *(i for i in stops if i != end_id)]
    else:
        closing, tail = "", rest
    if not stops:
        raise BaseUnavailable(
            "Neither this tokenizer nor its chat template has a token that ends an answer.",
            "Set eos_token in its tokenizer_config.json.",
        )
    folds = False
    try:
        folds = _SYSTEM not in _apply(tokenizer, [Message("system", _SYSTEM), ask, answer])
    except BadInput:
        folds = True
    return Template(
        own=True, opening=opening, closing=closing, tail=tail, append_end=not ends, folds_system=folds,
        stop_ids=tuple(stops),
        sentence=(
            "The tokenizer's own chat template is used; it knows no system role, so a system text goes before the "
            "first question."
            if folds
            else "The tokenizer's own chat template is used."
        ),
    )  # fmt: skip


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation: bool = False) -> str:
    """The text of `messages` by the tokenizer's own chat template.

    Raises:
        BadInput: the template refuses these messages (with the template's own words).
    """
    from jinja2 import TemplateError

    turns = [{"role": m.role, "content": m.content} for m in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation)
    except (TemplateError, TypeError, ValueError, KeyError, ImportError) as why:
        raise BadInput(
            f"The chat template of this tokenizer refuses this conversation: {str(why).rstrip('.')}.",
            "Most templates want an optional system turn first, then user and assistant in turn.",
        ) from why
    assert isinstance(text, str)
    return text


def _plain_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The text of `messages` by the plain template, with a beginning-of-text token if the tokenizer writes one."""
    begin = tokenizer.bos_token_id
    parts = [tokenizer.bos_token] if begin is not None and begin in tokenizer("a")["input_ids"][:1] else []
    for place, m in enumerate(messages):
        if m.role == "system":
            parts.append(PLAIN_SYSTEM.format(content=m.content))
        elif m.role == "user":
            parts.append(PLAIN_USER.format(content=m.content))
        else:
            parts.append(PLAIN_OPENING + m.content + tokenizer.eos_token)
            if place + 1 < len(messages):
                parts.append(PLAIN_BETWEEN)
    return "".join(parts)


def _text(tokenizer: PreTrainedTokenizerBase, template: Template, messages: Sequence[Message]) -> str:
    return _apply(tokenizer, messages) if template.own else _plain_text(tokenizer, messages)


def _prompt_text(tokenizer: PreTrainedTokenizerBase, template: Template, messages: Sequence[Message]) -> str:
    """What the model sees before it answers `messages`."""
    if not template.own:
        between = PLAIN_BETWEEN if messages and messages[-1].role == "assistant" else ""
        return _plain_text(tokenizer, messages) + between + PLAIN_OPENING
    if template.opening is None:
        return _apply(tokenizer, messages, generation=True)
    return _apply(tokenizer, messages) + template.opening


def folded(template: Template, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """`messages`, with the system text at the head of the first question if the template knows no system role."""
    if not template.folds_system or not messages or messages[0].role != "system":
        return messages
    system, *rest = messages
    if rest and rest[0].role == "user":
        return (Message("user", f"{system.content}\n\n{rest[0].content}"), *rest[1:])
    return (Message("user", system.content), *rest)


def _spans(
    tokenizer: PreTrainedTokenizerBase, template: Template, messages: tuple[Message, ...]
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation and where its answers stand in it, as (start, end) in characters.

    Raises:
        BadInput: the last turn is no answer, or the template rewrites turns so that answers cannot be told apart.
    """
    if not messages or messages[-1].role != "assistant":
        raise BadInput("A conversation to learn from must end with an assistant turn.", "Add the answer to be learnt.")
    messages = folded(template, messages)
    whole = _text(tokenizer, template, messages)
    spans: list[tuple[int, int]] = []
    for place, message in enumerate(messages):
        if message.role != "assistant":
            continue
        prompt = _prompt_text(tokenizer, template, messages[:place])
        if not whole.startswith(prompt):
            raise BadInput(
                "The chat template of this tokenizer rewrites earlier turns of a conversation, so its answers cannot "
                "be told apart from its questions.",
                "Split conversations so that each has one question and one answer, or use another base.",
            )
        start = len(prompt)
        if place + 1 == len(messages):
            end = len(whole) - len(template.tail)
            if not whole.endswith(template.closing + template.tail) or end < start:
                raise BadInput(
                    "The chat template of this tokenizer does not end this conversation as it ends others.",
                    "Look for its special tokens in the text of the last answer.",
                )
        else:
            end = _answer_end(whole, start, message.content, template.closing)
        spans.append((start, end))
    return whole, spans


def _answer_end(whole: str, start: int, content: str, closing: str) -> int:
    """Where an answer that is not the last one ends: behind its text, as given or trimmed, and what closes it."""
    for text in dict.fromkeys((content, content.strip(), content.strip("\n"), content.lstrip(), content.rstrip())):
        place = whole.find(text + closing, start)
        if place >= 0:
            return place + len(text) + len(closing)
    raise BadInput(
        "The chat template of this tokenizer changes the text of earlier answers in a conversation.",
        "Split conversations so that each ends with the answer to be learnt.",
    )


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without any token that the text does not spell out."""
    if not texts:
        return []
    # verbose=False: texts longer than the model's context are counted and reported by the caller.
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _pieces(tokenizer: PreTrainedTokenizerBase, pieces: list[str]) -> list[list[int]]:
    """Token ids of texts that stand behind one another, each tokenised by itself.

    SentencePiece models put a space before a text; tokenising behind a line break and dropping it again avoids that.
    """
    (newline,) = _tokens(tokenizer, ["\n"])
    out = []
    for place, piece in enumerate(pieces):
        (ids,) = _tokens(tokenizer, [piece])
        if place and newline:
            (behind,) = _tokens(tokenizer, ["\n" + piece])
            if behind[: len(newline)] == newline:
                ids = behind[len(newline) :]
        out.append(ids)
    return out


def encode_all(tokenizer: PreTrainedTokenizerBase, dialogues: Iterable[Dialogue]) -> list[Encoded]:
    """`encode` for many dialogues at once: one call into the tokenizer, which is several times faster.

    Raises:
        BadInput: as `encode`.
        BaseUnavailable: as `template_of`.
    """
    template = template_of(tokenizer)
    rendered = [_spans(tokenizer, template, d.messages) for d in dialogues]
    # Every prefix that ends where an answer starts or ends, and the whole text, in one batch. Prompts repeat.
    texts: dict[str, int] = {}
    for whole, spans in rendered:
        for cut in (*itertools.chain.from_iterable(spans), len(whole)):
            texts.setdefault(whole[:cut], len(texts))
    ids_of = _tokens(tokenizer, list(texts))
    out = []
    for whole, spans in rendered:
        ids = ids_of[texts[whole]]
        cuts = []
        for cut in itertools.chain.from_iterable(spans):
            prefix = ids_of[texts[whole[:cut]]]
            if ids[: len(prefix)] != prefix:
                break
            cuts.append(len(prefix))
        else:
            out.append(_labelled(template, ids, cuts))
            continue
        # A token reaches across the border of an answer. Cut the text there, as generation does.
        edges = [0, *itertools.chain.from_iterable(spans), len(whole)]
        parts = _pieces(tokenizer, [whole[a:b] for a, b in itertools.pairwise(edges)])
        lengths = list(itertools.accumulate(len(p) for p in parts))
        out.append(_labelled(template, [i for p in parts for i in p], lengths[:-1]))
    return out


def _labelled(template: Template, ids: list[int], cuts: list[int]) -> Encoded:
    """Labels from the token places where answers start and end, in turn."""
    labels = [IGNORED] * len(ids)
    for start, end in zip(cuts[::2], cuts[1::2], strict=True):
        labels[start:end] = ids[start:end]
    if template.append_end:
        end = cuts[-1]
        ids = [*ids[:end], template.stop_ids[0]]
        labels = [*labels[:end], template.stop_ids[0]]
    return Encoded(list(ids), labels)


def encode(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> Encoded:
    """Token ids of a dialogue, with labels on its answers and the tokens that end them.

    Args:
        tokenizer: any tokenizer of transformers.
        dialogue: must end with an assistant turn.

    Returns:
        Encoded: `ids` begins with `prompt_ids` of everything before the first answer, token for token.

    Raises:
        BadInput: no answer at the end; or the template refuses the conversation or rewrites its turns.
        BaseUnavailable: the tokenizer has no template that can be trained with (see `template_of`).
    """
    return encode_all(tokenizer, [dialogue])[0]


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: str | Dialogue | Iterable[Message | Mapping[str, str]]
) -> list[int]:
    """Token ids of what the model is given before it answers: the conversation so far and the answer's opening.

    Raises:
        BadInput: an unknown role, or the template refuses the conversation.
        BaseUnavailable: as `template_of`.
    """
    template = template_of(tokenizer)
    turns = folded(template, conversation(messages))
    return _tokens(tokenizer, [_prompt_text(tokenizer, template, turns)])[0]


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with: the tokenizer's own, or its end-of-text token. Padding is never attended to nor scored."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    return 0


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text each token adds; joined, they are the whole text.

    A character that takes several tokens stands at the last of them; those before it are empty.
    """
    out = []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        out = [stream.step(backend, int(i)) or "" for i in ids]
    else:
        done = 0  # tokens whose text has been given out
        for place in range(len(ids)):
            text = str(tokenizer.decode(list(ids[done : place + 1]), skip_special_tokens=False))
            # Some tokenizers show a part of a character as U+FFFD, some as nothing. No character takes five tokens.
            whole = (text and not text.endswith("\ufffd")) or place - done >= 4
            out.append(text if whole else "")
            done = place + 1 if whole else done
    return out


def token_view(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> list[tuple[str, bool]]:
    """Each token's text and whether the loss counts it, for the coloured view of a dialogue.

    Raises:
        BadInput, BaseUnavailable: as `encode`.
    """
    encoded = encode(tokenizer, dialogue)
    texts = token_texts(tokenizer, encoded.ids)
    return [(text, label != IGNORED) for text, label in zip(texts, encoded.labels, strict=True)]
