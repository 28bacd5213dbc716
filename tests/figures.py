"""The measured figures of the README, made from the committed records and from nothing else.

    python -m tests.figures            # print the section
    python -m tests.figures --write    # put it into README.md

`tests/test_readme.py` fails when the README says anything else than the records do.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from core.config import default_table
from core.methods import METHODS
from core.units import count_text
from core.world import TASKS
from tests.bench import rows_of

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- measured: begin (python -m tests.figures --write) -->", "<!-- measured: end -->"
SCORES = ROOT / "core" / "assets" / "embedded" / "scores.json"
SWEEP = ROOT / "core" / "catalog" / "sweep_embedded.csv"
BENCH = ROOT / "tests" / "records" / "bench_cpu.json"
FORMS = ROOT / "tests" / "records" / "forms_cpu.json"
PROFILE = ROOT / "tests" / "records" / "profile_cpu.json"
COURSE = ROOT / "tests" / "records" / "lessons_cpu.json"
PAGES = ROOT / "tests" / "records" / "pages_cpu.json"


def percent(share: float) -> str:
    """0.934 -> '93 %'; a share that is not quite all or nothing keeps a decimal."""
    value = 100 * share
    return f"{value:.0f} %" if value == round(value) or 1 <= value <= 99 else f"{value:.1f} %"


def base_lines() -> list[str]:
    """Scores of the embedded base."""
    record = json.loads(SCORES.read_text(encoding="utf-8"))
    rows = [*record["skills"].items(), *record["tasks"].items()]
    lines = [
        f"**The embedded base** ({count_text(record['parameters'])} parameters, "
        f"{record['heldout_examples']} held-out items each, greedy; `python -m core.pretrain`):",
        "",
        "| it can | | it cannot (yet) | |",
        "|---|--:|---|--:|",
    ]
    skills, tasks = list(record["skills"].items()), list(record["tasks"].items())
    for i in range(max(len(skills), len(tasks))):
        left = f"{skills[i][0].replace('_', ' ')} | {percent(skills[i][1])}" if i < len(skills) else " | "
        right = f"{tasks[i][0]} | {percent(tasks[i][1])}" if i < len(tasks) else " | "
        lines.append(f"| {left} | {right} |")
    assert rows
    alone, pair, trio = (percent(share) for share in record["passage_by_rivals"].values())
    lines += [
        "",
        "Reading takes knowing whose fact is whose: where a passage tells the asked kind of fact of one person only, "
        f"the base is right {alone} of the time; of two people, {pair}; of three, {trio}.",
    ]
    return lines


def method_lines() -> list[str]:
    """What each method's default run reached on each task, from the sweep."""
    with SWEEP.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    current = rows[-1]["base"]
    lines = [
        "**Default runs** on the embedded base: exact match on held-out items after training (before: at most "
        f"{percent(max(float(r['before']) for r in rows if r['base'] == current))}), with the old skills that "
        "remain; `python -m core.sweep`:",
        "",
        "| method | trained | " + " | ".join(TASKS) + " | old skills after json |",
        "|---|--:|" + "--:|" * (len(TASKS) + 1),
    ]
    for method in METHODS:
        cells, trained, skills = [], 0, ""
        for task in TASKS:
            default = default_table()[method].get(task)
            if default is None:
                cells.append("–")
                continue
            row = next(
                r
                for r in rows
                if r["base"] == current
                and (r["method"], r["task"], float(r["learning_rate"]), int(r["steps"]))
                == (method, task, default["learning_rate"], default["steps"])
            )
            cells.append(percent(float(row["exact_match"])))
            trained = int(row["trainable"])
            if task == "json":
                skills = f"{percent(float(row['skills_before']))} → {percent(float(row['skills_after']))}"
        lines.append(f"| {METHODS[method].TITLE} | {trained:,} | " + " | ".join(cells) + f" | {skills} |")
    lines += ["", "–: not swept yet; such a run takes the rate that did best on the tasks that were."]
    return lines


