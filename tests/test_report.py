"""The page and the figures say what the store says."""

import json
import math
import struct
import zlib
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from fake_board import Fake, failed, record, tuned_recipe, write_store
from scipy import stats
from typer.testing import CliRunner

from optbench_llm.catalog import list_optimizers, optimizer_info
from optbench_llm.cli import app
from optbench_llm.leaderboard.columns import difference_text
from optbench_llm.leaderboard.table import Board
from optbench_llm.report.agreement import agreement
from optbench_llm.report.coupling import coupling, side_by_side
from optbench_llm.report.dataset import write_dataset
from optbench_llm.report.export import _smaller
from optbench_llm.report.forest import forest
from optbench_llm.report.gain_cost import gain_cost
from optbench_llm.report.loss_curves import POINTS, loss_curves
from optbench_llm.report.lr_panels import lr_panels
from optbench_llm.report.model_card import model_card
from optbench_llm.report.page import figures_of, make_page
from optbench_llm.report.page_table import page_table
from optbench_llm.report.published import published
from optbench_llm.report.push import write_folders
from optbench_llm.report.roadmap import roadmap, roadmap_page
from optbench_llm.report.scales import axis_limit
from optbench_llm.report.sources import read_sources
from optbench_llm.run_record import Curves

#: What each optimizer is worse than AdamW by.
EFFECTS = {
    "adamw": 0.0,
    "lion": 0.1,
    "adan": -0.1,
    "rmsprop": 0.0,
    "sgd": 1.3,
    "came": 0.0,
    "muon": 0.02,
}


