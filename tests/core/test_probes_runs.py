"""Probes on finished runs of a tiny base: what they say is what an independent computation says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from core import cli
from core.cli.probe import lines
from core.cli.stored import OWNER
from core.config import RunConfig, TrainConfig
from core.errors import BadInput, DeltalabError, Refused
from core.probes import PROBES, truncation
from core.probes.delta import changes, without
from core.probes.trained import Trained, load
from core.runs import prober
from core.runs.store import Run, Store
from core.runs.worker import execute
from tests import checkpoints
from tests.core.method_support import logits

# method -> settings, for the runs that every test here shares
RUNS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4}, "full": {}, "qlora": {"rank": 2}, "bitfit": {}, "ia3": {}, "dora": {"rank": 2},
    "prompt_tuning": {"tokens": 4}, "adapters": {},
}  # fmt: skip


class Made:
    """A store with one short run of each of some methods, on a tiny base and a file of the tester's own."""

    def __init__(self, place: Path) -> None:
        self.base = str(checkpoints.write("llama_biased", place / "base"))
        self.data = place / "rows.jsonl"
        self.data.write_text("".join(f'{{"prompt": "Say {n}", "completion": "{n} is"}}\n' for n in range(24)))
        self.store = Store(home=place / "home")
        self.run = {name: self.train(name, settings) for name, settings in RUNS.items()}

    def train(self, method: str, settings: dict[str, Any], **more: Any) -> Run:
        record = {"base": self.base, "task": None, "data": str(self.data), "method": method, "settings": settings}
        loop = TrainConfig(
            learning_rate=0.03, steps=4, batch_size=8, eval_items=4, held_out=0.25, eval_every=100, precision="float32"
        )
        config = RunConfig.from_dict({**record, **more, "train": vars(loop)})
        key = json.dumps([method, settings, more])
        run = self.store.create(OWNER, config, key=key, title=f"{method} run")
        assert execute(self.store, run.id) == "finished", self.store.get(run.id, OWNER).sentence
        return self.store.get(run.id, OWNER)

    def measure(self, name: str, *runs: Run, **settings: Any) -> dict[str, Any]:
        request, folder = prober.asked(self.store, name, [r.id for r in runs], settings, OWNER)
        folder.mkdir(parents=True, exist_ok=True)
        found = prober.measure(request, folder, lambda share, text: None)
        json.dumps(found, allow_nan=False)
        return found

    def load(self, run: Run) -> Trained:
        request, _ = prober.asked(self.store, "tokens", [run.id], {}, OWNER)
        from core.probes import Source

        (source,) = request["runs"]
        return load(Source(**{**source, "adapter": Path(source["adapter"])}), lambda share, text: None)

    def last_score(self, run: Run) -> dict[str, Any]:
        return self.store.events(run.id, OWNER, kinds=("evaluated",))[-1][1]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small is quicker on one thread, and on a busy machine many times so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.hardware.best_threads", lambda: 1)
        yield


