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

# A system prompt as LLaMA-Factory's alpaca template and as Llama 2 place it.
ALPACA_SYSTEM = "{system}\n\n"
INST_SYSTEM = "<<SYS>>\n{system}\n<</SYS>>\n\n"
# What follows the end token of an earlier answer.
ALPACA_NEXT_TURN, INST_NEXT_TURN = "\n\n", ""

CONTEXT_TEMPLATES = {
    "alpaca": (ALPACA_SYSTEM, ALPACA_NEXT_TURN),
    "inst": (INST_SYSTEM, INST_NEXT_TURN),
}
"""How ``system`` and ``history`` become text; no part of ``TEMPLATES``, since a change here must
leave the fingerprints of records that have neither alone."""

_ALPACA_TURN = "### Instruction:"
_INST_TURN = "[INST] "


def prompts_of(record: Record, name: str) -> list[str]:
    """The text in front of each answer, by the template called ``name``.

    The last is the record's own; those before it belong to the turns of its history. With
    ``alpaca`` a system prompt takes the place of "Below is an instruction ...", which is said
    once, at the beginning; with ``inst`` it stands between ``<<SYS>>`` and ``<</SYS>>`` in the
    first turn.
    """
    with_input, without = TEMPLATES[name]
    template = with_input if record.input.strip() else without
    own = template.format(instruction=record.instruction, input=record.input)
    turns = [without.format(instruction=instruction) for instruction, _ in record.history] + [own]
    system, next_turn = CONTEXT_TEMPLATES[name]
    if name == "alpaca":
        preamble, _, _ = template.partition(_ALPACA_TURN)
        opening = system.format(system=record.system) if record.system else preamble
        turns = [turn[turn.index(_ALPACA_TURN) :] for turn in turns]
    else:
        opening = _INST_TURN
        opening += system.format(system=record.system) if record.system else ""
        turns[0] = turns[0].removeprefix(_INST_TURN)
    return [opening + turns[0], *(next_turn + turn for turn in turns[1:])]