def outcome(trial):
    """Parabolas around the declared lr; CAME diverges everywhere, Muon at high lrs."""
    off = math.log10(trial.lr / optimizer_info(trial.spec).lr)
    if trial.spec == "came" or (trial.spec == "muon" and off > 0.4):
        return failed(trial)
    noise = np.random.default_rng(int(trial.id, 16) % 2**32).standard_normal(2) * 0.004
    steps = trial.max_steps or 150
    loss = 3 + EFFECTS[trial.spec] + 0.3 * off**2 + noise[0] - 0.1 * math.log2(steps / 150)
    return record(
        trial,
        train_loss=loss + 0.2,
        eval_loss=loss - 0.1,
        test_loss=loss,
        first_loss=4.2,
        batches_hash=f"{trial.seed} {steps}",
        train_wall_s=10 + 5 * abs(EFFECTS[trial.spec]),
        state_bytes_per_param=4.0 if trial.spec == "lion" else 8.0,
        tokens=100 * steps,
        compile_s=0.0,
        extra_passes=0.0,
        curves=Curves(losses=[loss + 1 / (1 + step) + trial.seed for step in range(steps)]),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "tuned"
    write_store(Fake(tuned_recipe(*EFFECTS), outcome), path)
    return path


@pytest.fixture(scope="module")
def source(store):
    (found,) = read_sources([store])
    return found


def test_a_board_is_read_back_as_it_was_written(store, source):
    """All of it: recipe, rows with failures and the A/A row, statistics."""
    text = (store / "leaderboard-tuned.json").read_text()
    assert source.board.to_json() == text
    assert source.board.to_markdown() == Fake(tuned_recipe(*EFFECTS), outcome).board().to_markdown()


def test_a_third_party_row_is_read_without_its_library(tmp_path):
    """Its recipe was checked when it ran; whoever looks at it need not have what ran it."""
    board = Fake(tuned_recipe("adamw", "lion"), outcome).board()
    values = json.loads(board.to_json())
    for place in values["recipe"]["optimizers"], values["rows"]:
        place[1] = {**place[1], **dict.fromkeys(("spec", "optimizer"), "not_there:Optimizer")}
        place[1] = {k: v for k, v in place[1].items() if k in (*board.rows[0].to_dict(), "spec")}
    values["rows"][0]["a_column_of_a_later_version"] = 1
    del values["rows"][0]["claim_margin"]
    del values["took_part"]
    again = Board.from_json(json.dumps(values))
    assert again.rows[1].optimizer == "not_there:Optimizer"
    assert again.rows[0].verdict.claim_margin is None
    assert "not_there" in again.to_json()
    assert set(again.took_part) >= {"adamw", "lion"}
    assert again.notes()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda v: v["rows"][0].pop("status"), "status"),
        (lambda v: v["rows"][0].update(test_loss="low"), "test_loss"),
        (lambda v: v.pop("environment"), "environment"),
        (lambda v: v["rows"][0].update(seeds=[{"seed": 1}]), "seeds.0.test_loss"),
    ],
)
def test_a_damaged_table_names_its_file_and_what_is_wrong(tmp_path, store, break_it, message):
    values = json.loads((store / "leaderboard-tuned.json").read_text())
    break_it(values)
    (tmp_path / "leaderboard-tuned.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"leaderboard-tuned\.json: is no whole .*{message}"):
        read_sources([tmp_path])


def test_what_is_no_store_says_what_to_do(tmp_path):
    said = CliRunner().invoke(app, ["report", str(tmp_path / "nowhere")])
    assert (said.exit_code, "no such folder" in said.output) == (2, True)
    with pytest.raises(ValueError, match=r"holds no store"):
        read_sources([tmp_path])
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(ValueError, match=r"optbench-llm convert .* --into NEW"):
        read_sources([tmp_path])
    (tmp_path / "store.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no table of them yet; .*leaderboard RECIPE --store"):
        read_sources([tmp_path])


def test_every_track_of_a_store_is_a_board_and_the_tuned_one_comes_first(tmp_path):
    write_store(Fake(tuned_recipe("adamw", "lion", track="declared"), outcome), tmp_path)
    write_store(Fake(tuned_recipe("adamw", "lion"), outcome), tmp_path)
    sources = read_sources([tmp_path])
    assert [source.board.recipe.its_track for source in sources] == ["tuned", "declared"]
    page = make_page(sources)
    assert "tiny-tuned, declared" in page
    assert "what a person gets who tunes nothing" in page
    assert all(part in page for part in ("<dd>m</dd>", "<dd>d</dd>", "Some CPU", "torch 2.13"))


def test_the_forest_draws_claims_by_verdict_and_what_is_not_claimed(source):
    """Shape and colour are the board's verdicts, the band is each row's margin of claims."""
    figure = forest(source.board)
    assert figure is not None
    limit = axis_limit(source.board)
    drawn = {point["label"]: point for point in figure.data["rows"]}
    assert {label: point["kind"] for label, point in drawn.items()} == {
        "adamw": "baseline",
        "adamw A/A": "A/A check",
        "lion": "worse",
        "adan": "better",
        "rmsprop": "not told apart",
        "sgd": "worse",
        "muon": drawn["muon"]["kind"],
        "came": "not done",  # and so in its numbers alone
    }
    for row in source.board.rows:
        point, verdict = drawn[row.label], row.verdict
        if verdict.difference is None:
            continue
        assert verdict.claim_margin is not None
        assert verdict.claim_margin >= source.board.noise_between_seeds / 2
        assert point["band_high"] == -point["band_low"] == verdict.claim_margin
        assert verdict.differs is False or abs(verdict.difference) > verdict.claim_margin
        assert point["off"] == (abs(verdict.difference) > limit)
        assert abs(point["difference"]) <= limit
    assert drawn["sgd"]["off"]
    assert drawn["sgd"]["numbers"].startswith("+1.")
    assert drawn["came"]["numbers"] == "diverged 0/5"


def test_a_board_without_intervals_has_no_forest():
    """One seed: nothing can be told, so nothing is drawn as if it could."""
    board = Fake(tuned_recipe("adamw", "lion", track="declared", seeds=[1]), outcome).board()
    assert forest(board) is None
    assert lr_panels(board) is None
    keys = [column.key for column in page_table(board).columns]
    assert "rank" not in keys
    assert "rank_interval" not in keys


def test_panels_show_all_that_was_tried_and_what_failed(source):
    figure = lr_panels(source.board)
    assert figure is not None
    tried = [point for point in figure.data["tried"] if "loss" in point]
    assert len(tried) == sum(len(row.tuning.search) for row in source.board.rows)
    top = source.board.untouched.eval_loss
    assert {p["what"] for p in tried if p["label"] == "came"} == {"failed"}
    assert all(p["loss"] == top for p in tried if p["label"] == "came")
    by_label = {row.label: row for row in source.board.rows}
    for point in tried:
        losses = {run.lr: run.validation_loss for run in by_label[point["label"]].tuning.search}
        loss = losses[point["lr"]]
        expected = "failed" if loss is None else "worse than untouched" if loss > top else "tried"
        assert point["what"] == expected
    chosen = {p["label"]: p["lr"] for p in figure.data["tried"] if p["what"] == "chosen"}
    assert chosen == {row.label: row.lr for row in source.board.rows if row.lr is not None}


def test_the_front_holds_the_rows_that_none_beats_in_both(source):
    figure = gain_cost(source.board)
    assert figure is not None
    assert [plot.name for plot in figure.plots] == ["time", "state", "passes", "tries"]
    untouched = source.board.untouched.test_loss
    done = [row for row in source.board.rows if row.done and not row.a_a]
    assert {p["label"]: p["told"] for p in figure.data["time"]} == {
        row.label: f"{untouched - row.test_loss:.4f}" for row in done
    }
    points = {row.label: (row.costs.train_wall_s, row.test_loss) for row in done}
    beaten = {
        one
        for one, other in product(points, points)
        if points[other] != points[one]
        and all(b <= a for a, b in zip(points[one], points[other], strict=True))
    }
    assert {p["label"] for p in figure.data["time"] if p["front"]} == set(points) - beaten


def test_gains_stand_beside_what_the_baseline_gains_in_runs_of_other_lengths(source):
    figure = gain_cost(source.board)
    assert figure is not None
    (base,) = (row for row in source.board.rows if row.label == "adamw")
    gained = source.board.untouched.test_loss - base.test_loss
    gains = {length["told"]: length["gain"] for length in figure.data["lengths"]}
    # A tenth for each doubling, as the trials were made.
    assert gains["adamw, 75 steps"] == pytest.approx(gained - 0.1, abs=0.01)
    assert gains["adamw, 300 steps"] == pytest.approx(gained + 0.1, abs=0.01)
    assert len(gains) == 2


def test_loss_curves_are_means_over_seeds_and_stretches_of_steps(source):
    figure, faults = loss_curves(source)
    assert figure is not None
    assert not faults
    row = next(row for row in source.board.rows if row.label == "adan")
    curve = [point for point in figure.data["curves"] if point["label"] == "adan"]
    losses = np.mean([curves.losses for curves in source.curves(row).values()], axis=0)
    ends = [point["step"] for point in curve]
    assert len(curve) == POINTS
    assert ends[-1] == 150
    begins = [0, *ends[:-1]]
    expected = [losses[a:b].mean() for a, b in zip(begins, ends, strict=True)]
    assert np.allclose([point["loss"] for point in curve], expected, rtol=1e-5)
    assert curve[-1]["second"] == pytest.approx(row.costs.train_wall_s, rel=1e-5)
    assert curve[-1]["token"] == 15_000
    base = {p["step"]: p["loss"] for p in figure.data["curves"] if p["label"] == "adamw"}
    less = [point["loss"] - base[point["step"]] for point in curve]
    assert [point["less"] for point in curve] == pytest.approx(less, abs=1e-5)
    assert "came" not in {point["label"] for point in figure.data["curves"]}


def test_curves_are_compared_over_the_seeds_that_both_have(tmp_path):
    """Seeds differ by their batches: a row of three is not set against a baseline of five."""
    fake = Fake(tuned_recipe("adamw", "lion"), outcome)
    write_store(fake.forget(lambda t: t.spec == "adamw" or t.seed < 4), tmp_path)
    (source,) = read_sources([tmp_path])
    figure, _ = loss_curves(source)
    less = [point["less"] for point in figure.data["curves"] if point["label"] == "lion"]
    assert np.allclose(less, EFFECTS["lion"], atol=0.02)
    odd = replace(source, board=replace(source.board, other_data=("lion",)))
    figure, _ = loss_curves(odd)
    assert {p["less"] for p in figure.data["curves"] if p["label"] == "lion"} == {None}
    assert "same batches" not in figure.how_to_read


def test_a_damaged_curve_is_told_and_the_page_stays(tmp_path):
    """The rest of the page does not rest on it."""
    fake = Fake(tuned_recipe("adamw", "lion"), outcome)
    write_store(fake, tmp_path)
    (source,) = read_sources([tmp_path])
    row = next(row for row in source.board.rows if row.label == "lion")
    (folder,) = (tmp_path / "trials").glob(f"*-{row.seeds[0].trial}")
    (folder / "curves.json.gz").write_bytes(b"no")
    figures, faults = figures_of(source)
    assert [figure.id for figure in figures].count("loss-curves") == 1
    assert folder.name in faults[0]
    assert f"{folder.name}" in make_page([source])
    curves = next(figure for figure in figures if figure.id == "loss-curves")
    assert "lion" not in {point["label"] for point in curves.data["curves"]}


def test_agreement_is_scipys():
    """Spearman's and Kendall's coefficients, ties as well; intervals hold the estimate."""
    rng = np.random.default_rng(1)
    for ties in (1, 100):
        x = np.round(rng.standard_normal(23) * ties) / ties
        y = np.round((x + rng.standard_normal(23)) * ties) / ties
        found = agreement(list(x), list(y))
        assert found is not None
        assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)
        assert found.kendall == pytest.approx(stats.kendalltau(x, y).statistic)
        assert found.spearman_interval[0] < found.spearman < found.spearman_interval[1]
        assert found.kendall_interval[0] < found.kendall < found.kendall_interval[1]
    assert agreement([1, 2, 3], [1, 2, 3]) is None
    assert agreement([1, 1, 1, 1], [1, 2, 3, 4]) is None


