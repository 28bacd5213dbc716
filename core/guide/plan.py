"""The plan to take away, as Markdown; and the links that carry the answers into the tools."""

from __future__ import annotations

from urllib.parse import urlencode

from core.guide.decide import BOTH, DEEP, PROMPTING, RAG, TUNING, Decision, references, sensitivity
from core.guide.evidence import UNMEASURED, Bands, measured
from core.guide.method import BATCH, LENGTH, ZERO, Choice, choose
from core.guide.rules import Answers, RuleBook, rule_book

_TASK = {"format": "json", "tone": "persona", "domain": "jargon", "knowledge": "facts"}

_FIRST = (
    "Write down twenty to a hundred questions with the answers that you want, and keep half of them out of everything: "
    "they are what every step below is measured on."
)
_STEPS = {
    PROMPTING: (
        "Write an instruction and three to five solved examples; measure it on the questions that were kept out.",
        "Note what goes wrong. Wrong facts call for retrieval, a wrong form for fine-tuning: then come back here.",
    ),
    RAG: (
        "Index the documents: `deltalab rag index FOLDER --to INDEX`.",
        "Measure retrieval alone first: `deltalab rag evaluate INDEX --questions FILE`. If the right passage is not "
        "among the first few, no model can make up for it: try shorter chunks, or another embedder (`--embedder`).",
        "Then ask: `deltalab rag ask INDEX \"…\"`. Measure how many answers are right and how many stand in the "
        "passages, and ask for what is nowhere: does it say so?",
        "Decide who re-indexes when a document changes, and what may be seen by whom (filters by source).",
    ),
    TUNING: (
        "Bring the examples into prompt and completion and have them checked (Playground, *My own file*).",
        "Measure prompting with examples on what was kept out: that is the figure to beat.",
        "Fine-tune, and look at the old skills as well as at the new one.",
        "Ship the adapter with its card, and keep the questions as a test for the next training.",
    ),
    DEEP: (
        "Look once more for a model that has read your language already; measure it before training anything.",
        "Clean and deduplicate the text; keep some of it out for the loss.",
        "Continue pre-training on all weights, with some of the old kind of text mixed in against forgetting.",
        "Then fine-tune on solved examples, and measure old and new skills.",
    ),
}  # fmt: skip


_INSIDE = (
    "Nothing may leave the house: take an open model that runs on a machine of your own, with the index, the embedder "
    "and any training beside it. (All commands above work without a network once the models are there.)"
)


def playground_link(decision: Decision, answers: Answers, choice: Choice | None) -> dict[str, str] | None:
    """Query parameters with which the Playground shows the recipe on a task like the one at hand; None where nothing is
    trained."""
    from core.config import RunConfig
    from core.export.link import parameters

    if not decision.tunes:
        return None
    task = "json"
    for question, name in _TASK.items():
        if answers.get(question) in ("strict", "strong", "jargon", "far"):
            task = name
            break
    else:
        task = "facts" if answers.get("format", "free") == "free" and answers.get("knowledge") == "many" else task
    method = choice.tried if choice is not None else "lora"
    return parameters(RunConfig(task=task, method=method))


def vram_link(choice: Choice | None) -> dict[str, str] | None:
    """Query parameters of the VRAM calculator; None where nothing is trained.

    All that the sentence beside it rests on is said, also what is a default there: the page keeps what was chosen on it
    before, unless the link says otherwise.
    """
    if choice is None:
        return None
    return {
        "from": "catalogue", "model": choice.model, "method": choice.tried, "card": choice.gpu, "batch": str(BATCH),
        "length": str(LENGTH), "gpus": str(choice.gpus), "zero": str(ZERO if choice.gpus > 1 else 0),
        "checkpointing": "on" if choice.recomputed else "off",
    }  # fmt: skip


