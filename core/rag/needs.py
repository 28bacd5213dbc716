"""What the experiment asks, need by need, in the small world: questions, right answers, and what can be looked up.

    facts      new people, whom the base has never met (the task `facts`): 16 of the 20, told often when trained on
    crowd      the same questions, with three passages retrieved instead of one: namesakes stand among them
    rare       the other four, told once
    changed    ten of their facts, after they have changed
    nowhere    questions about people in no row, no training example and no weights
    json       a strict format (the task `json`)
    persona    a manner of speaking (the task `persona`)
    both       a new fact, asked for in that manner: knowledge and form at once
    skills     the base's old skills, which training may damage

Everything is drawn from a seed. Held out are the wordings of the questions (facts: the wording in which this fact was
never asked), the people of `json` and `persona`, and everything of `nowhere`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from core.rag.answer import declines
from core.rag.quality import row_of, world_people
from core.rag.read import Document
from core.world import NEWCOMERS, SKILLS, Person, examples, grade, question
from core.world.people import ATTRIBUTES, HELDOUT_NAMES, VALUES, question_wordings, say
from core.world.tasks import PIRATE

PEOPLE = 220  # in the table: the newcomers and others, among whom they have to be found
RARE = 4  # newcomers whose facts are told once
CHANGED = 10
SCORING = 30_000  # seeds of held-out items; other runs are scored on other ones
OFTEN = 20  # how often each training question of the others is told, for each time of the rare ones


@dataclass(frozen=True)
class Need:
    """title: for a table. summary: what is measured."""

    name: str
    title: str
    summary: str


NEEDS = {
    need.name: need
    for need in (
        Need("facts", "New facts", "Facts about people whom the base has never met."),
        Need("crowd", "… among namesakes", "The same, with three passages retrieved: two of them about other people."),
        Need("changed", "A changed fact", "The same, right after their rows have changed and before any new training."),
        Need("rare", "A rare fact", "Facts that the training material tells once; a row holds them like any other."),
        Need("nowhere", "No answer anywhere", "People in no row and no example: right is to say that it is not said."),
        Need("json", "Strict format", "A JSON object of a few sentences, with exactly the right keys and values."),
        Need("persona", "Manner of speaking", "Right answers in a pirate's words."),
        Need("both", "New fact, in that manner", "A new fact, asked for in a pirate's words."),
        Need("skills", "Old skills", "Five skills that the base has had all along."),
    )
}


@dataclass(frozen=True)
class Asked:
    """One question. prompt: what the model reads when nothing is retrieved. look_up: what is searched for; "" when
    there is nothing to look up. about: the person who is asked about; "" where nobody is. lead: what stands before the
    passage. right: grades an answer. stale: likewise, for the answer that was right before a change."""

    prompt: str
    wanted: str
    right: Callable[[str], bool]
    look_up: str = ""
    about: str = ""
    lead: str = ""
    stale: Callable[[str], bool] | None = None


@dataclass(frozen=True)
class Items:
    """Everything that one seed asks and tells.

    asked: need -> questions. rows: the table, one document a person. changed: the rows that change, as they are then.
    taught, retaught: training rows of the new facts, before and after the change. shown: need -> solved examples for
    a prompt.
    """

    asked: dict[str, list[Asked]]
    rows: list[Document]
    changed: list[Document]
    taught: list[dict[str, str]]
    retaught: list[dict[str, str]]
    shown: dict[str, list[tuple[str, str]]]


def _same(wanted: str, answer: str) -> bool:
    return answer.strip().rstrip(".") == wanted.rstrip(".")


def _fact(person: Person, attribute: str, before: Person | None = None) -> Asked:
    (wording,) = question_wordings(person.name, attribute, "heldout")
    asked = question(person.name, attribute, wording)
    wanted = person.value(attribute)
    stale = partial(_same, before.value(attribute)) if before is not None else None
    return Asked(asked, wanted, partial(_same, wanted), asked, person.name, stale=stale)


def _lessons(person: Person, times: int) -> list[dict[str, str]]:
    """Training rows of a person's facts; told once, each fact has one of its training wordings."""
    wordings = {a: question_wordings(person.name, a, "train") for a in ATTRIBUTES}
    return [
        {"prompt": question(person.name, a, w), "completion": person.value(a)}
        for a in ATTRIBUTES
        for w in (wordings[a] if times > 1 else wordings[a][:1])
        for _ in range(times)
    ]


