"""Names, specs and what the catalog knows: every published spelling resolves, errors help."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.training_args import OptimizerNames

import optbench_llm as ob
from optbench_llm.catalog import parse_spec, published_optimizers
from optbench_llm.catalog.info import ADAPTIVE, ADAPTIVE_PLAIN, ESTIMATED, MOMENTUM
from optbench_llm.catalog.transformers_names import TRANSFORMERS_NAMES

PUBLISHED = {
    "RMSprop": 2.4016,
    "LION-32bit": 2.4041,
    "Adam": 2.4292,
    "AdamP": 2.4295,
    "AdamW": 2.4469,
    "AdaFactor": 2.4543,
    "AdaBound": 2.4547,
    "AdamWScheduleFree": 2.4677,
    "Adan": 2.5063,
    "NAdam": 2.5569,
    "AdaBelief": 2.5857,
    "AdaMax": 2.5924,
    "RAdam": 2.6104,
    "AdaDelta": 2.6298,
    "AdaGrad": 2.8657,
    "Yogi": 2.9314,
    "NovoGrad": 3.1071,
    "Sophia": 3.1517,
    "LAMB": 3.2350,
    "LARS": 3.3329,
    "SGDScheduleFree": 3.3541,
    "SGDP": 3.3567,
    "SGD": 3.3734,
}


def test_all_published_rows_are_there_with_their_figures_in_their_order():
    """Name for name and digit for digit."""
    rows = [ob.optimizer_info(name) for name in published_optimizers()]
    assert {row.published_name: row.published_loss for row in rows} == PUBLISHED
    assert [row.published_name for row in rows] == list(PUBLISHED)


@pytest.mark.parametrize("spelling", PUBLISHED)
def test_spellings_of_the_published_table_resolve(spelling):
    """With hyphens, underscores or neither, in any case."""
    name = parse_spec(spelling).name
    assert ob.optimizer_info(name).published_name == spelling
    for variant in (spelling.lower(), spelling.upper(), spelling.replace("-", "_")):
        if variant not in {member.value for member in OptimizerNames} - {name}:
            assert parse_spec(variant).canonical == name


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("adamw", "adamw"),
        ("  AdamW ", "adamw"),
        ("ADAM_W", "adamw"),
        ("LION-32bit", "lion"),
        ("lion-8bit", "lion-8bit"),
        ("Lion-8bit", "lion-8bit"),
        ("lion_8bit", "hf:lion_8bit"),
        ("adamw_torch_fused", "hf:adamw_torch_fused"),
        ("schedule_free_adamw", "hf:schedule_free_adamw"),
        ("hf:adafactor", "hf:adafactor"),
        ("adafactor", "adafactor"),
        ("AdamWScheduleFree", "adamw-schedulefree"),
        ("adamw_schedule_free", "adamw-schedulefree"),
        ("schedulefree", "adamw-schedulefree"),
        ("sgd_schedulefree", "sgd-schedulefree"),
        ("SophiaG", "sophia"),
        ("Lion@INT8", "lion@int8"),
        ("adan@bf16", "adan@bf16"),
        ("adan@fp32", "adan"),
        ("torch:AdamW", "torch:AdamW"),
        ("bnb:Lion8bit", "bnb:Lion8bit"),
        ("my.module:MyOptimizer", "my.module:MyOptimizer"),
        ("lookahead+adan", "lookahead+adan"),
        ("LookAhead + AdamW@BF16", "lookahead+adamw@bf16"),
        ("schedule_free+SGD", "schedulefree+sgd"),
        ("Schedule-Free+rmsprop", "schedulefree+rmsprop"),
        ("lookahead+LION-32bit", "lookahead+lion"),
        ("lookahead+adafactor", "lookahead+adafactor"),
        ("sam+lookahead+adamw", "sam+lookahead+adamw"),
        ("SVRG+sgd", "svrg+sgd"),
    ],
)
def test_specs_resolve_to_one_canonical_spelling(text, canonical):
    """What rows, trials and checkpoints are named by; it parses to itself."""
    assert parse_spec(text).canonical == canonical
    assert parse_spec(canonical).canonical == canonical


@pytest.mark.parametrize("name", [member.value for member in OptimizerNames])
def test_every_name_of_transformers_resolves(name):
    """To transformers' own optimizer, or to our row where the catalog bears the same name."""
    spec = parse_spec(name)
    assert spec.canonical == f"hf:{name}" or spec.name == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("adamz", ["'adamz'", "adam", "optbench-llm list"]),
        ("sofia", ["'sofia'", "sophia"]),
        ("lionn@int8", ["'lionn@int8'", "lion"]),
        ("zzzz", ["'zzzz'", "optbench-llm list"]),
        ("adamw@int4", ["'int4'", "fp32, bf16, int8"]),
        ("adamw@", ["expected fp32, bf16, int8"]),
        ("lion-8bit@int8", ["bnb:Lion8bit", "leave the @ out"]),
        ("", ["empty", "adamw"]),
        ("torch:", ["PROVIDER:NAME"]),
        (":AdamW", ["PROVIDER:NAME"]),
        ("swa+adamw", ["'swa'", "lookahead, schedulefree, sam, svrg"]),
        ("+adamw", ["no wrapper ''"]),
        ("lookahead+", ["'lookahead+'", "optbench-llm list"]),
        ("lookahead+addam", ["'lookahead+addam'", "adam"]),
        ("lookahead+torch:AdamW", ["torch:AdamW is a provider's", "lookahead+adamw"]),
        ("lookahead+lion-8bit", ["lion-8bit is a provider's"]),
        ("lookahead+adamw_torch", ["adamw_torch is a provider's"]),
        ("lookahead+lookahead+sgd", ["lookahead stands there twice"]),
        ("lookahead+lookahead", ["lookahead stands there twice"]),
        ("lookahead+ranger", ["Ranger, which looks ahead already"]),
        ("lookahead+sgd-schedulefree", ["SGDScheduleFree", "evaluated at an average"]),
        ("lookahead+schedulefree+sgd", ["ScheduleFreeSGD", "evaluated at an average"]),
        ("schedulefree+lookahead+sgd", ["LookaheadSGD", "the averaging is the momentum"]),
        ("schedulefree+lion", ["Lion", "the averaging is the momentum", "SGD, RMSprop"]),
        ("sam+sam", ["sam stands there twice"]),
        ("sam+svrg+sgd", ["SvrgSGD, whose gradients are not the batch's already"]),
    ],
)
def test_a_wrong_spec_says_what_is_nearest(text, words):
    """The error names the text, what was expected and the next step."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_spec(text)
    assert all(word in str(caught.value) for word in words)


def test_a_wrapped_row_is_its_bases_with_what_the_wrapper_changes():
    """Hyperparameters of both, the wrapper's schedule, nothing that was published of the base."""
    base, info = ob.optimizer_info("adamw"), ob.optimizer_info("lookahead+adamw")
    assert info.defaults == {**base.defaults, "lookahead_k": 5, "lookahead_alpha": 0.5}
    assert (info.category, info.scope, info.lr) == (base.category, base.scope, base.lr)
    assert "Lookahead" in info.title
    assert "AdamW" in info.title
    assert info.published_loss is None
    assert info.category_is_ours
    assert info.schedule == "any"
    assert ob.optimizer_info("schedulefree+adamw").schedule == "constant"
    assert ob.optimizer_info("schedulefree+adamw").defaults["betas"] == (0.0, 0.999)
    assert parse_spec("lookahead+adamw@bf16").rule_class() is info.rule_class()
    with pytest.raises(ValueError, match="'torch:AdamW' is a provider's"):
        parse_spec("torch:AdamW").rule_class()


