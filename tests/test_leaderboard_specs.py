"""What ``--optim`` of the leaderboard stands for."""

from __future__ import annotations

import pytest

import optbench_llm as ob
from optbench_llm.leaderboard.command import changed
from optbench_llm.leaderboard.recipe import load_recipe


def chosen(*specs: str) -> list[str]:
    """The specs that the default recipe would run."""
    return [entry.spec for entry in changed(load_recipe("tiny-gpt2"), {}, specs).optimizers]


def test_all_is_the_whole_catalog_the_recipes_own_rows_first():
    """Each once, without the variants, which must be named."""
    recipe = [entry.spec for entry in load_recipe("tiny-gpt2").optimizers]
    everything = {n for n in ob.list_optimizers() if ob.optimizer_info(n).variant_of is None}
    names = chosen("all")
    assert names[: len(recipe)] == recipe
    assert len(names) == len(everything)
    assert set(names) == everything
    assert chosen("adamw", "all", "sophia-lmflow")[-1] == "sophia-lmflow"
    assert chosen("adamw", "all")[0] == "adamw"


def test_a_wildcard_stands_for_the_rows_that_match():
    """And for nothing twice."""
    assert chosen("lion*", "lion") == ["lion", "lion-8bit"]
    assert set(chosen("*schedulefree")) >= {"adamw-schedulefree", "sgd-schedulefree"}


def test_a_wildcard_without_a_match_is_an_error():
    """Nothing would run."""
    with pytest.raises(ValueError, match=r"no optimizer matches 'zzz\*'"):
        chosen("zzz*")


def test_a_wildcard_with_a_storage_is_told_from_one_without_a_match():
    """What is wrong is the storage, not the name."""
    with pytest.raises(ValueError, match="takes no storage"):
        chosen("adam*@int8")
