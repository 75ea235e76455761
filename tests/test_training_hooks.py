"""Trainer classes with an optimizer of their own: what was chosen steps, or an error says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from training_setup import Sentences, assert_same_weights, common, tiny_gpt2, trainer, weights
from transformers import Trainer, TrainingArguments

import optbench_llm as ob
from optbench_llm.training import OptBenchArguments, OptBenchMixin, attach
from optbench_llm.training.optimizer_clock import unwrapped


def own_adamw(run: Trainer) -> torch.optim.Optimizer:
    assert run.model is not None
    return torch.optim.AdamW(run.model.parameters(), lr=1.0)


class Usual(Trainer):
    """Without the argument that transformers added later."""

    def create_optimizer(self):
        if self.optimizer is None:
            self.optimizer = own_adamw(self)
        return self.optimizer


class Overwriting(Trainer):
    """Never asks whether there is one."""

    def create_optimizer(self, model=None):
        self.optimizer = own_adamw(self)
        return self.optimizer


class ByClass(Trainer):
    """Names another class for transformers to make."""

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        return torch.optim.SGD, {"lr": 1.0}


def built(kind: Any, arguments: Any, **settings: Any) -> Any:
    return kind(model=tiny_gpt2(), args=arguments(**settings), train_dataset=Sentences())


@pytest.mark.parametrize("kind", [Usual, Overwriting, ByClass])
@pytest.mark.parametrize("spec", ["lion", "hf:adamw_torch"])
def test_an_attached_optimizer_steps_whatever_the_class_makes(tmp_path, caplog, kind, spec):
    """The same run as in a stock trainer, with a warning that names the override."""
    settings = common(tmp_path, learning_rate=1e-4)
    runs = [built(cls, TrainingArguments, **settings) for cls in (kind, Trainer)]
    for run in runs:
        attach(run, spec, weight_decay=0.0)
        run.train()
    assert_same_weights(weights(runs[0].model), weights(runs[1].model))
    assert (
        f"{kind.__name__}.{next(n for n in vars(kind) if 'optimizer' in n)} has no" in caplog.text
    )


@pytest.mark.parametrize("kind", [Usual, Overwriting])
def test_nothing_attached_leaves_the_class_its_own_optimizer(tmp_path, kind):
    """Under the mixin with plain arguments, which name no optimizer of ours."""
    mixed = type("Mixed", (OptBenchMixin, kind), {})
    run = built(mixed, TrainingArguments, **common(tmp_path, max_steps=2))
    run.train()
    assert isinstance(unwrapped(run.optimizer), torch.optim.AdamW)
    assert run.choice is None
    assert len(run.measurements.losses) == 2


@pytest.mark.parametrize("body", [Usual.create_optimizer, Overwriting.create_optimizer])
def test_a_subclass_that_steps_with_another_optimizer_than_it_names_is_refused(tmp_path, body):
    """Before the first step: its record would say lion."""
    kind = type("Mine", (ob.OptBenchTrainer,), {"create_optimizer": body, "__module__": __name__})
    run = built(kind, OptBenchArguments, **common(tmp_path, optim="lion"))
    before = weights(run.model)
    with pytest.raises(ValueError, match=r"'lion' was chosen, and AdamW .*Mine\.create_optimizer"):
        run.train()
    assert_same_weights(before, weights(run.model))


def test_a_subclass_may_change_what_the_chosen_optimizer_is_made_of(tmp_path):
    """super().create_optimizer() is the way to it."""

    class Halved(ob.OptBenchTrainer):
        def create_optimizer(self, *args):
            optimizer = super().create_optimizer(*args)
            optimizer.param_groups[-1]["lr"] /= 2
            return optimizer

    run = built(Halved, OptBenchArguments, **common(tmp_path, optim="lion", learning_rate=1e-3))
    run.train()
    assert [group["lr"] for group in run.effective_hyperparameters] == [1e-3, 5e-4]


class OwnSchedule(Trainer):
    """A schedule of its own, in the form that most subclasses have."""

    def create_scheduler(self, num_training_steps):
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer, 0.5, 100)
        return self.lr_scheduler


def test_a_classs_own_schedule_is_kept(tmp_path, caplog):
    """It moves the lr of the chosen optimizer; methods that demand another get a warning."""
    for spec, warned in (("lion", False), ("adamw-schedulefree", True)):
        run = built(OwnSchedule, TrainingArguments, **common(tmp_path, learning_rate=1e-3))
        attach(run, spec, weight_decay=0.0)
        run.train()
        assert run.optimizer.param_groups[0]["lr"] == 5e-4
        assert run.effective_hyperparameters[0]["lr"] == 1e-3
        assert ("OwnSchedule.create_scheduler" in caplog.text) == warned


class NothingDecays(Trainer):
    """Says which parameters decay."""

    def get_decay_parameter_names(self, model):
        return [name for name, _ in model.named_parameters() if name.endswith("wte.weight")]


@pytest.mark.parametrize("spec", ["adamw", "muon", "torch:AdamW", "hf:adamw_torch"])
def test_a_classs_choice_of_what_decays_is_kept(tmp_path, spec):
    """Where transformers asks for it, every optimizer follows it."""
    run = built(NothingDecays, TrainingArguments, **common(tmp_path, learning_rate=1e-3))
    attach(
        run, spec, weight_decay=0.25, **({"companion_weight_decay": 0.5} if spec == "muon" else {})
    )
    optimizer = run.create_optimizer()
    names = {p: name for name, p in run.model.named_parameters()}
    decaying = {
        names[p]
        for group in optimizer.param_groups
        for p in group["params"]
        if group["weight_decay"]
    }
    assert decaying == {"transformer.wte.weight"}


class OwnStep(ob.OptBenchTrainer):
    """Runs forward and backward itself."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        self.accelerator.backward(loss)
        return loss.detach()