@pytest.fixture(scope="module")
def made(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    made = Made(tmp_path_factory.mktemp("probes"))
    yield made
    made.store.close()


# --- spectrum ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(RUNS))
def test_every_run_has_a_spectrum_or_hears_why_not(made: Made, method: str) -> None:
    found = made.measure("spectrum", made.run[method])
    assert found["sentence"] == without(method)
    assert bool(found["modules"]) == (without(method) is None) == (not found["tensors"])
    for layer in found["layers"]:
        mine = [m for m in found["modules"] if m["layer"] == layer["layer"]]
        assert layer["norm"] ** 2 == pytest.approx(sum(m["norm"] ** 2 for m in mine))
        assert 0 <= layer["half"] <= layer["most"] <= layer["trained"] <= layer["full"]
    if method in ("lora", "qlora"):
        assert {m["rank"] for m in found["modules"]} == {RUNS[method]["rank"]}


# --- truncation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "full", "qlora", "dora"])
def test_uncut_it_is_the_runs_own_score_to_the_bit(made: Made, method: str) -> None:
    run = made.run[method]
    found = made.measure("truncation", run)
    own = made.last_score(run)
    whole = found["rows"][-1]
    assert whole["whole"]
    assert (whole["loss"], whole["exact_match"]) == (own["loss"], own["exact_match"])
    first = made.store.events(run.id, OWNER, kinds=("evaluated",))[0][1]
    assert found["base"]["loss"] == first["loss"]
    assert [r["rank"] for r in found["rows"]] == truncation.ranks_to_try(found["largest"])
    kept = [r["kept"] for r in found["rows"]]
    assert kept == sorted(kept)
    assert kept[-1] == 1.0
    assert (found["rows"][0]["loss"] == found["base"]["loss"]) == (found["vectors"] == 0)
    if method == "lora":
        losses = [r["loss"] for r in found["rows"]]
        assert abs(losses[0] - losses[-1]) > 0.1, "the run must have learnt something, or this tests nothing"


@pytest.mark.parametrize("method", ["lora", "full", "qlora", "dora", "ia3"])
def test_a_cut_that_cuts_nothing_computes_what_the_run_computes(made: Made, method: str) -> None:
    """The way of putting ΔW_k in place, at a k that leaves all of it: equal to rounding."""
    trained = made.load(made.run[method])
    wanted = logits(trained.model)
    cuts, vectors = truncation.take_apart(trained.attached, lambda share, text: None)
    trained.attached.disable()
    base = logits(trained.model)
    model = truncation.bare(trained.attached)
    assert torch.equal(logits(model), base)
    truncation.put(model, cuts, vectors, 1)
    truncation.put(model, cuts, vectors, 1000)  # the second takes the place of the first
    found = logits(model)
    # Some hundred float32 units (1.2e-7) of logits of size 1; ΔW itself moves them by far more.
    torch.testing.assert_close(found, wanted, rtol=0, atol=3e-5)
    assert (base - wanted).abs().max() > 1e-2


def test_rank_one_is_the_nearest_matrix_of_rank_one(made: Made) -> None:
    trained = made.load(made.run["lora"])
    cuts, _ = truncation.take_apart(trained.attached, lambda share, text: None)
    layer = trained.attached.layers[cuts[0].path]
    delta = layer.delta().double()
    left = float(torch.linalg.norm(delta - (cuts[0].b[:, :1] @ cuts[0].a[:1]).double()))
    assert left == pytest.approx(float(torch.linalg.svdvals(delta)[1:].norm()), rel=1e-5)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_encoders_head_is_part_of_the_change_and_never_cut(made: Made, tmp_path: Path, method: str) -> None:
    base = str(checkpoints.write_encoder("bert", tmp_path / "encoder"))
    data = tmp_path / "reviews.csv"
    words = ("great", "dull")
    data.write_text("text,label\n" + "".join(f"It was {words[n % 2]} {n}.,{n % 2}\n" for n in range(40)))
    run = made.train(method, {"rank": 4} if method == "lora" else {}, base=base, data=str(data))
    found = made.measure("truncation", run)
    own = made.last_score(run)
    assert (found["rows"][-1]["loss"], found["rows"][-1]["exact_match"]) == (own["loss"], own["exact_match"])
    assert found["items"] == own["items"]
    trained = made.load(run)
    told = {c.name: c for c in changes(trained.attached)}
    cuts, whole = truncation.take_apart(trained.attached, lambda share, text: None)
    assert "classifier.weight" in whole
    assert {c.name for c in cuts} | set(whole) == set(told)
    assert not {c.name for c in cuts} & set(whole)
    trained.attached.disable()
    was = {name: p.detach().clone() for name, p in trained.model.named_parameters()}
    trained.attached.enable()
    now = dict(trained.attached.merge().named_parameters())
    head = [n for n in now if n.startswith("classifier.")]
    assert head
    for name in head:
        assert not torch.equal(now[name], was[name])
        assert torch.equal(told[name].delta(), (now[name].double() - was[name].double()).detach())
    # Its labels' probabilities, and what merging and converting make of it.
    read = made.measure("tokens", run, items=50)
    assert -sum(i["log_after"] for i in read["items"]) / len(read["items"]) == pytest.approx(own["loss"], rel=1e-5)
    assert sum(i["labels"][int(i["answer"])]["after"]["rank"] == 1 for i in read["items"]) == round(
        own["items"] * own["exact_match"]
    )
    assert all(sum(row["before"]["p"] for row in i["labels"]) == pytest.approx(1) for i in read["items"])
    (typed,) = made.measure("tokens", run, prompt="It was great.")["items"]
    assert typed["labels"][int(typed["answer"])]["after"]["rank"] == 1
    merged = {row["form"]: row for row in made.measure("merge", run)["rows"]}
    assert merged["trained"]["loss"] == own["loss"]
    assert merged["float32"]["loss"] == pytest.approx(own["loss"], rel=1e-5)
    assert merged["nf4"]["loss"] != merged["float32"]["loss"]
    converted = made.measure("convert", run)
    if method == "lora":
        assert converted["rows"][-1]["loss"] == pytest.approx(own["loss"], rel=1e-4)
    assert not any(name.startswith(("classifier", "bert.pooler")) for name in converted["left_out"])
    assert {m["module"] for m in converted["modules"]} == {c.path for c in cuts if c.path.startswith("bert.encoder")}


def test_ranks_to_try() -> None:
    assert truncation.ranks_to_try(8) == [0, 1, 2, 4, 8]
    assert truncation.ranks_to_try(6) == [0, 1, 2, 4, 6]
    assert truncation.ranks_to_try(1) == [0, 1]
    assert truncation.ranks_to_try(0) == [0]


@pytest.mark.parametrize(("method", "sentence"), [("prompt_tuning", "no ΔW"), ("bitfit", "vectors only")])
def test_what_has_no_rank_is_not_cut(made: Made, method: str, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        made.measure("truncation", made.run[method])


# --- tokens -----------------------------------------------------------------------------------------------------------


def softmax(row: list[float]) -> list[float]:
    import math

    top = max(row)
    e = [math.exp(v - top) for v in row]
    return [v / sum(e) for v in e]


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "qlora"])
def test_probabilities_are_a_plain_softmax_of_the_models_logits(made: Made, method: str) -> None:
    found = made.measure("tokens", made.run[method], items=2, alternatives=3)
    trained = made.load(made.run[method])
    assert len(found["items"]) == 2
    assert found["base"] == ("the base in few bits" if method == "qlora" else "the base")
    for told, encoded in zip(found["items"], trained.objective.held_out_rows, strict=False):
        answer = [i for i, label in enumerate(encoded.labels) if label >= 0]
        assert [t["id"] for t in told["tokens"]] == [encoded.ids[i] for i in answer]
        assert "".join(t["text"] for t in told["tokens"]).startswith(told["answer"])
        for side in ("before", "after"):
            trained.attached.enable() if side == "after" else trained.attached.disable()
            raw = logits(trained.model, torch.tensor([encoded.ids]))[0].double().tolist()
            for token, place in zip(told["tokens"], answer, strict=True):
                p = softmax(raw[place - 1])
                assert token[side]["p"] == pytest.approx(p[token["id"]], rel=1e-5)
                assert token[side]["rank"] == 1 + sum(v > p[token["id"]] for v in p)
                best = token[f"likeliest_{side}"][0]
                assert best[1 if side == "before" else 2] == pytest.approx(max(p), rel=1e-5)
                token[f"{side}_all"] = p
        for token in told["tokens"]:
            import math

            kl = sum(q * math.log(q / p) for p, q in zip(token["before_all"], token["after_all"], strict=True))
            assert token["kl"] == pytest.approx(kl, rel=1e-4, abs=1e-9)
        assert told["first_after"] == sum(t["after"]["rank"] == 1 for t in told["tokens"])
        assert told["log_before"] == pytest.approx(sum(math.log(t["before"]["p"]) for t in told["tokens"]))