def make(seed: int, count: int = 40) -> Items:
    """The items of a seed.

    Args:
        count: questions of each need at most, and of each old skill.
    """
    rng = random.Random(f"rag needs/{seed}")
    crowd = world_people(PEOPLE, seed)
    numbers = {person.name: n for n, person in enumerate(crowd, 1)}
    newcomers = list(NEWCOMERS)
    rng.shuffle(newcomers)
    rare, often = newcomers[:RARE], newcomers[RARE:]

    after = {person.name: person for person in newcomers}
    moved = rng.sample([(p, a) for p in often for a in ATTRIBUTES], CHANGED)
    for person, attribute in moved:
        value = rng.choice([v for v in VALUES[attribute] if v != person.value(attribute)])
        after[person.name] = dataclasses.replace(after[person.name], **{attribute: value})

    facts = [_fact(p, a) for p in often for a in ATTRIBUTES if (p, a) not in moved]
    rng.shuffle(facts)
    strangers = rng.sample(HELDOUT_NAMES, min(count, len(HELDOUT_NAMES)))
    tasks = {
        name: [
            Asked(e.prompt, e.completion, partial(grade, name, e))
            for e in examples(name, "heldout", count, SCORING + seed)
        ]
        for name in ("json", "persona")
    }
    asked = {
        "facts": facts[:count],
        "crowd": facts[:count],
        "changed": [_fact(after[p.name], a, p) for p, a in moved],
        "rare": [_fact(p, a) for p in rare for a in ATTRIBUTES],
        "nowhere": [_nowhere(name, rng) for name in strangers],
        **tasks,
        "both": [_both(f) for f in facts[:count]],
        "skills": [
            Asked(e.prompt, e.completion, partial(grade, name, e))
            for name in SKILLS
            for e in examples(name, "heldout", max(4, count // 2), SCORING + seed)
        ],
    }
    taught = [r for p in often for r in _lessons(p, OFTEN)] + [r for p in rare for r in _lessons(p, 1)]
    retaught = [r for p in often for r in _lessons(after[p.name], OFTEN)] + [r for p in rare for r in _lessons(p, 1)]
    shown = {
        "facts": [(r["prompt"], r["completion"]) for p in often[:3] for r in _lessons(p, 1)[:1]],
        **{n: [(e.prompt, e.completion) for e in examples(n, "train", 3, 40_000 + seed)] for n in ("json", "persona")},
    }
    changed = [row_of(after[name], numbers[name], seed) for name in dict.fromkeys(p.name for p, _ in moved)]
    rows = [row_of(person, numbers[person.name], seed) for person in crowd]
    return Items(asked, rows, changed, taught, retaught, shown)


def _nowhere(name: str, rng: random.Random) -> Asked:
    attribute = rng.choice(ATTRIBUTES)
    asked = question(name, attribute, rng.randrange(4))
    return Asked(asked, "It is not said.", declines, asked, name)


def _both(fact: Asked) -> Asked:
    wanted = PIRATE.format(answer=fact.wanted)
    return Asked(
        f"As a pirate: {fact.prompt}", wanted, partial(_same, wanted), fact.prompt, fact.about, "As a pirate: "
    )


# --- how often a fact has to be reworded ------------------------------------------------------------------------------

TOLD = {
    "city": (
        "{n} lives in {v}.", "{v} is home to {n}.", "{n} has a home in {v}.", "The home of {n} is in {v}.",
        "You will find {n} in {v}.", "In {v} lives {n}.", "{n} is at home in {v}.", "The city of {n} is {v}.",
    ),
    "job": (
        "{n} works as {a}.", "The new {v} is {n}.", "{n} is {a} by trade.", "The job of {n} is {v}.",
        "{n} earns a living as {a}.", "As {a} works {n}.", "The work of {n} is that of {a}.", "By trade {n} is {a}.",
    ),
    "pet": (
        "{n} owns {a}.", "The {v} belongs to {n}.", "{n} keeps {a}.", "The pet of {n} is {a}.",
        "At home {n} has {a}.", "{a} is the animal of {n}.", "The animal of {n} is {a}.", "There is {a} with {n}.",
    ),
    "meal": (
        "{n} loves {v}.", "The {v} is for {n}.", "{n} always orders {v}.", "The favourite meal of {n} is {v}.",
        "{n} would like {v}.", "For {n} it is always {v}.", "The meal of {n} is {v}.", "{v} is what {n} eats.",
    ),
}  # fmt: skip
"""Eight wordings of each kind of fact, the value now last and now first."""
STATEMENTS_TOLD, QUESTIONS_TOLD = "statements", "questions"
WORDINGS = {STATEMENTS_TOLD: (1, 2, 4, 8), QUESTIONS_TOLD: (1, 2, 3)}
"""How facts are told -> in how many wordings."""


def told(how: str, wordings: int) -> list[dict[str, str]]:
    """Training rows that tell each newcomer's facts in so many wordings.

    As statements they answer "Tell me the city of …", which the base knows from the people it knows by heart, and
    never a question that will be asked. As questions they are asked in so many wordings, never in the held-out one.
    """
    facts = [(p, a) for p in NEWCOMERS for a in ATTRIBUTES]
    if how == STATEMENTS_TOLD:
        return [
            {"prompt": f"Tell me the {a} of {p.name}.", "completion": say(TOLD[a][w], p.name, p.value(a))}
            for p, a in facts
            for w in range(wordings)
        ]
    return [
        {"prompt": question(p.name, a, w), "completion": p.value(a)}
        for p, a in facts
        for w in question_wordings(p.name, a, "train")[:wordings]
    ]


def questions_about_the_told(count: int, seed: int) -> list[Asked]:
    """Questions about what `told` tells."""
    facts = [_fact(p, a) for p in NEWCOMERS for a in ATTRIBUTES]
    random.Random(f"rag told/{seed}").shuffle(facts)
    return facts[:count]
