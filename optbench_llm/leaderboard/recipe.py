"""A recipe: one YAML file that says what a leaderboard compares, on what, and for how long."""

from __future__ import annotations

import difflib
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from optbench_llm.catalog import parse_spec
from optbench_llm.data import DataSettings
from optbench_llm.leaderboard.optimizer_settings import (
    canonical_spec,
    check_settings,
    declared_lr,
    takes_weight_decay,
)
from optbench_llm.leaderboard.recipe_faults import told_faults
from optbench_llm.leaderboard.yaml_file import read_yaml

Schedule = Literal["constant", "linear", "cosine"]
Track = Literal["reference", "declared", "tuned"]
#: The seeds of a track whose recipe names none.
DEFAULT_SEEDS: dict[Track, tuple[int, ...]] = {
    "reference": (42,),
    "declared": (1, 2, 3, 4, 5),
    "tuned": (1, 2, 3, 4, 5),
}
#: Fewer seeds than these give no interval that is worth its name.
FEWEST_SEEDS = 5
Seed = Annotated[int, Field(ge=0, lt=2**32)]
PACKAGE = Path(__file__).resolve().parents[1]


def _learning_rate(value: Any) -> Any:
    if value == "declared":
        return value
    try:
        lr = float(value)
    except (TypeError, ValueError):
        lr = math.nan
    if not 0 < lr < math.inf:
        raise ValueError("expected a positive number, the same for all, or 'declared'")
    return lr


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: Any) -> Any:
        """No key of a recipe is a flag, and Python takes true for 1."""
        if any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value])):
            raise ValueError("expected a value, not true or false")
        return value


class TrainingSettings(Section):
    """The budget and protocol that all trials of a recipe share."""

    max_steps: int | None = Field(None, ge=1, description="optimizer steps; or num_train_epochs")
    num_train_epochs: float | None = Field(None, gt=0, allow_inf_nan=False)
    batch_size: int = Field(8, ge=1, description="blocks a forward pass, over all processes")
    gradient_accumulation_steps: int = Field(1, ge=1)
    schedule: Schedule = "cosine"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float | None = Field(
        0.0, ge=0, allow_inf_nan=False, description="null: each optimizer's own default"
    )
    max_grad_norm: float = Field(1.0, ge=0, allow_inf_nan=False, description="0: no clipping")
    precision: Literal["fp32", "bf16"] = "fp32"
    eval_batch_size: int = Field(8, ge=1, description="blocks a forward pass and process")
    max_eval_blocks: int | None = Field(
        None, ge=1, description="of each split; null: the whole validation and test splits"
    )

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingSettings:
        if (self.max_steps is None) == (self.num_train_epochs is None):
            raise ValueError("expected exactly one of max_steps and num_train_epochs")
        return self


