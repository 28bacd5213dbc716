"""`deltalab rag`: index documents, ask them, measure retrieval, make RAFT's training rows, run the experiment.

deltalab rag index notes/ --to INDEX             txt, md, pdf, csv; again: what changed is indexed anew
deltalab rag ask INDEX "Who works as a baker?"   the answer, and the passages that it comes from
deltalab rag evaluate INDEX --questions qa.csv   recall@k and MRR of each way to retrieve
deltalab rag raft INDEX --questions qa.csv --out rows.jsonl
deltalab rag experiment                          prompting, retrieval, fine-tuning and both, on the same needs
deltalab rag bench                               time a query on 100,000 chunks
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from core.cli.arguments import DONE, command, json_argument, output_file, pairs_of, quiet_libraries

SINGLE, SEVERAL = 1, 4  # passages that are retrieved by default, for the embedded base and for others


def add(commands: Any) -> None:
    """The command's flags and actions."""
    top = commands.add_parser(
        "rag", help="retrieval: index, ask, evaluate, raft, experiment, bench", description="Retrieval, measured."
    )
    actions = top.add_subparsers(metavar="ACTION", dest="action", required=True)

    one = command(actions, "index", _index, "index documents, or bring an index up to date")
    one.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files or folders (txt, md, pdf, csv)")
    one.add_argument("--to", type=Path, required=True, metavar="INDEX", help="the index's folder; made if missing")
    one.add_argument("--embedder", help="words (default), spelling, a sentence-transformers folder or hub id")
    one.add_argument("--words", type=int, help="longest chunk, in words (default: 120)")
    one.add_argument("--overlap", type=int, help="words that a chunk repeats of the one before, at most (default: 24)")
    one.add_argument("--delete", action="append", default=[], metavar="SOURCE", help="remove everything of a source")
    one.add_argument("--world", action="store_true", help="index the small world's table of people")
    json_argument(one)

    one = command(actions, "ask", _ask, "answer a question from an index, with sources")
    one.add_argument("index", type=Path, metavar="INDEX")
    one.add_argument("question", metavar="QUESTION")
    one.add_argument("--base", default="embedded", help="embedded, a folder, or a hub id (default: embedded)")
    one.add_argument("--revision", help="branch, tag or commit of a hub id")
    one.add_argument("--run", help="a run whose adapter answers, on its own base: an id or its beginning, or last")
    _retrieval(one)
    one.add_argument("--source", action="append", default=[], help="only passages of this source")
    one.add_argument("--retrieve-only", action="store_true", help="show the passages; no model answers")
    json_argument(one)

    one = command(actions, "evaluate", _evaluate, "measure retrieval: recall@k and MRR")
    one.add_argument("index", nargs="?", type=Path, metavar="INDEX", help="your own; without it the small world")
    one.add_argument("--questions", type=Path, metavar="FILE", help="questions with answers (JSONL, JSON or CSV)")
    one.add_argument("--embedder", help="for the small world: words (default), spelling, a folder or hub id")
    json_argument(one)

    one = command(actions, "raft", _raft, "make training rows with distractors (RAFT) from questions and an index")
    one.add_argument("index", type=Path, metavar="INDEX")
    one.add_argument("--questions", type=Path, required=True, metavar="FILE", help="questions with answers")
    one.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSONL to train on")
    one.add_argument("--base", default="embedded", help="whose prompt form to write (default: embedded)")
    one.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings",
                     help="distractors, golden, seed")  # fmt: skip
    json_argument(one)

    one = command(actions, "experiment", _experiment, "prompting, retrieval, fine-tuning and both on the same needs")
    one.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings",
                     help="seeds, items, steps, part, arms")  # fmt: skip
    one.add_argument("--record", type=Path, metavar="FILE", help="also write the result, with device and versions")
    one.add_argument(
        "--add", action="store_true", help="go on with further seeds behind those that FILE holds; with part=latency "
        "or with arms=…, measure these anew for the same seeds",
    )  # fmt: skip
    json_argument(one)

    one = command(actions, "bench", _bench, "time queries on a large index")
    one.add_argument("--chunks", type=int, default=100_000, help="how many (default: 100,000)")
    one.add_argument("--queries", type=int, default=50, help="how many questions are timed (default: 50)")
    one.add_argument("--folder", type=Path, help="keep the index here (default: a temporary folder)")
    one.add_argument("--record", type=Path, metavar="FILE", help="also write the result, with device and versions")
    json_argument(one)