def test_published_order_has_the_rows_that_both_have(source):
    figure = published(source.board)
    assert figure is not None
    labels = {point["label"] for point in figure.data["rows"]}
    assert labels == {
        row.label
        for row in source.board.rows
        if row.done and row.published_loss is not None and not row.a_a
    }
    places = sorted(point["place"] for point in figure.data["rows"])
    assert places == list(range(1, len(labels) + 1))


def test_coupling_is_the_difference_in_parts_of_the_baselines_gain(tmp_path, store):
    """Lion loses twice as much on the other board: it stands first, with its spread."""

    def other(trial):
        found = outcome(trial)
        worse = 0.3 if trial.spec == "lion" else 0.0
        return replace(found, test_loss=found.test_loss + worse, eval_loss=found.eval_loss + worse)

    write_store(Fake(tuned_recipe("adamw", "lion", "adan", "rmsprop", "sgd"), other), tmp_path)
    sources = read_sources([store, tmp_path])
    figure = coupling(sources)
    assert figure is not None
    standings = figure.data["standings"]
    assert {point["label"] for point in standings} == {"adamw", "lion", "adan", "rmsprop", "sgd"}
    assert standings[0]["label"] == "lion"
    board = sources[1].board
    losses = {row.label: row.test_loss for row in board.rows}
    gain = board.untouched.test_loss - losses["adamw"]
    expected = 100 * (losses["lion"] - losses["adamw"]) / gain
    (found,) = [
        p["standing"] for p in standings if p["label"] == "lion" and str(tmp_path) in p["board"]
    ]
    assert found == pytest.approx(expected)
    assert "Spearman" in figure.how_to_read
    assert coupling(sources[:1]) is None
    told = side_by_side(sources)
    lions = dict(told.rows)["lion"]
    assert lions == tuple(
        difference_text(row) for s in sources for row in s.board.rows if row.label == "lion"
    )
    assert dict(told.rows)["adamw"] == ("baseline", "baseline")
    assert "muon" not in dict(told.rows)
    assert figure.title in make_page(sources)