class OptimizerEntry(Section):
    """One optimizer of the board: its spec, and what the recipe sets for it alone."""

    spec: str
    lr: float | None = Field(None, gt=0, allow_inf_nan=False)
    schedule: Schedule | None = None
    args: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _bare_spec(cls, value: Any) -> Any:
        return {"spec": value} if isinstance(value, str) else value

    @field_validator("spec")
    @classmethod
    def _known(cls, value: str) -> str:
        return canonical_spec(value)

    @field_validator("args")
    @classmethod
    def _taken(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "lr" in value:
            raise ValueError("lr stands beside spec and args, not in args")
        if value and "spec" in info.data:
            check_settings(info.data["spec"], value)
        return value


class SearchSettings(Section):
    """How the tuned track finds each row's lr, equally for all rows."""

    trials: int = Field(8, ge=5, le=12, description="learning rates tried for every row")
    seed: Seed = Field(0, description="of every search trial; no row is reported with it")


class Limits(Section):
    """What a trial may cost; decides whether there is a result, never which."""

    trial_timeout_s: float | None = Field(None, gt=0, allow_inf_nan=False)


class Recipe(Section):
    """Model, data, budget, protocol and the list of optimizers: all that a leaderboard compares."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: int = Field(ge=1, description="a label, written into tables with the recipe")
    description: str
    model: str
    data: DataSettings
    training: TrainingSettings
    processes_per_trial: int = Field(1, ge=1, description="each takes its part of batch_size")
    track: Track | None = Field(
        None, description="null: reference where lr is one number for all, else declared"
    )
    lr: Annotated[float | Literal["declared"], BeforeValidator(_learning_rate)] = "declared"
    lr_scale: float = Field(1.0, gt=0, allow_inf_nan=False)
    seeds: list[Seed] | None = Field(
        None, min_length=1, description="null: 42 in track reference, else 1 to 5"
    )
    search: SearchSettings = Field(default_factory=lambda: SearchSettings.model_validate({}))
    baseline: str = Field("adamw", description="what tuned rows are compared with")
    baseline_budgets: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        [0.5, 2.0], description="of the tuned baseline, in runs: for its equivalent steps"
    )
    rank_by: Literal["train_loss", "eval_loss", "test_loss"] = "train_loss"
    optimizers: list[OptimizerEntry] = Field(min_length=1)
    limits: Limits = Field(default_factory=lambda: Limits(trial_timeout_s=None))

    @field_validator("seeds")
    @classmethod
    def _different_seeds(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("expected each seed once")
        return value

    @field_validator("baseline")
    @classmethod
    def _known_baseline(cls, value: str) -> str:
        return canonical_spec(value)

    @field_validator("optimizers")
    @classmethod
    def _different_rows(cls, value: list[OptimizerEntry]) -> list[OptimizerEntry]:
        for index, entry in enumerate(value):
            if entry in value[:index]:
                raise ValueError(f"{entry.spec} is listed twice with the same settings")
        return value

    @model_validator(mode="after")
    def _processes_share_the_batch(self) -> Recipe:
        count, batch = self.processes_per_trial, self.training.batch_size
        if batch % count:
            raise ValueError(
                f"processes_per_trial {count} does not divide training.batch_size {batch}, of which"
                " each process takes an equal part; change one of them"
            )
        return self

    @model_validator(mode="after")
    def _lr_fits_the_track(self) -> Recipe:
        if self.lr != "declared" and self.lr_scale != 1:
            raise ValueError("lr_scale multiplies declared learning rates: it needs lr: declared")
        if self.lr == "declared" and self.track == "reference":
            raise ValueError("track reference compares at one lr for all: give lr, such as 1e-5")
        if self.lr != "declared" and self.track in ("declared", "tuned"):
            raise ValueError(
                f"track {self.track} starts from each optimizer's own lr: it needs lr: declared, "
                f"not {self.lr:g}"
            )
        return self

    @model_validator(mode="after")
    def _tuned_rows_can_be_judged(self) -> Recipe:
        if self.track != "tuned":
            return self
        if min(self.data.validation_fraction, self.data.test_fraction) == 0:
            raise ValueError(
                "track tuned chooses by validation loss and reports test loss: it needs "
                "data.validation_fraction and data.test_fraction above 0"
            )
        if self.search.seed in self.all_seeds:
            raise ValueError(
                f"seeds: {self.search.seed} is the seed of the search, and its losses are chosen, "
                "so too good to be reported; choose another, or another search.seed"
            )
        return self

    @model_validator(mode="after")
    def _every_row_has_an_lr(self) -> Recipe:
        for entry in self.optimizers:
            self.lr_of(entry)
        return self

    @model_validator(mode="after")
    def _ranked_by_what_is_measured(self) -> Recipe:
        for loss, fraction in (
            ("eval_loss", self.data.validation_fraction),
            ("test_loss", self.data.test_fraction),
        ):
            if self.rank_by == loss and fraction == 0:
                split = "validation" if loss == "eval_loss" else "test"
                raise ValueError(f"rank_by: {loss} needs a data.{split}_fraction above 0")
        return self

    @property
    def its_track(self) -> Track:
        """How its rows come by their learning rates, also where the recipe does not say."""
        return self.track or ("declared" if self.lr == "declared" else "reference")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds that its rows are reported with."""
        return DEFAULT_SEEDS[self.its_track] if self.seeds is None else tuple(self.seeds)

    @property
    def ranked_by(self) -> str:
        """The loss that orders the table: of tuned rows the one that nothing was chosen by."""
        return "test_loss" if self.its_track == "tuned" else self.rank_by

    @property
    def launch(self) -> dict[str, int]:
        """How a trial is started, as far as its result depends on that: empty for one process.

        With several, other dropout masks are drawn, and sums are rounded otherwise.
        """
        count = self.processes_per_trial
        return {} if count == 1 else {"processes_per_trial": count}

    @property
    def track_in_words(self) -> str:
        """How the rows come by their learning rates, for the table's caption."""
        scale = "" if self.lr_scale == 1 else f" x {self.lr_scale:g}"
        return {
            "reference": "one lr for all, untuned",
            "declared": f"each optimizer's declared lr{scale}, untuned",
            "tuned": f"lr found in {self.search.trials} trials of each row",
        }[self.its_track]

    def schedule_of(self, entry: OptimizerEntry) -> str:
        """The learning rate schedule of one row: its own, the one its method demands, or all's."""
        if entry.schedule is not None:
            return entry.schedule
        return "constant" if parse_spec(entry.spec).demands_constant_lr else self.training.schedule

    def lr_of(self, entry: OptimizerEntry) -> float:
        """The learning rate of one row: its own, or the recipe's.

        ``lr_scale`` leaves methods alone that find their own step size.

        Raises:
            ValueError: the recipe says ``declared``, and neither catalog nor provider has one.
        """
        if entry.lr is not None:
            return entry.lr
        if self.lr != "declared":
            return float(self.lr)
        info = parse_spec(entry.spec).info
        scale = 1.0 if info is not None and info.finds_step_size else self.lr_scale
        return declared_lr(entry.spec) * scale

    def weight_decay_of(self, entry: OptimizerEntry) -> float | None:
        """What one row gets of the recipe's weight decay; None where it has its own or none.

        A decay of 0 asks nothing of an optimizer that knows no weight decay.
        """
        decay = self.training.weight_decay
        if "weight_decay" in entry.args or (decay == 0 and not takes_weight_decay(entry.spec)):
            return None
        return decay


SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataSettings,
    "training": TrainingSettings,
    "search": SearchSettings,
    "optimizers": OptimizerEntry,
    "limits": Limits,
}


