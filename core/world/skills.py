"""The five skills that the embedded base has and that fine-tuning may make it forget.

Each is generated and graded here; none of them is ever given a format of its own, so the answer is a bare word, number
or line. The order of `SKILLS` is the order of the charts.
"""

import random

from core.world.item import Example, Skill, Split, split_of
from core.world.people import (
    ATTRIBUTES,
    KNOWN,
    VALUES,
    passage_prompt,
    question,
    question_wordings,
    some_facts,
    strangers,
    tell,
)

PRAISE = tuple("tasty warm fresh lovely perfect rich great superb crisp tender".split())
BLAME = tuple("cold bland stale awful burnt salty dull dreadful soggy greasy".split())
REVIEWS = (
    "The {m} was {x} and {y}.",
    "I had the {m}: {x}, even {y}.",
    "Such {x} and {y} {m}!",
    "We found the {m} {x}. The {o} was {y} too.",
)
WORDS = VALUES["job"] + VALUES["pet"] + VALUES["meal"]


def closed_book(rng: random.Random, split: Split) -> Example:
    """A fact about a known person, from memory; held out is a wording never used for this fact."""
    person = rng.choice(KNOWN)
    attribute = rng.choice(ATTRIBUTES)
    wording = rng.choice(question_wordings(person.name, attribute, split))
    return Example(question(person.name, attribute, wording), person.value(attribute), "closed_book")


def passage(rng: random.Random, split: Split, people: int | None = None) -> Example:
    """A fact read from a passage about one to three invented people; held-out people have names never seen."""
    facts = some_facts(rng, strangers(rng, split, people or rng.randint(1, 3)))
    asked = rng.choice(facts)
    wording = rng.choice((0, 1, 2, 3))
    prompt = passage_prompt(tell(rng, facts), question(asked.person.name, asked.attribute, wording))
    return Example(prompt, asked.person.value(asked.attribute), "passage")


def sentiment(rng: random.Random, split: Split) -> Example:
    """Whether a restaurant review praises or blames."""
    while True:
        label, words = rng.choice((("positive", PRAISE), ("negative", BLAME)))
        x, y = rng.sample(words, 2)
        meal, other = rng.sample(VALUES["meal"], 2)
        review = rng.choice(REVIEWS).format(m=meal, o=other, x=x, y=y)
        if split_of(review) == split:
            return Example(f"Review: {review}", label, "sentiment")


def reversal(rng: random.Random, split: Split) -> Example:
    """Three to five words in the opposite order."""
    while True:
        words = [rng.choice(WORDS) for _ in range(rng.randint(3, 5))]
        # A list and its mirror image share a split: one would give the other away.
        if split_of(" ".join(min(words, words[::-1]))) == split:
            return Example(f"Reverse: {' '.join(words)}", " ".join(words[::-1]), "reversal")


def addition(rng: random.Random, split: Split) -> Example:
    """The sum of two two-digit numbers."""
    while True:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        # 23 + 45 and 45 + 23 share a split for the same reason.
        if split_of(f"{min(a, b)}+{max(a, b)}") == split:
            return Example(f"{a} + {b} =", str(a + b), "addition")


def right_number(example: Example, answer: str) -> bool:
    """The answer is the sum, written in digits and nothing else."""
    text = answer.strip()
    return text.isascii() and text.isdigit() and int(text) == int(example.completion)


def hopeful_number(example: Example, beginning: str) -> bool:
    """Whether `right_number` may still hold for an answer that begins like this; it may begin with zeros."""
    return str(int(example.completion)).startswith(beginning.strip().lstrip("0"))


_GUESSED_FACT = sum(1 / len(values) for values in VALUES.values()) / len(VALUES)

SKILLS: dict[str, Skill] = {
    skill.name: skill
    for skill in (
        Skill(
            "closed_book",
            "Known facts",
            "Questions about the 80 people that the base knows by heart.",
            closed_book,
            limit_tokens=6,
            chance=_GUESSED_FACT,
        ),
        Skill(
            "passage",
            "Reading a passage",
            "Questions about people never seen, answered from the passage in the prompt.",
            passage,
            limit_tokens=6,
            chance=_GUESSED_FACT,
        ),
        Skill(
            "sentiment",
            "Sentiment",
            "Whether a restaurant review is positive or negative.",
            sentiment,
            limit_tokens=6,
            chance=0.5,
        ),
        Skill("reversal", "Reversal", "Three to five words in reverse order.", reversal, limit_tokens=16),
        Skill(
            "addition",
            "Addition",
            "The sum of two two-digit numbers.",
            addition,
            grade=right_number,
            hopeful=hopeful_number,
            limit_tokens=6,
        ),
    )
}