def test_the_loss_is_the_mean_of_what_the_tokens_say(made: Made) -> None:
    """Two roads to one number: the run's held-out loss, and the log probabilities of all its items."""
    run = made.run["lora"]
    found = made.measure("tokens", run, items=50)
    count = sum(len(i["tokens"]) for i in found["items"])
    mean = -sum(i["log_after"] for i in found["items"]) / count
    assert mean == pytest.approx(made.last_score(run)["loss"], rel=1e-5)


def test_a_typed_prompt_is_read_with_the_answer_that_it_gets_now(made: Made) -> None:
    found = made.measure("tokens", made.run["lora"], prompt=" Say 77 ")
    (item,) = found["items"]
    assert found["typed"]
    assert item["prompt"] == "Say 77"
    with pytest.raises(BadInput, match="4000 are the most"):
        made.measure("tokens", made.run["lora"], prompt="x" * 4001)


# --- overlap ----------------------------------------------------------------------------------------------------------


def test_two_runs_overlap_where_both_changed_something(made: Made) -> None:
    found = made.measure("overlap", made.run["lora"], made.run["full"], directions=4)
    assert found["titles"] == ["lora run", "full run"]
    assert {m["name"] for m in found["modules"]} <= {f"{p}.weight" for p in made.load(made.run["lora"]).attached.layers}
    assert found["apart"] > 0, "full fine-tuning changed the embedding too"
    for module in found["modules"]:
        assert module["chance"] == pytest.approx(4 / module["dimensions"])
        assert module["top"] == module["phi"][-1][-1]
        assert all(0 <= v <= 1 for row in module["phi"] for v in row)
    swapped = made.measure("overlap", made.run["full"], made.run["lora"], directions=4)
    for one, other in zip(found["modules"], swapped["modules"], strict=True):
        for i in range(4):
            assert [one["phi"][j][i] for j in range(4)] == pytest.approx(other["phi"][i])
    out = made.measure("overlap", made.run["lora"], made.run["full"], directions=4, side="output")
    assert out["modules"][0]["phi"] != found["modules"][0]["phi"]


