"""What a worker loads is what its trials were planned with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optbench_llm.data import DataSettings, data_fingerprint
from optbench_llm.leaderboard.workbench import Workbench
from optbench_llm.models import model_fingerprint

MODEL = "optbench:tiny-gpt2"


def write_records(path: Path, answer: str) -> None:
    records = [{"instruction": f"Question {i}?", "output": f"{answer} {i}"} for i in range(40)]
    path.write_text(json.dumps(records), encoding="utf-8")


@pytest.fixture
def setup(tmp_path: Path) -> dict[str, Any]:
    """What a worker is told of a plan on the records in ``data.json``."""
    path = tmp_path / "data.json"
    write_records(path, "Answer")
    settings = DataSettings(source=str(path), block_size=128)
    return {
        "threads": 1,
        "processes": 1,
        "model": MODEL,
        "data": settings.model_dump(mode="json"),
        "training": {"max_eval_blocks": None},
        "inputs": {"model": model_fingerprint(MODEL), "data": data_fingerprint(settings)},
    }


def test_data_that_changed_after_the_plan_is_refused(setup):
    """A result of other records must not stand under the planned ones' id."""
    write_records(Path(setup["data"]["source"]), "Other answer")
    with pytest.raises(ValueError, match=r"data .*data\.json.*changed since the plan was made"):
        Workbench(setup)


def test_a_model_that_changed_after_the_plan_is_refused(setup):
    """The same for weights."""
    setup["inputs"]["model"] = "another"
    with pytest.raises(ValueError, match=r"model 'optbench:tiny-gpt2': changed since"):
        Workbench(setup)
