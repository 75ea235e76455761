"""The audit: other people's implementations agree with ours, and what it says of them is right."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch
from command_line import run_here

import optbench_llm as ob
from optbench_llm.audit import audit, comparison_for
from optbench_llm.audit.deviation import deviations
from optbench_llm.audit.implementations import Absent, Implementation, ours, theirs
from optbench_llm.audit.page import auditable
from optbench_llm.audit.timing import block_shapes
from optbench_llm.catalog.counterparts import COMPARISONS, PACKAGES, Counterpart
from optbench_llm.create import validate_hyperparameters

STEPS = 12
TOLERANCE = 1e-5
OTHERS = [(name, other) for name, comparison in COMPARISONS.items() for other in comparison.others]
#: Bases of singular matrices: any of several is right, and which one comes out is up to rounding.
ILL_CONDITIONED = {"soap"}
#: torch's Rprop has no weight decay, and averaging replaces the momentum of what it wraps.
MUST_STAY = {("rprop", "weight_decay"), ("schedulefree+sgd", "momentum")}


def implementation(name: str, other: Counterpart) -> Implementation:
    """The counterpart's; skips where its package is not installed."""
    found = next(one for one in theirs(name) if one.label == other.label)
    if isinstance(found, Absent):
        pytest.skip(found.reason)
    return found


def largest_deviation(name: str, one: Implementation, dtype: torch.dtype = torch.float32) -> float:
    return max(deviations(name, one, STEPS, dtype))


@pytest.mark.filterwarnings("ignore:.*looks at output channels")
@pytest.mark.parametrize(
    ("name", "other"),
    [pytest.param(name, other, id=f"{name}-{other.label}") for name, other in OTHERS],
)
def test_other_peoples_code_takes_our_steps_or_what_it_does_instead_is_said(name, other):
    """A library as second opinion: within rounding of our rule in float64, else known to differ."""
    one = implementation(name, other)
    dtype = torch.float64 if name in ILL_CONDITIONED else torch.float32
    found = largest_deviation(name, one, dtype)
    if other.agrees:
        assert found < TOLERANCE
    else:
        assert found > 100 * TOLERANCE
        assert other.known


@pytest.mark.parametrize("name", COMPARISONS)
def test_settings_of_a_comparison_are_ours_and_off_the_defaults(name):
    """All are hyperparameters of the rule; a numeric one at its default would prove nothing."""
    info = ob.optimizer_info(name)
    comparison = comparison_for(name)
    for other in (None, *comparison.others):
        settings = {**comparison.settings, **(other.at if other else {})}
        assert validate_hyperparameters(name, settings).items() >= settings.items()
    own = {key for key in info.defaults if not key.startswith("companion_")}
    assert set(comparison.settings) == own
    for key in own & {"betas", "momentum", "weight_decay"}:
        changed = comparison.settings[key] != info.defaults[key]
        assert changed or (name, key) in MUST_STAY, key


def test_every_package_of_the_extra_is_compared():
    """The versions that an audit states belong to packages that the catalog's counterparts use."""
    roots = {other.spec.partition(":")[0].partition(".")[0] for _, other in OTHERS}
    assert {{"bitsandbytes": "bnb"}.get(package, package) for package in PACKAGES} == roots


def test_a_deviation_is_seen_at_the_step_where_it_begins(monkeypatch):
    """Another eps moves every step; a learning rate that is deaf to the schedule, the late ones."""
    (eager, _) = ours("adamw")
    changed = dataclasses.replace(eager, settings={**eager.settings, "eps": 2e-2})
    assert next(deviations("adamw", changed, 3)) > 1e-3
    deaf = next(iter(theirs("lars")))
    assert isinstance(deaf, Implementation)
    by_step = list(deviations("lars", dataclasses.replace(deaf, constant_lr=False), 8))
    assert max(by_step[:4]) < TOLERANCE < min(by_step[4:])