def shipped_recipes() -> dict[str, Path]:
    """Names and files of the recipes that come with the package, in a wheel or in a checkout."""
    in_wheel, in_checkout = PACKAGE / "recipes", PACKAGE.parent / "recipes"
    folder = in_wheel if in_wheel.is_dir() else in_checkout
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str) -> Recipe:
    """Load a shipped recipe by name, or any recipe by its path.

    Raises:
        ValueError: no such recipe (lists the nearest names), or a file that is not a valid recipe;
            one line for each fault, with file, line, key, and what was expected.
    """
    path = _recipe_path(name_or_path)
    file = read_yaml(path)
    try:
        return Recipe.model_validate(file.values)
    except ValidationError as error:
        raise ValueError(told_faults(error, str(path), file, Recipe, SECTIONS)) from None


def override(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with some values replaced; a key is a dotted path such as ``training.max_steps``.

    Raises:
        ValueError: a replaced value is not valid; names the key and what was expected.
    """
    values = recipe.model_dump()
    for path, value in changes.items():
        *parents, key = path.split(".")
        section = values
        for parent in parents:
            section = section[parent]
        section[key] = value
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        source = f"recipe {recipe.name}, as changed"
        raise ValueError(told_faults(error, source, None, Recipe, SECTIONS)) from None


def _recipe_path(name_or_path: str) -> Path:
    path = Path(name_or_path)
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    if path.suffix in (".yaml", ".yml") or os.sep in name_or_path:
        if path.is_file():
            return path
        raise ValueError(f"{name_or_path}: no such recipe file")
    nearest = difflib.get_close_matches(name_or_path, shipped, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise ValueError(
        f"{name_or_path}: no recipe of that name; {hint}"
        f"shipped: {', '.join(shipped)}; or give the path of a .yaml file"
    )
