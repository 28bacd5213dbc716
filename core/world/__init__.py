"""The small world in which the embedded base lives, and the tasks that learners teach it.

What: people with a city, a job, a pet and a favourite meal; a little arithmetic; restaurant reviews. Every answer in
this world is one exact string, so every experiment can be graded without a judge.

How: `SKILLS` are what the shipped base already does, `TASKS` are what it must be taught. Each entry generates examples
from a seeded `random.Random` and grades an answer. `core.world.corpus` has the further formats that only pre-training
sees, and `core.pretrain` turns the whole into the weights in `core/assets/embedded/`.

What it is not: natural language. A score here says how a method behaves on a small model, not how well it will do on
yours.

    >>> from core.world import examples, grade
    >>> item = examples("json", "heldout", count=1, seed=0)[0]
    >>> grade("json", item, item.completion)
    True

Nothing here imports torch.
"""

import random
from functools import lru_cache

from core.world.item import SPLITS, Example, Skill, Split, same_beginning, same_text
from core.world.people import KNOWN, NEWCOMERS, Person, passage_prompt, question, statement
from core.world.skills import SKILLS
from core.world.tasks import TASKS

__all__ = [
    "KNOWN",
    "NEWCOMERS",
    "SKILLS",
    "SPLITS",
    "TASKS",
    "Example",
    "Person",
    "Skill",
    "Split",
    "examples",
    "grade",
    "hopeful",
    "lookup",
    "passage_prompt",
    "question",
    "statement",
]

# A generator with few distinct prompts (facts: 80 held out) is asked this often for a new one before it may repeat.
_TRIES_FOR_A_NEW_PROMPT = 200


def lookup(name: str) -> Skill:
    """The skill or task of that name; a `ValueError` that lists the names if there is none."""
    found = SKILLS.get(name) or TASKS.get(name)
    if found is None:
        raise ValueError(f"No skill or task is called {name!r}; there are {', '.join([*SKILLS, *TASKS])}.")
    return found


def examples(name: str, split: Split, count: int, seed: int) -> list[Example]:
    """`count` examples of a skill or task, the same ones for the same arguments.

    No prompt of the one split ever occurs in the other, whatever the seeds. Within one call the prompts are distinct
    as long as the generator has that many; after that they repeat.
    """
    if split not in SPLITS:
        raise ValueError(f"A split is one of {', '.join(SPLITS)}, not {split!r}.")
    return list(_drawn(name, split, count, seed))


# A race asks for the same ones once a method, and drawing a run's takes a fifth of a second.
@lru_cache(maxsize=16)
def _drawn(name: str, split: Split, count: int, seed: int) -> tuple[Example, ...]:
    skill = lookup(name)
    rng = random.Random(f"{name}/{split}/{seed}")
    drawn: list[Example] = []
    seen: set[str] = set()
    exhausted = False
    while len(drawn) < count:
        example = skill.generate(rng, split)
        if not exhausted:
            tries = 1
            while example.prompt in seen and tries < _TRIES_FOR_A_NEW_PROMPT:
                example = skill.generate(rng, split)
                tries += 1
            exhausted = example.prompt in seen
        seen.add(example.prompt)
        drawn.append(example)
    return tuple(drawn)


def grade(name: str, example: Example, answer: str) -> bool:
    """Whether the generated text answers the example, exactly; white space at either end is forgiven."""
    return lookup(name).grade(example, answer)


def hopeful(name: str, example: Example, beginning: str) -> bool:
    """Whether an answer that begins like this may still be right when it goes on; False only where it cannot."""
    skill = lookup(name)
    told = skill.hopeful or (same_beginning if skill.grade is same_text else None)
    return told is None or told(example, beginning)
