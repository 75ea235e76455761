"""The prompts: the text in front of an answer."""

from __future__ import annotations

from optbench_llm.data.records import Record

# Stanford Alpaca's own, to the letter: there is no newline after "Response:".
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
# LMFlow's llama2 template without a system message, as in the published leaderboard; how its
# conversations joined instruction and input is not recorded, the newline is ours.
INST_WITH_INPUT = "[INST] {instruction}\n{input} [/INST]"
INST = "[INST] {instruction} [/INST]"

TEMPLATES = {"alpaca": (ALPACA_WITH_INPUT, ALPACA), "inst": (INST_WITH_INPUT, INST)}


def prompt_of(record: Record, name: str) -> str:
    """The prompt of a record, by the template called ``name``."""
    with_input, without = TEMPLATES[name]
    template = with_input if record.input.strip() else without
    return template.format(instruction=record.instruction, input=record.input)