def memory_line(choice: Choice) -> str:
    """The same question in a terminal."""
    more = f" --gpus {choice.gpus} --zero {ZERO}" if choice.gpus > 1 else ""
    more += " --set gradient_checkpointing=true" if choice.recomputed else ""
    return (
        f"deltalab memory --model {choice.model} --method {choice.tried} --batch {BATCH} --seq {LENGTH} --gpu "
        f'"{choice.gpu}"{more}'
    )


def markdown(
    answers: Answers, decision: Decision, book: RuleBook | None = None, found: Bands | None = None, address: str = ""
) -> str:
    """The plan.

    Args:
        found: what the experiment measured; the recorded one if None.
        address: of the app, in front of its pages' links: http://host:port. Without one the links say how to open it.
    """
    book = book or rule_book()
    choice = choose(decision, answers)
    lines = [f"# Plan: {decision.title}", ""]
    if decision.conflicts:
        lines += ["**Answers that do not go together:**", "", *(f"- {text}" for text in decision.conflicts), ""]
    for pull, rule in decision.lacking:
        lines += [f"**Called for and not possible ({_PULLS[pull]}):** {rule.because} {rule.instead}", ""]
    lines += ["## Your answers", ""]
    for key, question in book.questions.items():
        said = question.options[answers[key]] if key in answers else "(no answer)"
        lines.append(f"- {question.ask} {said}")
    lines += ["", "## Why", ""]
    if not decision.reasons:
        lines.append("- No answer calls for more than a prompt.")
    for reason in decision.reasons:
        lines.append(f"- {reason.rule.because}")
        told = measured(reason.rule, found)
        lines += [f"  - Measured here: {text}" for text in told] if told else [f"  - {UNMEASURED}"]
    lines += ["", "## What to do", "", f"1. {_FIRST}"]
    steps = [*_STEPS[RAG], *_STEPS[TUNING][:-1]] if decision.approach == BOTH else list(_STEPS[decision.approach])
    if decision.approach == DEEP and decision.retrieves:
        steps += _STEPS[RAG]
    if decision.approach == BOTH:
        steps.append(
            "Train the reader on passages as they will be retrieved, with distractors: `deltalab rag raft INDEX "
            "--questions FILE --out rows.jsonl`, then `deltalab train --data rows.jsonl`."
        )
        steps.append(_STEPS[TUNING][-1])
    if answers.get("leaves") == "no":
        steps.append(_INSIDE)
    lines += [f"{n}. {step}" for n, step in enumerate(steps, 2)]
    if choice is not None:
        lines += ["", "## Which method", "", choice.because]
        lines += ["", "```", memory_line(choice), "```"]
        play, vram = playground_link(decision, answers, choice), vram_link(choice)
        where = "In the app:" if address else "In the app (`deltalab serve`; put its address in front):"
        lines += ["", where, ""]
        lines.append(f"- try the recipe: {address}/playground?{urlencode(play or {})}".rstrip("?"))
        lines.append(f"- will it fit: {address}/vram?{urlencode(vram or {})}")
    others = sensitivity(answers, book)
    if others or decision.change:
        lines += ["", "## What would change this", ""]
        for other in others:
            question = book.questions[other.question]
            lines.append(f"- {question.ask} *{question.options[other.answer]}*: {other.title}")
        if len(decision.change) > 1:
            lines.append(f"- {together(decision, book)}")
    papers = references(decision, book)
    if papers:
        lines += ["", "## What others found", ""]
        lines += [f"- {p.authors} ({p.year}), {p.title}. {p.where}. {p.found} <{p.url}>" for p in papers]
    return "\n".join(lines) + "\n"


def together(decision: Decision, book: RuleBook) -> str:
    """A sentence about the open questions that would change the recommendation only together."""
    said = "; ".join(f"{book.questions[q].ask} {book.questions[q].options[a]}" for q, a in decision.change.items())
    return f"Answers to several open questions together: {said}. That would be: {decision.instead}."


_PULLS = {"rag": "retrieval", "tune": "fine-tuning", "deep": "continued pre-training", "prompt": "prompting"}