def _retrieval(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--passages", type=int, help=f"how many passages to retrieve (default: {SINGLE} for the embedded base, which "
        f"confuses namesakes with more, else {SEVERAL})",
    )  # fmt: skip
    one.add_argument("--mode", default="hybrid", help="dense, lexical or hybrid (default: hybrid)")


def _index(asked: argparse.Namespace) -> int:
    from core.errors import BadInput
    from core.rag.chunks import Cutting
    from core.rag.quality import world_documents
    from core.rag.read import documents
    from core.rag.store import Change, Store
    from core.units import bytes_text, seconds_text

    if not (asked.paths or asked.delete or asked.world):
        raise BadInput("There is nothing to index.", "Name files or folders.")
    cutting = None
    if asked.words is not None or asked.overlap is not None:
        from core.config import settings_of

        given = {"words": asked.words, "overlap": asked.overlap}
        cutting = settings_of(Cutting, {k: v for k, v in given.items() if v is not None})
    began = time.perf_counter()
    read = [d for path in asked.paths for d in documents(path)]  # before the index is touched: a mistake leaves it be
    if asked.world:
        read += world_documents()
    adds = bool(asked.paths or asked.world)  # who only deletes makes no index of a mistyped name
    with Store(asked.to, embed=asked.embedder, cutting=cutting, create=adds) as store:
        change = Change()
        for source in asked.delete:
            change += store.delete(source)
        change += store.put(read)
        told = {
            "index": str(asked.to), **dataclasses.asdict(change), "chunks": len(store), "sources": len(store.sources()),
            "embedder": store.embedder.name, "bytes": store.size_bytes(),
            "seconds": round(time.perf_counter() - began, 3),
        }  # fmt: skip
    if asked.json:
        print(json.dumps(told))
    else:
        print(
            f"{change.added:,} chunks added, {change.removed:,} removed, {change.unchanged:,} documents unchanged, in "
            f"{seconds_text(told['seconds'])}.\nThe index holds {told['chunks']:,} chunks of {told['sources']:,} "
            f"sources in {bytes_text(told['bytes'])}; embedder: {told['embedder']}."
        )
    return DONE


def _ask(asked: argparse.Namespace) -> int:
    from core.config import EMBEDDED
    from core.rag.answer import Reader
    from core.rag.retrieve import Retriever
    from core.rag.store import Store, Where

    with Store(asked.index) as store:
        retriever, where = Retriever(store, asked.mode), Where(sources=tuple(asked.source))
        if asked.retrieve_only:
            found = retriever.find(asked.question, SEVERAL if asked.passages is None else asked.passages, where)
            _print_hits(found.hits, (), as_json=asked.json, seconds=found.seconds)
            return DONE
        quiet_libraries()
        base, revision, adapter = asked.base, asked.revision, None
        if asked.run:
            from core.cli.stored import OWNER, find_run, open_store

            runs = open_store()
            run = runs.get(find_run(runs, asked.run), OWNER)
            base, revision, adapter = run.config["base"], run.config.get("revision"), run.adapter
        reader = Reader(base, adapter, revision=revision)
        usual = SINGLE if base == EMBEDDED else SEVERAL
        count = usual if asked.passages is None else asked.passages
        answer = reader.ask(asked.question, retriever, count, where=where)
    if asked.json:
        print(
            json.dumps(
                {
                    "answer": answer.text, "refused": answer.refused, "supported": answer.supported,
                    "cited": list(answer.cited), "left_out": answer.left_out, "prompt_tokens": answer.prompt_tokens,
                    "seconds": {k: round(v, 4) for k, v in answer.seconds.items()},
                    "passages": [_hit(h) for h in answer.hits],
                },
                ensure_ascii=False,
            )
        )  # fmt: skip
        return DONE
    print(answer.text or "(no answer)")
    if answer.supported is False:
        print("The words of this answer stand in none of the passages.")
    if answer.left_out:
        print(f"{answer.left_out} passages did not fit into the prompt.")
    _print_hits(answer.hits, answer.cited, as_json=False)
    if answer.cited:
        print("* The words of the answer stand in this passage. Whether it is about what was asked is for you to see.")
    return DONE


def _hit(hit: Any) -> dict[str, Any]:
    return {"source": hit.chunk.source, "place": hit.chunk.place, "chunk": hit.chunk.number, "score": hit.score,
            "dense": hit.dense, "lexical": hit.lexical, "text": hit.chunk.text}  # fmt: skip


def _print_hits(hits: Any, cited: tuple[int, ...], *, as_json: bool, seconds: float | None = None) -> None:
    if as_json:
        print(json.dumps({"passages": [_hit(h) for h in hits], "seconds": seconds}, ensure_ascii=False))
        return
    for number, hit in enumerate(hits, 1):
        mark = "*" if number in cited else " "
        print(
            f"{mark}[{number}] {hit.chunk.citation}: {hit.chunk.text[:200]}{'…' if len(hit.chunk.text) > 200 else ''}"
        )


def _evaluate(asked: argparse.Namespace) -> int:
    from core.errors import BadInput
    from core.rag.quality import KS, RULE, all_modes, common, from_chunks, from_file, world_documents, world_queries
    from core.rag.store import Store

    vague = None
    if asked.index is None:
        if asked.questions is not None:
            raise BadInput("Questions need an index to be asked of.", "Name it.")
        with Store(":memory:", embed=asked.embedder, create=True) as store:
            store.put(world_documents())
            found = all_modes(store, world_queries())
    else:
        with Store(asked.index, embed=asked.embedder) as store:
            queries = from_file(asked.questions) if asked.questions else from_chunks(store)
            found = all_modes(store, queries)
            vague = common(store, queries) if asked.questions else None
    if asked.json:
        more = {} if vague is None else {"rule": RULE, "common": vague}
        print(json.dumps([dataclasses.asdict(q) | more for q in found], ensure_ascii=False))
        return DONE
    print(f"{found[0].questions} questions, embedder {found[0].embedder}")
    print(f"{'':10}" + "".join(f"recall@{k:<4}" for k in KS) + "MRR     median")
    for q in found:
        shares = "".join(f"{100 * q.recall[k]:>5.1f} %    " for k in KS)
        print(f"{q.mode:10}{shares}{q.mrr:.3f}   {q.median_ms:.1f} ms")
    if vague is not None:
        print(RULE)
        if vague:
            print(f"Of the answers, {vague} stand in more than a tenth of the passages: to find one of these is easy.")
    elif asked.index is not None:
        print("The questions are sentences of the documents with half of their words left out; people's are harder.")
    return DONE


def _raft(asked: argparse.Namespace) -> int:
    from core.config import settings_of
    from core.rag.quality import pairs
    from core.rag.raft import Raft, rows, write
    from core.rag.retrieve import Retriever
    from core.rag.store import Store

    out = output_file(asked.out)
    solved = pairs(asked.questions)
    with Store(asked.index) as store:
        made = rows(solved, Retriever(store), settings_of(Raft, pairs_of(asked.settings)), base=asked.base)
    write(out, made)
    left = len(solved) - len(made)
    if asked.json:
        print(json.dumps({"rows": len(made), "left_out": left, "out": str(asked.out)}))
    else:
        more = f"; {left} questions whose answer no retrieved passage holds are left out" if left else ""
        print(f"{len(made):,} rows in {asked.out}{more}.\nTrain on them: deltalab train --data {asked.out}")
    return DONE


def _experiment(asked: argparse.Namespace) -> int:
    import tempfile

    from core.config import settings_of
    from core.hardware import best_threads
    from core.probes import Subject
    from core.rag import experiment

    config = settings_of(experiment.Config, pairs_of(asked.settings))
    if asked.record is not None:
        output_file(asked.record)  # now, and not when all is measured
    before = None
    if asked.add:
        before = _recorded(asked.record)
        seeds = before["settings"]["seeds"]
        # Of the same seeds; else of those that follow.
        again = config.part == "latency" or config.arms != experiment.EVERY
        config = (
            dataclasses.replace(config, first=0, seeds=seeds) if again else dataclasses.replace(config, first=seeds)
        )
    quiet_libraries()
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(best_threads())
    over = sys.stderr.isatty()  # a terminal's line is written over; a log gets a line a stage

    def tell(share: float | None, text: str) -> None:
        if not asked.json:
            start, end = ("\r", "\033[K") if over else ("", "\n")
            print(f"{start}{100 * (share or 0):3.0f} % {text}", end=end, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as place:
        result = experiment.measure(Subject((), Path(place)), config, tell)
    if before is not None:
        result = experiment.joined(before, result)
    if asked.record is not None:
        more = " --add" if asked.add else ""
        line = f"deltalab rag experiment{_given(asked.settings)} --record {asked.record.name}{more}"
        _write(asked.record, result, line, before)
    if asked.json:
        print(json.dumps(result))
        return DONE
    if over:
        print(file=sys.stderr)
    for line in experiment.table(result):
        print(line)
    return DONE


def _recorded(path: Path | None) -> dict[str, Any]:
    """What is recorded already, if it is of this base."""
    from core.errors import BadInput
    from core.sweep import base_hash

    try:
        found: dict[str, Any] = json.loads((path or Path()).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadInput("There is no record to add to.", "Name one with --record, or record a new one.") from None
    if found.get("base") != base_hash():
        raise BadInput("The record is of another base.", "Record a new one.")
    return found


def _given(settings: list[str]) -> str:
    return f" --set {' '.join(settings)}" if settings else ""


def _write(path: Path, result: dict[str, Any], line: str, before: dict[str, Any] | None = None) -> None:
    """A record: what was measured, with what it was measured on; behind what was there before, if it was added to."""
    import datetime

    from core.hardware import attached_light
    from core.rag.embed import embedder
    from core.runs.recorded import commit_facts
    from core.sweep import base_hash
    from core.train import versions

    commands, devices = [line], [attached_light().name]
    if before is not None:  # parts that were measured elsewhere keep that in sight
        commands = [before["command"], line]
        devices = list(dict.fromkeys([*before["device"].split(" and "), *devices]))
    record = {
        "command": "; ".join(commands),
        "date": datetime.date.today().isoformat(),
        "device": " and ".join(devices),
        **commit_facts(),
        "versions": versions(),
        "base": base_hash(),
        "embedder": embedder().version,
        **result,
    }
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _bench(asked: argparse.Namespace) -> int:
    from core.rag.bench import bench
    from core.units import bytes_text, seconds_text

    if asked.record is not None:
        output_file(asked.record)
    found = bench(asked.chunks, asked.queries, asked.folder)
    if asked.record is not None:
        _write(
            asked.record, found,
            f"deltalab rag bench --chunks {asked.chunks} --queries {asked.queries} --record {asked.record.name}",
        )  # fmt: skip
    if asked.json:
        print(json.dumps(found))
        return DONE
    print(
        f"{found['chunks']:,} chunks, {bytes_text(found['bytes'])}, indexed in {seconds_text(found['index_seconds'])} "
        f"on {found['device']}."
    )
    for mode, row in found["modes"].items():
        print(
            f"  {mode:8} median {row['median_ms']:6.1f} ms   95 % within {row['p95_ms']:6.1f} ms   "
            f"processor {row['cpu_median_ms']:6.1f} ms"
        )
    return DONE