def test_an_audit_lists_every_implementation_with_its_figures():
    """Deviation, time and state of each; ours by both engines, the reason where one cannot run."""
    result = audit("sophia", steps=3, elements=800)
    eager, compiled, unfit = result.findings
    assert (eager.label, compiled.label) == ("ours, eager", "ours, compiled")
    for finding in (eager, compiled):
        assert finding.deviation is not None
        assert finding.deviation < TOLERANCE
        assert finding.at_step in (1, 2, 3)
        assert finding.step_ms is not None
        assert finding.step_ms > 0
        assert finding.state_bytes == 8 * result.elements
    assert min(eager.ratio or 0, compiled.ratio or 0) == 1
    assert unfit.reason is not None
    assert "Hutchinson" in unfit.reason


def test_what_is_not_installed_is_listed_with_the_extra(monkeypatch):
    """An audit tells what it could not compare and how to get it."""
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    missing = [one for one in theirs("adan") if isinstance(one, Absent)]
    assert [one.label for one in missing] == ["pytorch_optimizer:Adan"]
    assert "pip install 'optbench-llm[providers]'" in missing[0].reason


@pytest.mark.parametrize("elements", [768, 100_000, 7_087_872])
def test_timed_shapes_are_a_block_of_about_so_many_elements(elements):
    """Within a third for the smallest, exact for GPT-2's own."""
    shapes = block_shapes(elements, matrices=False)
    count = sum(torch.Size(shape).numel() for shape in shapes)
    assert count == pytest.approx(elements, rel=0.35)
    if elements == 7_087_872:
        assert count == elements
        assert (2304, 768) in shapes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"spec": "adamz"}, r"unknown optimizer 'adamz'\. Nearest: adam"),
        ({"spec": "torch:AdamW"}, "'torch:AdamW' is none; take a name"),
        ({"spec": "lion-8bit"}, "'lion-8bit' is none"),
        ({"spec": "adamw", "steps": 0}, "steps=0 is out of range, expected 1 or more"),
        ({"spec": "adamw", "elements": 10}, "elements=10 is out of range, expected 768 or more"),
    ],
)
def test_what_cannot_be_audited_is_refused(arguments, words):
    """With the thing and what was expected."""
    with pytest.raises(ValueError, match=words):
        audit(**arguments)


def test_the_command_prints_json(capsys):
    """Versions stand beside, and what prodigyopt prints when it is made does not get between."""
    from optbench_llm.audit.page import run_audits

    run_audits(["sgd", "prodigy"], steps=2, elements=800, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] == torch.__version__
    assert [one["spec"] for one in found["audits"]] == ["sgd", "prodigy"]
    labels = [finding["label"] for finding in found["audits"][0]["findings"]]
    assert {"ours, eager", "torch:SGD", "torch:SGD fused"} <= set(labels)


@pytest.mark.slow
def test_the_table_marks_known_differences(capsys):
    """A deviation that is no rounding has a star and its reason below."""
    from optbench_llm.audit.page import run_audits

    run_audits(["lamb"], steps=2, elements=800, as_json=False)
    text = capsys.readouterr().out
    (row,) = [line for line in text.splitlines() if line.startswith("bnb:LAMB32bit")]
    assert " * " in row
    assert "bnb:LAMB32bit: theirs has no trust ratio" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument"),
        (["adamw,nosuch"], "unknown optimizer 'nosuch'"),
        (["adamw,"], "NAME adamw,: item 2 is empty"),
        (["zzz*"], "no optimizer matches 'zzz*'"),
        (["adamw,lion-8bit"], "'lion-8bit' is none"),
    ],
)
def test_wrong_names_end_the_command_before_anything_runs(arguments, words):
    """One line, exit code 2."""
    process = run_here("audit", *arguments)
    assert process.returncode == 2
    assert words in process.stderr
    assert "Traceback" not in process.stderr
    assert not process.stdout


def test_all_and_wildcards_mean_rules_of_ours():
    """Providers' rows are left out where nobody named them."""
    assert {"adamw", "muon", "prodigy"} <= set(auditable("all"))
    assert auditable("lion*") == ["lion"]
    assert auditable("lion-8bit") == ["lion-8bit"]


def test_what_a_storage_costs_shows():
    """Our rule in 16 bits is compared with itself in full precision, and so are the others."""
    for one in ours("lion@bf16"):
        assert largest_deviation("lion@bf16", one) > 1e-3
    labels = [one.label for one in theirs("lion@bf16")]
    assert "bnb:Lion32bit" in labels