def test_what_cannot_be_compared_is_said(made: Made, tmp_path: Path) -> None:
    lora = made.run["lora"]
    with pytest.raises(BadInput, match="one and the same"):
        made.measure("overlap", lora, lora)
    with pytest.raises(Refused, match="no ΔW"):
        made.measure("overlap", lora, made.run["adapters"])
    with pytest.raises(Refused, match="vectors only"):
        made.measure("overlap", made.run["bitfit"], lora)
    with pytest.raises(BadInput, match="takes 2 runs, not 1"):
        made.measure("overlap", lora)
    other = made.train("lora", {"rank": 4}, base=str(checkpoints.write("llama", tmp_path / "other")))
    with pytest.raises(BadInput, match="different bases"):
        made.measure("overlap", lora, other)


# --- the terminal, and what is kept -----------------------------------------------------------------------------------


@pytest.fixture
def home(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTALAB_HOME", str(made.store.home))
    monkeypatch.delenv("DELTALAB_STORE", raising=False)


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["probe", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("name", ["spectrum", "truncation", "tokens", "overlap"])
def test_the_terminal_measures_and_answers_again_from_what_is_kept(
    made: Made, home: None, capsys: pytest.CaptureFixture[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name in PROBES
    ids = [made.run["lora"].id, *([made.run["full"].id] if name == "overlap" else [])]
    code, out, err = ask(capsys, *ids, name, "--json")
    assert (code, err) == (0, "")
    first = json.loads(out)
    assert first["runs"] == ids
    made.store.rename(ids[0], OWNER, "Called something else")

    def again(*_: Any) -> None:
        raise AssertionError("measured twice")

    monkeypatch.setattr(prober, "measure", again)
    assert json.loads(ask(capsys, *ids, name, "--json")[1]) == first, "a new name is no new question"
    made.store.rename(ids[0], OWNER, "lora run")
    code, out, _ = ask(capsys, *ids, name)
    assert code == 0
    assert "{" not in out


def test_the_terminal_says_what_is_wrong(made: Made, home: None, capsys: pytest.CaptureFixture[str]) -> None:
    run = made.run["lora"].id
    for arguments, sentence in (
        ((run, "nonsense"), "no measurement called 'nonsense'"),
        ((run, "spectrum", "--set", "colour=1"), "unknown setting 'colour'"),
        ((run, "spectrum", "--set", "directions=0"), "directions must be at least 1"),
        (("spectrum",), "takes 1 run, not 0"),
        (("zzz", "spectrum"), "There is no run 'zzz'"),
        ((made.run["bitfit"].id, "truncation"), "vectors only"),
    ):
        code, out, err = ask(capsys, *arguments)
        assert (code, out) == (2, ""), arguments
        assert sentence in err
    code, out, _ = ask(capsys, "truncation", "--set", "help")
    assert code == 0
    assert "items = 100  (4 to 2000)" in out


def test_any_result_becomes_lines() -> None:
    shown = lines(
        {"a_b": 0.12341, "rows": [{"x": 1, "y": None, "z": [1]}], "list": [1, 2], "in": {"c": True}, "no": None}
    )
    assert shown == ["  a b: 0.1234", "  rows:", "    x  y", "    1  –", "  list: 1, 2", "  in:", "    c: yes"]


def test_a_run_whose_base_has_gone_is_said(made: Made, tmp_path: Path) -> None:
    base = checkpoints.write("llama_biased", tmp_path / "gone")
    run = made.train("lora", {"rank": 2}, base=str(base))
    for file in base.iterdir():
        file.unlink()
    with pytest.raises(DeltalabError):
        made.measure("spectrum", run)