def test_optimizers_are_told_apart_over_boards_by_their_arguments(tmp_path):
    """One label on each board, two optimizers: no standing is made of them."""
    other = {"spec": "lion", "args": {"betas": [0.5, 0.5]}}
    for name, lion in (("one", "lion"), ("two", other)):
        write_store(Fake(tuned_recipe("adamw", lion, "adan"), outcome), tmp_path / name)
    sources = read_sources([tmp_path / "one", tmp_path / "two"])
    figure = coupling(sources)
    assert {point["label"] for point in figure.data["standings"]} == {"adamw", "adan"}
    assert set(dict(side_by_side(sources).rows)) == {"adamw", "adan", "adamw A/A"}
    assert "several boards" in figure.title
    with pytest.raises(ValueError, match="named twice"):
        read_sources([tmp_path / "one", tmp_path / "two" / ".." / "one"])


def test_rows_under_way_are_no_failures(tmp_path):
    fake = Fake(tuned_recipe(*EFFECTS), outcome).forget(
        lambda trial: trial.spec != "lion" or trial.seed == 0
    )
    write_store(fake, tmp_path)
    page = make_page(read_sources([tmp_path]))
    under_way, failed = page.split("<h3>Under way</h3>")[1].split("<h3>Failed</h3>")
    assert "lion" in under_way.split("</ul>")[0]
    assert "came" in failed.split("</ul>")[0]
    assert "8 of 8 search trials" in under_way


def test_losses_of_any_size_leave_the_page_readable(tmp_path):
    """1e30 and NaN in one row: the others' scale is theirs, and no NaN is in the page's data."""

    def wild(trial):
        found = outcome(trial)
        if trial.spec == "lion" and trial.seed:
            return replace(found, test_loss=1e30, eval_loss=1e30, train_loss=math.nan)
        return found

    write_store(Fake(tuned_recipe(*EFFECTS), wild), tmp_path)
    (source,) = read_sources([tmp_path])
    assert axis_limit(source.board) < 10
    page = make_page([source])
    assert "NaN" not in page.split('id="data">')[1].split("</script>")[0]


