"""The card of a fine-tuned model: its losses where the hub looks for them, and how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optbench_llm.hub import looks_like_hub_id

_LOSSES = {"test_loss": "Test loss", "eval_loss": "Validation loss", "train_loss": "Train loss"}


def model_card(result: Mapping[str, Any], name: str) -> str:
    """A model card with a ``model-index``; ``result`` is what ``result.json`` of a run holds."""
    from huggingface_hub import EvalResult, ModelCardData

    settings = result["settings"]
    source, model = settings["data"]["source"], settings["model"]
    if Path(source).exists():
        source = Path(source).name
    losses = {
        key: (title, result[key])
        for key, title in _LOSSES.items()
        if result.get(key) is not None and math.isfinite(result[key])
    }
    told = [
        EvalResult(
            task_type="text-generation",
            task_name="Causal language modelling",
            dataset_type=source,
            dataset_name=source,
            metric_type="loss",
            metric_name=title,
            metric_value=round(loss, 4),
        )
        for title, loss in losses.values()
    ]
    data = ModelCardData(
        library_name="peft" if settings["lora"] else "transformers",
        base_model=model if looks_like_hub_id(model) and not Path(model).exists() else None,
        tags=["optbench_llm", f"optimizer:{result['optimizer']}"],
        model_name=name,
        eval_results=told or None,
    )
    lines = [f"- {title}: {loss:.4f}" for title, loss in losses.values()]
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n"
        f"{model}, fine-tuned on {source} with the optimizer `{result['optimizer']}` by "
        f"optbench_llm.\n\n" + "\n".join(lines) + f"\n\n{_settings(result)}"
    )


def _settings(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    rows = {
        "optimizer": result["optimizer"],
        "learning rate": result["lr"],
        "steps": result["steps"],
        "batch": settings["global_train_batch_size"],
        "seed": result["seed"],
        "schedule": settings.get("lr_scheduler_type"),
        "hyperparameters": "; ".join(
            ", ".join(f"{key} {value}" for key, value in group.items())
            for group in result.get("hyperparameters") or ()
        ),
    }
    lines = [f"| {key} | {value} |" for key, value in rows.items() if value not in (None, "")]
    return "\n".join(["| setting | value |", "| :-- | :-- |", *lines]) + "\n"
