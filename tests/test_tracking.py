"""Trials that report to trackers: each a run of its own, and the same losses."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from leaderboard_setup import leaderboard, losses, write_recipe
from typer.testing import CliRunner

from optbench_llm.cli import app
from optbench_llm.leaderboard import tracking
from optbench_llm.leaderboard.tracking import check_trackers, tracked, tracking_setup

TRIAL = {"spec": "lion@int8", "lr": 1e-4, "seed": 42}


def test_trackers_are_off_by_default():
    assert tracking_setup([], "mini", Path("store")) is None
    with tracked(None, TRIAL) as arguments:
        assert arguments == {"report_to": "none"}


def test_each_trial_is_a_run_named_and_foldered(monkeypatch, tmp_path):
    """And the environment is afterwards as it was."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "mine")
    before = dict(os.environ)
    setup = tracking_setup(["tensorboard", "trackio"], "mini", tmp_path)
    with tracked(setup, TRIAL) as arguments:
        assert arguments["report_to"] == ["tensorboard", "trackio"]
        assert arguments["run_name"].startswith("lion@int8 0.0001 42 ")
        assert arguments["project"] == "mini"
        folder = Path(os.environ["TENSORBOARD_LOGGING_DIR"])
    assert folder.parent == tmp_path / "tensorboard" / "lion@int8"
    assert folder.name.startswith("0.0001-42-")
    assert dict(os.environ) == before
    with tracked(setup, TRIAL) as again:
        # Another length of the same row, and a second try, are runs of their own.
        assert again["run_name"] != arguments["run_name"]


