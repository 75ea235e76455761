"""Which positions of a model's logits its loss is computed at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
from transformers.trainer_utils import unwrap_peft_model

IGNORED_LABEL = -100
#: Names of the inputs that hold labels.
LABELS = frozenset({"labels", "shift_labels"})
#: Of each trainer's model: unwrapping it takes accelerate milliseconds, which batches need not pay.
_SHIFTING: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def trained_positions(trainer: Trainer, inputs: Mapping[str, Any]) -> Tensor:
    """Mask over the logits' positions: those whose label, shifted as the loss does, counts."""
    if "shift_labels" in inputs:
        return inputs["shift_labels"] != IGNORED_LABEL
    mask = inputs["labels"] != IGNORED_LABEL
    if not shifts_labels(trainer):
        return mask
    return nn.functional.pad(mask[..., 1:], (0, 1), value=False)


def shifts_labels(trainer: Trainer) -> bool:
    """Whether the model's loss compares the logits at a position with the label after it."""
    model = trainer.model
    assert model is not None
    if model not in _SHIFTING:
        _SHIFTING[model] = _shifts_labels(base_model(trainer))
    return _SHIFTING[model]


def count_trained(trainer: Trainer, inputs: Any) -> Tensor | int:
    """How many positions the loss of a batch is computed at, 0-dim.

    0 where nobody can tell: without labels, and with labels that are no tensor (DETR's boxes).
    """
    if not isinstance(inputs, Mapping) or not isinstance(inputs.get("labels"), Tensor):
        return 0
    return trained_positions(trainer, inputs).sum()


def base_model(trainer: Trainer) -> Any:
    """The model inside what accelerate, DDP and peft put around it."""
    unwrapped = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)  # pyright: ignore
    return unwrap_peft_model(unwrapped)


def _shifts_labels(model: Any) -> bool:
    if not isinstance(model, PreTrainedModel) or model.loss_function is not ForCausalLMLoss:
        return False
    # A class that transformers knows no loss for gets this one, used or not; GPT-2 is among them.
    named = "_loss_function" in vars(model) or model.loss_type in LOSS_MAPPING
    # Encoder-decoder models shift the decoder's input instead.
    return (named or model.can_generate()) and not model.config.is_encoder_decoder
