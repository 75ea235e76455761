"""The card of a fine-tuned model: its losses where the hub looks for them, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LOSSES = {"test_loss": "Test loss", "eval_loss": "Validation loss", "train_loss": "Train loss"}


def model_card(result: Mapping[str, Any], name: str) -> str:
    """A model card with a ``model-index``; ``result`` is what ``result.json`` of a run holds."""
    from huggingface_hub import EvalResult, ModelCardData

    settings = result["settings"]
    source, model = settings["data"]["source"], settings["model"]
    told = [
        EvalResult(
            task_type="text-generation",
            task_name="Causal language modelling",
            dataset_type=source,
            dataset_name=source,
            metric_type="loss",
            metric_name=title,
            metric_value=round(result[key], 4),
        )
        for key, title in _LOSSES.items()
        if result.get(key) is not None
    ]
    data = ModelCardData(
        library_name="peft" if settings["lora"] else "transformers",
        base_model=model if model.count("/") == 1 and not model.startswith((".", "/")) else None,
        tags=["optbench_llm", f"optimizer:{result['optimizer']}"],
        model_name=name,
        eval_results=told or None,
    )
    lines = [f"- {title}: {result[key]:.4f}" for key, title in _LOSSES.items() if result.get(key)]
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
