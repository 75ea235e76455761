"""OptBenchArguments: what they accept, refuse, keep and hand on."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
from transformers import HfArgumentParser

from optbench_llm.training import OptBenchArguments
from optbench_llm.training.optim_args import parse_optim_args


@pytest.mark.parametrize(
    "given",
    [
        {"betas": (0.98, 0.92, 0.99), "eps": 1e-9},
        {"betas": [0.98, 0.92, 0.99], "eps": 1e-9},
        "betas=(0.98,0.92,0.99),eps=1e-9",
        "betas=(0.98, 0.92, 0.99) eps=1e-9",
        ["betas=(0.98,0.92,0.99)", "eps=1e-9"],
        ["betas=[0.98,0.92,0.99],eps=1e-9"],
    ],
)
def test_optim_args_mean_the_same_in_every_form(given):
    """Mapping, text and list of texts give the same typed values."""
    assert parse_optim_args(given) == {"betas": (0.98, 0.92, 0.99), "eps": 1e-9}


@pytest.mark.parametrize(
    ("given", "piece"),
    [
        ("betas=(0.9,0.99", "betas=(0.9,0.99"),
        ("betas=0.9,0.99", "0.99"),
        ("eps=tiny", "eps=tiny"),
        (["eps=1", "eps=2"], "eps=2"),
        ("=3", "=3"),
    ],
)
def test_unreadable_optim_args_are_named(given, piece):
    """The error shows the piece that cannot be read."""
    with pytest.raises(ValueError, match="optim_args") as error:
        parse_optim_args(given)
    assert piece in str(error.value)


def test_spec_survives_every_copy(tmp_path):
    """The spec and typed hyperparameters pass through dict, JSON, pickle and replace unchanged."""
    args = OptBenchArguments(
        output_dir=str(tmp_path), optim="adan", optim_args="betas=(0.98,0.92,0.99)",
        lr_scheduler_type="cosine",
    )  # fmt: skip
    copies = [
        OptBenchArguments(**args.to_dict()),
        OptBenchArguments(**json.loads(args.to_json_string())),
        pickle.loads(pickle.dumps(args)),
        dataclasses.replace(args),
    ]
    for copy in copies:
        assert copy.optim == "adan"
        assert copy.optim_args == {"betas": (0.98, 0.92, 0.99)}
        assert copy.learning_rate is None
        assert copy.lr_scheduler_type == "cosine"


def test_command_line_takes_both_spellings(tmp_path):
    """HfArgumentParser reads dashes, underscores, the --lr alias and several optim_args."""
    (args,) = HfArgumentParser(OptBenchArguments).parse_args_into_dataclasses(
        ["--output-dir", str(tmp_path), "--optim", "adan", "--lr", "0.01", "--weight_decay", "0.1",
         "--optim-args", "betas=(0.98,0.92,0.99)", "eps=1e-9", "--max-steps", "3"]
    )  # fmt: skip
    assert (args.optim, args.learning_rate, args.weight_decay) == ("adan", 0.01, 0.1)
    assert args.optim_args == {"betas": (0.98, 0.92, 0.99), "eps": 1e-9}
    assert args.max_steps == 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"optim": "lionn"}, r"Nearest: .*\blion\b"),
        ({"optim": "hf:lomo"}, "backward"),
        ({"optim": "adalomo"}, "backward"),
        ({"optim": "hf:adamw_torch_fuse"}, "adamw_torch_fused"),
        ({"optim": "adan", "optim_args": "beta=1"}, "betas"),
        ({"optim": "adan", "optim_args": "eps=-1"}, "eps"),
        ({"learning_rate": -1.0}, "lr"),
        ({"learning_rate": 0.1, "optim_args": "lr=0.2"}, "same thing"),
        ({"weight_decay": 0.1, "optim_args": "weight_decay=0.2"}, "same thing"),
        ({"adam_beta1": 0.8}, "betas"),
        ({"adam_epsilon": 1e-6}, "eps"),
        ({"optim_target_modules": ["attn"]}, "optim_target_modules"),
    ],
)
def test_wrong_settings_are_refused_before_a_model_is_loaded(tmp_path, settings, says):
    """Unknown, out of range, doubly set and ineffective settings raise, saying what to do."""
    with pytest.raises(ValueError, match=says):
        OptBenchArguments(output_dir=str(tmp_path), **settings)


def test_transformers_settings_are_taken_by_its_own_optimizers(tmp_path):
    """adam_beta1 has an effect on hf: optimizers, so it is accepted there."""
    args = OptBenchArguments(output_dir=str(tmp_path), optim="hf:adamw_torch", adam_beta1=0.8)
    assert args.adam_beta1 == 0.8


def test_nan_losses_are_shown_by_default(tmp_path):
    """transformers hides NaN losses; a comparison must see them."""
    assert not OptBenchArguments(output_dir=str(tmp_path)).logging_nan_inf_filter
