"""The version of a spec: what it must change with, and what it must not cost."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from optbench_llm.catalog import parse_spec
from optbench_llm.leaderboard.optimizer_settings import rule_version


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("adamw", "adamw 1"),
        ("AdamW@int8", "adamw 1"),
        ("sam+lookahead+adan", "sam 1+lookahead 1+adan 1"),
        ("soap", "soap 1+adamw 1"),
        ("lion-8bit", f"bitsandbytes {version('bitsandbytes')}"),
        ("hf:adamw_torch", f"transformers {version('transformers')}"),
        ("torch:AdamW", f"torch {version('torch')}"),
        ("no_such_package.optim:Lion", "no_such_package unknown"),
    ],
)
def test_a_version_names_each_part_that_makes_the_numbers(spec, expected):
    """Rule, wrappers and companion of ours; else the package."""
    assert rule_version(spec) == expected


@pytest.mark.parametrize("spec", ["adamw", "lookahead+adamw", "soap", "lookahead+soap"])
def test_the_number_of_a_rule_reaches_all_that_it_steps_in(spec, monkeypatch):
    """Raised once, its own rows, wrapped ones and those whose companion it is are others."""
    before = rule_version(spec)
    monkeypatch.setattr(parse_spec("adamw").rule_class(), "version", 7)
    after = rule_version(spec)
    assert after != before
    assert after == before.replace("adamw 1", "adamw 7")


def test_a_wrappers_number_is_its_own(monkeypatch):
    """Raised, it changes the rows that it wraps; the base keeps its own."""
    monkeypatch.setattr(parse_spec("lookahead+lion").rule_class(), "version", 3, raising=False)
    assert rule_version("lookahead+lion") == "lookahead 3+lion 1"
    assert rule_version("lion") == "lion 1"


def test_versions_cost_no_torch():
    """A plan is made of many."""
    code = (
        "import sys; from optbench_llm.leaderboard.optimizer_settings import rule_version as v;"
        "v('lookahead+muon'), v('bnb:Lion8bit'), v('torch:AdamW');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