@pytest.mark.parametrize(
    ("specs", "changes", "figures"),
    [
        (["adamw"], {}, {"forest", "lr-panels", "gain-cost", "loss-curves"}),
        (["lion"], {}, {"lr-panels", "gain-cost", "loss-curves"}),
        (["adamw", "came"], {"track": "declared"}, {"gain-cost", "loss-curves"}),
        (["came"], {}, {"lr-panels"}),
        (
            ["adamw", "lion"],
            {"track": "reference", "lr": 1e-3, "seeds": [1]},
            {"gain-cost", "loss-curves", "published"},
        ),
    ],
    ids=["the baseline alone", "without it", "it and a failure", "a failure alone", "one seed"],
)
def test_a_board_of_few_rows_shows_what_there_is(tmp_path, specs, changes, figures):
    write_store(Fake(tuned_recipe(*specs, **changes), outcome), tmp_path)
    (source,) = read_sources([tmp_path])
    assert {figure.id for figure in figures_of(source)[0]} == figures
    page = make_page([source])
    assert all(f'data-label="{spec}"' in page for spec in specs)


def test_an_empty_board_is_a_page_that_says_so(tmp_path):
    fake = Fake(tuned_recipe("adamw", "lion"), outcome).forget(lambda trial: False)
    write_store(fake, tmp_path)
    assert "No trial has ended yet" in make_page(read_sources([tmp_path]))


def test_a_board_under_way_says_how_far_it_is(tmp_path):
    fake = Fake(tuned_recipe("adamw", "lion"), outcome).forget(lambda trial: trial.spec == "adamw")
    write_store(fake, tmp_path, replace(fake.board(), trials_left=13, trials_planned=49))
    page = make_page(read_sources([tmp_path]), live=True)
    assert "36 of 49 trials have ended" in page
    assert "optbenchLive = true" in page