def test_wandb_has_a_run_of_each_trial_in_the_group_of_its_optimizer(monkeypatch, tmp_path):
    """The real one, without its server; trials of one process are told apart."""
    import wandb

    for name, value in (("MODE", "offline"), ("DIR", str(tmp_path)), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    setup = tracking_setup(["wandb"], "mini", tmp_path)
    for spec in ("lion@int8", "adamw"):
        with tracked(setup, {**TRIAL, "spec": spec}) as arguments:
            assert arguments["report_to"] == ["wandb"]
            run = wandb.run
            assert (run.group, run.name, run.project) == (spec, arguments["run_name"], "mini")
        assert wandb.run is None
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    with tracked(setup, TRIAL):
        assert wandb.run.project == "ours"
    # Of several processes of a trial, the first alone reports.
    monkeypatch.setenv("RANK", "1")
    with tracked(setup, TRIAL) as arguments:
        assert (wandb.run, arguments["report_to"]) == (None, ["wandb"])
    wandb.teardown()
    assert len([*tmp_path.glob("wandb/offline-run-*")]) == 3


def test_a_tracker_that_is_not_there_is_refused(monkeypatch, tmp_path):
    """Before anything starts, by the command."""
    with pytest.raises(ValueError, match="mlflow: expected some of trackio, tensorboard, wandb"):
        check_trackers(["mlflow"])
    asked = CliRunner().invoke(app, ["leaderboard", "--dry-run", "--report-to", "trackio,nope"])
    assert (asked.exit_code, "--report-to nope: expected" in asked.output) == (2, True)
    monkeypatch.setattr("optbench_llm.leaderboard.tracking.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="wandb: is not installed; pip install wandb"):
        check_trackers(["wandb"])
    monkeypatch.setattr("optbench_llm.leaderboard.tracking.find_spec", lambda name: name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    with pytest.raises(ValueError, match="nobody is logged in"):
        check_trackers(["wandb"])
    (tmp_path / ".netrc").write_text("machine wandb.example.org login user password key\n")
    (tmp_path / ".netrc").chmod(0o600)
    with pytest.raises(ValueError, match="nobody is logged in"):
        check_trackers(["wandb"])
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    check_trackers(["wandb"])
    monkeypatch.delenv("WANDB_BASE_URL")
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(["wandb"])


def test_runs_stay_here_where_wandb_does_not_answer(monkeypatch, tmp_path, capsys):
    """The real one, after one try that fails; nobody listens at the address of its server."""
    import wandb

    monkeypatch.setattr(tracking, "_IS_WANDB_SILENT", Event())
    for name, value in (
        ("API_KEY", "a" * 40), ("BASE_URL", "http://127.0.0.1:9"), ("INIT_TIMEOUT", "2"),
        ("DIR", str(tmp_path)), ("SILENT", "true"),
    ):  # fmt: skip
        monkeypatch.setenv(f"WANDB_{name}", value)
    setup = tracking_setup(["wandb"], "mini", tmp_path)
    for trial in range(2):
        with tracked(setup, TRIAL) as arguments:
            assert arguments["report_to"] == ["wandb"]
            assert (wandb.run.offline, wandb.run.group) == (True, "lion@int8")
        assert ("wandb sync" in capsys.readouterr().out) == (trial == 0)
    wandb.teardown()
    assert len([*tmp_path.glob("wandb/offline-run-*/*.wandb")]) == 2


def test_a_tracker_that_fails_takes_no_result(monkeypatch, tmp_path, capsys):
    """Nor one that cannot begin; what is no fault of the tracker's still comes through."""

    class Error(Exception):
        pass

    def module(at: str, error: Exception) -> SimpleNamespace:
        def fail(**_: Any) -> None:
            raise error

        calls = {"init": lambda **_: None, "finish": lambda: None, at: fail}
        return SimpleNamespace(Error=Error, **calls)

    monkeypatch.setattr(tracking, "_IS_WANDB_SILENT", Event())
    setup = tracking_setup(["wandb"], "mini", tmp_path)
    for at, left in (("init", "none"), ("finish", ["wandb"])):
        monkeypatch.setitem(sys.modules, "wandb", module(at, Error("no network")))
        with tracked(setup, TRIAL) as arguments:
            assert arguments["report_to"] == left
        assert "no network" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb", module("finish", TypeError("ours")))
    with pytest.raises(TypeError, match="ours"), tracked(setup, TRIAL):
        pass


# Starts two leaderboards.
@pytest.mark.slow
def test_runs_arrive_and_losses_stay_what_they_are(tmp_path, monkeypatch):
    """In the real TensorBoard, trackio and wandb; two trials of one worker are two runs."""
    monkeypatch.setitem(os.environ, "TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setitem(os.environ, "WANDB_DIR", str(tmp_path))
    monkeypatch.setitem(os.environ, "WANDB_MODE", "offline")
    monkeypatch.setattr("leaderboard_setup.ENVIRONMENT", {**os.environ, "OMP_NUM_THREADS": "1"})
    recipe = write_recipe(tmp_path, "adamw", "lion", max_steps=20)
    plain, tracked_too = tmp_path / "plain", tmp_path / "tracking"
    assert leaderboard(recipe, "--store", plain).returncode == 0
    ran = leaderboard(recipe, "--store", tracked_too, "--report-to", "tensorboard,trackio,wandb")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for spec in ("adamw", "lion"):
        assert losses(plain, spec) == losses(tracked_too, spec)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = sorted((tracked_too / "tensorboard").glob("*/*"))
    assert [run.parent.name for run in runs] == ["adamw", "lion"]
    for run in runs:
        read = EventAccumulator(str(run))
        read.Reload()
        steps = [event.step for event in read.Scalars("train/loss")]
        assert steps == [10, 20]
        assert all(0 < event.value < 10 for event in read.Scalars("train/loss"))

    (database,) = (tmp_path / "trackio").glob("*mini*.db")
    with sqlite3.connect(database) as rows:
        logged = rows.execute("select run_name, metrics from metrics").fetchall()
    seen = {name for name, metrics in logged if "train/loss" in json.loads(metrics)}
    assert {name.rpartition(" ")[0] for name in seen} == {"adamw 0.001 42", "lion 0.0001 42"}
    assert len(seen) == 2
    assert len([*tmp_path.glob("wandb/offline-run-*/*.wandb")]) == 2
