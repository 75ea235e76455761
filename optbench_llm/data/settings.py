"""What a user can choose about data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PromptName = Literal["alpaca", "inst"]


class DataSettings(BaseModel):
    """Where instruction records come from and how they become blocks of tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        min_length=1,
        description="A .json, .jsonl or .parquet file in Alpaca's format, a folder that "
        "save_to_disk wrote, a dataset's hub id, or 'optbench:pydocs' (records made of the "
        "standard library's docstrings; no network).",
    )
    prompt: PromptName = Field(
        "alpaca",
        description="'alpaca': the prompt of Stanford Alpaca; 'inst': '[INST] ... [/INST]', as "
        "in the published leaderboard.",
    )
    mask_prompt: bool = Field(True, description="Learn the answer only, not the prompt.")
    block_size: int = Field(
        256,
        ge=8,
        description="Most tokens in a block. Longer records are cut, after the oldest turns of "
        "their history are left out.",
    )
    packing: bool = Field(
        False, description="Fill blocks with record after record instead of padding each."
    )
    max_bad_fraction: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Refuse data in which a larger share of records has no usable instruction "
        "or output.",
    )
    validation_fraction: float = Field(
        0.05, ge=0, lt=1, description="Share of the distinct records held out for evaluation."
    )
    test_fraction: float = Field(
        0.05, ge=0, lt=1, description="Share of the distinct records that no run may look at."
    )
    max_records: int | None = Field(
        None,
        ge=1,
        description="Use at most this many records, chosen by content and not by position.",
    )

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> DataSettings:
        held_out = self.validation_fraction + self.test_fraction
        if held_out >= 1:
            raise ValueError(
                f"validation_fraction + test_fraction = {held_out:g} leaves nothing to train on; "
                "expected a sum below 1"
            )
        return self