def decoded(png):
    """Width, height and filtered pixels of an RGBA picture, its checksums verified."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, []
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert png[at + 8 + length : at + 12 + length] == struct.pack(
            ">I", zlib.crc32(kind + content)
        )
        chunks.append((kind, content))
        at += 12 + length
    assert chunks[-1][0] == b"IEND"
    width, height = struct.unpack_from(">II", dict(chunks)[b"IHDR"])
    return width, height, zlib.decompress(b"".join(c for kind, c in chunks if kind == b"IDAT"))


def test_a_picture_written_small_is_the_same_picture(source):
    import vl_convert

    spec = {"data": {"values": [{"a": 1}]}, "mark": "bar", "encoding": {"x": {"field": "a"}}}
    png = vl_convert.vegalite_to_png(spec)
    assert decoded(_smaller(png)) == decoded(png)
    assert len(_smaller(png)) < len(png)


def test_the_command_names_what_it_wrote_with_figures_as_png_and_svg(tmp_path, store, source):
    said = CliRunner().invoke(app, ["report", str(store), "--out", str(tmp_path), "--figures"])
    assert said.exit_code == 0, said.output
    named = [Path(line) for line in said.output.split()]
    assert named[-1] == tmp_path / "index.html"
    assert all(path.is_file() for path in named)
    assert {path.name for path in named} >= {"tuned-forest.png", "tuned-lr-panels.svg"}
    for path in named:
        if path.suffix == ".png":
            width, height, pixels = decoded(path.read_bytes())
            assert min(width, height) > 100
            assert len(pixels) == height * (1 + 4 * width)
    text = (tmp_path / "figures" / "tuned-forest.svg").read_text()
    assert all(f">{row.label}<" in text for row in source.board.rows)


def test_what_is_pushed_is_what_the_store_holds(tmp_path, store, source):
    """As `datasets` reads it: every row and trial, with losses."""
    from datasets import load_dataset

    pushed = write_folders(store, "someone/tiny", tmp_path)
    cache = str(tmp_path / "cache")
    rows = load_dataset(pushed.dataset, "rows", split="train", cache_dir=cache)
    assert [row["label"] for row in rows] == [row.label for row in source.board.rows]
    assert [row["test_loss"] for row in rows] == [row.test_loss for row in source.board.rows]
    trials = load_dataset(pushed.dataset, "trials", split="train", cache_dir=cache)
    by_id = {trial["id"]: trial for trial in trials}
    row = next(row for row in source.board.rows if row.label == "adan")
    for run, curves in zip(row.seeds, source.curves(row).values(), strict=True):
        assert by_id[run.trial]["test_loss"] == run.test_loss
        assert by_id[run.trial]["losses"] == list(curves.losses)
    card = Path(pushed.dataset, "README.md").read_text()
    assert 'load_dataset("someone/tiny", "rows"' in card
    assert "sdk: static" in Path(pushed.space, "README.md").read_text()
    assert Path(pushed.space, "index.html").is_file()


def test_who_cannot_push_a_model_is_told_before_it_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    said = CliRunner().invoke(
        app,
        [
            "finetune", "--model", "optbench:tiny-gpt2", "--push-to-hub", "--hub-model-id", "a/b",
            "--output-dir", str(tmp_path / "out"), "--optim", "lion",
        ],
    )  # fmt: skip
    assert said.exit_code == 2
    assert "--push-to-hub: nobody is logged in" in said.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "a b/c", "/c"])
def test_a_wrong_name_of_a_repository_is_refused_before_anything_is_written(tmp_path, store, name):
    out = tmp_path / "out"
    said = CliRunner().invoke(
        app, ["push", str(store), "--repo", name, "--dry-run", "--out", str(out)]
    )
    assert said.exit_code == 2
    assert f"--repo {name}" in said.output
    assert not out.exists()


def test_nobody_logged_in_is_told_where_the_files_are(tmp_path, store, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    out = tmp_path / "out"
    said = CliRunner().invoke(app, ["push", str(store), "--repo", "a/b", "--out", str(out)])
    assert said.exit_code == 2
    assert "hf auth login" in said.output
    assert str(out) in said.output.replace("\n", "")
    assert (out / "dataset" / "rows.parquet").is_file()


def test_a_store_with_a_damaged_trial_is_not_pushed(tmp_path):
    write_store(Fake(tuned_recipe("adamw", "lion"), outcome), tmp_path)
    sources = read_sources([tmp_path])
    folder = next((tmp_path / "trials").iterdir())
    (folder / "result.json").write_text("{}")
    with pytest.raises(ValueError, match=folder.name):
        write_dataset(tmp_path / "out", sources, "a/b")


def test_the_roadmap_has_every_row_in_its_year_and_kind():
    rows = [optimizer_info(name) for name in list_optimizers()]
    figure = roadmap(rows)
    drawn = {p["name"]: (p["year"], p["category"], p["url"]) for p in figure.data["rows"]}
    assert drawn == {row.name: (row.year, row.category, row.url) for row in rows}
    cells = [(point["category"], point["line"]) for point in figure.data["rows"]]
    assert len(set(cells)) == len(cells)
    starts = {year["year"]: year["line"] for year in figure.data["years"]}
    assert all(point["line"] >= starts[str(point["year"])] for point in figure.data["rows"])
    page = roadmap_page(rows)
    assert all(row.url is None or f'href="{row.url}"' in page for row in rows)


def test_list_writes_the_roadmap_of_what_is_selected(tmp_path):
    file = tmp_path / "sub" / "list.html"
    said = CliRunner().invoke(app, ["list", "--since", "2024", "--html", str(file)])
    assert said.exit_code == 0, said.output
    text = file.read_text()
    assert "muon" in text
    assert "adagrad" not in text


def test_a_models_card_tells_its_losses_where_the_hub_looks_for_them():
    """Read back with the hub's own reader."""
    from huggingface_hub import ModelCard

    result = {
        "optimizer": "lion", "lr": 1e-4, "steps": 10, "seed": 42, "train_loss": 2.5,
        "eval_loss": 2.25, "test_loss": None, "hyperparameters": [{"betas": [0.9, 0.99]}],
        "settings": {
            "model": "openai-community/gpt2", "data": {"source": "tatsu-lab/alpaca"}, "lora": None,
            "global_train_batch_size": 8, "lr_scheduler_type": "cosine",
        },
    }  # fmt: skip
    card = ModelCard(model_card(result, "my-model"))
    assert card.data.base_model == "openai-community/gpt2"
    losses = {found.metric_name: found.metric_value for found in card.data.eval_results}
    assert losses == {"Validation loss": 2.25, "Train loss": 2.5}
    assert {found.dataset_type for found in card.data.eval_results} == {"tatsu-lab/alpaca"}
    assert "| learning rate | 0.0001 |" in card.text
    assert "betas [0.9, 0.99]" in card.text