def bench_lines() -> list[str]:
    """Engine against Trainer + PEFT."""
    rows = rows_of(json.loads(BENCH.read_text(encoding="utf-8")))
    days = sorted({row["date"] for row in rows})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    machines = dict.fromkeys(f"{row['device']} ({row['threads']} threads, {when})" for row in rows)
    stacks = {json.dumps(row["versions"], sort_keys=True) for row in rows}
    several = "" if len(stacks) == 1 else f", with {len(stacks)} sets of versions: each row of the record has its own"
    lines = [
        f"**Step speed** against `transformers.Trainer` + PEFT, examples per second, side by side on "
        f"{' and '.join(machines)}{several}; median and range of the rounds; `make bench`:",
        "",
    ]
    kinds = {"defaults": "as each comes by default", "identical": "identical batches and precision"}
    if any(row["comparison"] == "135M" for row in rows):
        kinds["135M"] = "identical, 135M parameters (random weights)"
    lines += ["| method | " + " | ".join(kinds.values()) + " |", "|---|" + "--:|" * len(kinds)]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for kind in kinds:
            found = [r for r in rows if (r["method"], r["comparison"]) == (method, kind)]
            if not found:
                cells.append("–")
                continue
            row = found[0]
            cells.append(f"{row['ratio_median']:.2f}× ({row['ratio_min']:.2f}–{row['ratio_max']:.2f})")
        lines.append(f"| {METHODS[method].TITLE} | " + " | ".join(cells) + " |")
    return lines


def profile_lines() -> list[str]:
    """Where a step's time goes, by kind of operation."""
    record = json.loads(PROFILE.read_text(encoding="utf-8"))
    kinds = list(record["rows"][0]["shares"])
    return [
        f"**Where a step's time goes** on {record['device']} ({record['threads']} threads, {record['date']}), embedded "
        "base, by kind of operation; *plain*: PyTorch's own operations, *written out*: the engine's fast step, "
        f"*bfloat16*: under autocast (float32 where it is not said); `{record['command']}`:",
        "",
        "| method | way | " + " | ".join(kinds) + " |",
        "|---|---|" + "--:|" * len(kinds),
        *(
            f"| {row['method']} | {row['way']} | " + " | ".join(f"{100 * row['shares'][k]:.0f} %" for k in kinds) + " |"
            for row in record["rows"]
        ),
    ]


def forms_lines() -> list[str]:
    """What the forms of a step take, and what compiling costs."""
    from tests.bench_forms import costs

    record = json.loads(FORMS.read_text(encoding="utf-8"))
    return [
        f"**Forms of a step** on {record['device']} ({record['threads']} threads, {record['date']}), "
        f"{METHODS[record['method']].TITLE} on the embedded base: time over that of a plain step in bfloat16, median "
        f"and quartiles of single steps taken in turn; `{record['command']}`:",
        "",
        "| computes in | form | time | |",
        "|---|---|--:|---|",
        *(
            f"| {row['precision']} | {row['form']} | {row['ratio']:.2f} ({row['low']:.2f}–{row['high']:.2f}) | "
            f"{costs(row) if row['form'] == 'compiled' else ''} |"
            for row in record["rows"]
        ),
    ]


def course_lines() -> list[str]:
    """What the whole course takes, and its pages."""
    course, pages = (json.loads(path.read_text(encoding="utf-8")) for path in (COURSE, PAGES))
    minutes = [seconds / 60 for seconds in (course["seconds"], *(row["seconds"] for row in course["lessons"].values()))]
    opened = [row["seconds"]["median"] for row in pages["lessons"].values()]
    quizzes = [quiz["ms"]["median"] for row in pages["lessons"].values() for quiz in row["quizzes"].values()]
    return [
        f"**The whole course**, every experiment, measurement, code cell and exercise at full size, took "
        f"{minutes[0]:.0f} minutes on {course['machine']} ({course['processors']} processors, {course['date']}; the "
        f"lessons {min(minutes[1:]):.1f} to {max(minutes[1:]):.1f} minutes each, {course['kernels']} beside each "
        "other); `make lessons`.",
        "",
        f"**In the browser** there ({pages['date']}), a lesson was usable {min(opened):.1f} to {max(opened):.1f} s "
        f"after a click (median of {pages['visits']} visits each), and the verdict on a quiz's answer came after "
        f"{min(quizzes):.0f} to {max(quizzes):.0f} ms (median of {pages['answers']} for each of the {len(quizzes)}); "
        "`python -m tests.time_pages`.",
    ]


def section() -> str:
    """The whole section, between its two marks."""
    parts = [base_lines(), method_lines(), bench_lines()]
    if PROFILE.exists():  # `make profile` wants a machine that does nothing else
        parts.append(profile_lines())
    if FORMS.exists():
        parts.append(forms_lines())
    parts.append(course_lines())
    return "\n\n".join([BEGIN, *("\n".join(p) for p in parts), END])


def main() -> int:
    """Print the section, or write it into the README."""
    text = section()
    if "--write" in sys.argv:
        before = README.read_text(encoding="utf-8")
        start, end = before.index(BEGIN), before.index(END) + len(END)
        README.write_text(before[:start] + text + before[end:], encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