def test_wrappers_of_gradients_stand_outside():
    """What comes to the same has one spelling, and one rule."""
    assert parse_spec("lookahead+sam+adamw").canonical == "sam+lookahead+adamw"
    assert parse_spec("schedulefree+svrg+sgd").canonical == "svrg+schedulefree+sgd"
    info = ob.optimizer_info("lookahead+sam+adamw")
    assert info.program == "sam"
    assert {"rho", "adaptive", "lookahead_k"} <= info.defaults.keys()


def test_a_wrapper_leaves_a_base_its_own_hyperparameter():
    """Sophia and AdaDelta have a rho; SAM's then bears its name."""
    info = ob.optimizer_info("sam+sophia")
    assert (info.defaults["rho"], info.defaults["sam_rho"]) == (0.04, 0.05)
    assert info.program == "sophia-g+sam"
    assert "sam_rho" in ob.optimizer_info("sam+adadelta").defaults
    assert "sam_rho" not in ob.optimizer_info("sam+adamw").defaults


def test_listing_filters_by_wildcard_category_scope_and_program():
    """Sorted; a filter value that no row has is an error, not an empty list."""
    everything = ob.list_optimizers()
    assert everything == sorted(everything)
    assert set(published_optimizers()) < set(everything)
    assert len(everything) == 63
    assert ob.list_optimizers("ada*") == [n for n in everything if n.startswith("ada")]
    assert ob.list_optimizers("ADAM?") == ["adamp", "adamw"]
    assert ob.list_optimizers(program="sophia-g") == ["sophia"]
    assert ob.list_optimizers(scope="model") == ["prodigy", "swats"]
    assert ob.list_optimizers(scope="matrix") == [
        "adafactor",
        "adam-mini",
        "came",
        "muon",
        "psgd-kron",
        "scion",
        "shampoo",
        "soap",
    ]
    assert "sgdp" in ob.list_optimizers(scope="tensor")
    assert ob.list_optimizers("nothing*") == []
    for wrong in ({"category": "fast"}, {"scope": "tensors"}, {"program": "newton"}):
        ((label, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{label} '{value}', expected one of"):
            ob.list_optimizers(**wrong)


FIGURE = {
    MOMENTUM: {"sgd", "sgdp", "lion"},
    ADAPTIVE: {"adam", "adamax", "adamp", "adamw", "lamb", "nadam", "radam", "adan"},
    ESTIMATED: {"adabelief", "adabound", "adafactor", "lars", "novograd", "sophia"},
    ADAPTIVE_PLAIN: {"adagrad", "adadelta", "rmsprop"},
}


@pytest.mark.parametrize("category", FIGURE)
def test_categories_are_the_sources_and_ours_are_marked(category):
    """What the source's figure classifies stands as there; the rest says that it is ours."""
    rows = [ob.optimizer_info(name) for name in ob.list_optimizers(category=category)]
    assert {row.name for row in rows if not row.category_is_ours} == FIGURE[category]


@pytest.mark.parametrize("name", ob.list_optimizers())
def test_every_row_tells_what_it_is(name):
    """Title, paper, year, lr, and for our rules equations and slots."""
    info = ob.optimizer_info(name)
    assert info.title
    assert info.paper
    assert 1990 < info.year < 2030
    assert info.lr > 0
    assert info.equations
    assert (info.rule is None) != (info.provider is None)
    if info.rule:
        assert ".. math::" in info.equations
        assert all(slot.name for slot in info.slots)


def test_a_providers_optimizer_has_no_row():
    """Asking for it says where it comes from."""
    with pytest.raises(ValueError, match="'torch:AdamW' comes from the provider 'torch'"):
        ob.optimizer_info("torch:AdamW")


def test_the_catalog_needs_no_torch():
    """Listing, describing and parsing catalog names import neither torch nor transformers."""
    code = """
import json, sys
import optbench_llm as ob
import optbench_llm.catalog
names = ob.list_optimizers("*")
rows = [ob.optimizer_info(name) for name in names]
[(row.defaults, row.equations, row.slots, row.scope, row.program) for row in rows]
ob.optimizer_info("LION-32bit"), ob.optimizer_info("adan@int8"), ob.optimizer_info("sam")
ob.optimizer_info("lookahead+adan"), ob.optimizer_info("schedulefree+adamw")
optbench_llm.catalog.parse_spec("torch:AdamW")
heavy = {"torch", "transformers", "datasets", "pandas", "numpy", "accelerate"}
print(json.dumps([len(names), sorted(heavy & set(sys.modules))]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [len(ob.list_optimizers("*")), []]


def test_the_list_of_transformers_names_is_theirs():
    """Ours is typed off, so that parsing a spec need not import transformers."""
    assert {member.value for member in OptimizerNames} == TRANSFORMERS_NAMES


def test_a_typo_is_reported_without_importing_torch():
    """In a blink, not after seconds of imports."""
    script = (
        "import sys\n"
        "from optbench_llm.catalog import parse_spec\n"
        "try:\n    parse_spec('addam')\n"
        "except ValueError as error:\n    print(error, 'torch' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Nearest: adam" in run.stdout
    assert "adamw" in run.stdout
    assert run.stdout.strip().endswith("False")


def test_the_readme_counts_the_rows_that_all_stands_for():
    """Every row that runs but those that depart from their method on purpose."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    counted = [n for n in ob.list_optimizers() if ob.optimizer_info(n).variant_of is None]
    assert re.findall(r"(\d+)\s+in\s+all", readme) == [str(len(counted))]