def test_steps_that_are_not_measured_are_named(tmp_path, caplog):
    """An override that never calls super() leaves no losses to record."""
    run = built(OwnStep, OptBenchArguments, **common(tmp_path, max_steps=2))
    run.train()
    assert run.measurements.losses == []
    assert caplog.text.count("losses of this run are not measured") == 1


class Boxes(torch.nn.Module):
    """Takes labels as detectors do: a list with one dict an image, or one dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = torch.nn.Linear(4, 4)

    def forward(self, pixel_values, labels):
        targets = labels["boxes"] if isinstance(labels, dict) else [t["boxes"] for t in labels]
        boxes = targets if isinstance(targets, torch.Tensor) else torch.stack(targets)
        return {"loss": (self.head(pixel_values) - boxes).abs().mean()}


class InTuples(Trainer):
    """Its batches have no names."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(*inputs)["loss"]


def boxes_as(form: str, rows: list[Any]) -> Any:
    images, boxes = (torch.stack([row[n] for row in rows]) for n in ("pixel_values", "boxes"))
    labels = {"boxes": boxes} if form != "list" else [{"boxes": one} for one in boxes]
    return (images, labels) if form == "tuple" else {"pixel_values": images, "labels": labels}


@pytest.mark.parametrize("form", ["list", "dict", "tuple"])
@pytest.mark.parametrize("spec", ["lion", "sam+lion"])
def test_labels_and_batches_of_any_form_train(tmp_path, form, spec):
    """What a plain Trainer trains on; positions that nobody can count are not counted."""
    rows = [{"pixel_values": torch.rand(4), "boxes": torch.rand(4)} for _ in range(8)]
    kind = InTuples if form == "tuple" else Trainer
    run: Any = kind(
        model=Boxes(), train_dataset=rows, data_collator=lambda batch: boxes_as(form, batch),
        args=TrainingArguments(**common(tmp_path, max_steps=2, remove_unused_columns=False)),
    )  # fmt: skip
    attach(run, spec, lr=1e-2)
    if form == "tuple" and spec == "sam+lion":
        with pytest.raises(ValueError, match=r"batches that name their inputs.*tuple"):
            run.train()
        return
    run.train()
    assert len(run.measurements.losses) == 2
    assert run.measurements.tokens == 0


def test_the_mixins_own_trainer_overrides_nothing_of_users(tmp_path, caplog):
    """No warning of hooks without a hook."""
    trainer(tmp_path, optim="lion", max_steps=1).train()
    assert "has no effect" not in caplog.text
