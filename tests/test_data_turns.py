"""``system`` and ``history``: earlier turns are prompt; records without them stay as they were."""

from __future__ import annotations

from typing import Any

import pytest
from data_setup import RECORDS, settings, write
from transformers import AutoTokenizer

from optbench_llm.data import load_data
from optbench_llm.data.prompts import ALPACA, ALPACA_WITH_INPUT, prompts_of
from optbench_llm.data.records import Record
from optbench_llm.models.locate import tiny_gpt2_folder

pytestmark = pytest.mark.usefixtures("cache_folder")

WHOLE = {"validation_fraction": 0, "test_fraction": 0}
TALK = {
    "instruction": "And {now}?", "input": "9", "output": "It is 10.", "system": "Be a PIRATE.",
    "history": [["Say 7.", "It is 7."], ["Say 8.", "It is 8."]],
}  # fmt: skip
#: How the fingerprint of RECORDS and the digest of their train split begin on earlier boards.
BEFORE = {
    "alpaca": ("50fc9bbfddab2b81", "4909d2ae1515471a"),
    "inst": ("65c56dce00ea3f8d", "a7ab6468ae450fa2"),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(tiny_gpt2_folder())


def record(**changes: Any) -> Record:
    values = {**TALK, "history": tuple(map(tuple, TALK["history"])), **changes}
    return Record(**values)


def only(tmp_path, tokenizer, values: dict, **chosen: Any) -> Any:
    """The splits of a file that holds one record."""
    file = write(tmp_path / "one.json", [values])
    return load_data(settings(file, **WHOLE, **chosen), tokenizer)


def test_alpaca_turns_follow_each_other_under_one_preamble() -> None:
    """As LLaMA-Factory's template: the system prompt takes the preamble's place."""
    first, second, own = prompts_of(record(), "alpaca")
    assert first == "Be a PIRATE.\n\n### Instruction:\nSay 7.\n\n### Response:"
    assert second == "\n\n### Instruction:\nSay 8.\n\n### Response:"
    assert own == "\n\n### Instruction:\nAnd {now}?\n\n### Input:\n9\n\n### Response:"
    unsaid = prompts_of(record(system=""), "alpaca")
    assert unsaid[0].startswith(ALPACA_WITH_INPUT[:60])
    assert unsaid[1:] == [second, own]
    alone = prompts_of(record(system="", input=""), "alpaca")
    assert alone[0] == ALPACA.format(instruction="Say 7.")


def test_inst_turns_follow_each_other_with_the_system_prompt_in_the_first() -> None:
    """As Llama 2's."""
    assert prompts_of(record(), "inst") == [
        "[INST] <<SYS>>\nBe a PIRATE.\n<</SYS>>\n\nSay 7. [/INST]",
        "[INST] Say 8. [/INST]",
        "[INST] And {now}?\n9 [/INST]",
    ]
    assert prompts_of(record(history=()), "inst") == [
        "[INST] <<SYS>>\nBe a PIRATE.\n<</SYS>>\n\nAnd {now}?\n9 [/INST]"
    ]


@pytest.mark.parametrize("prompt", ["alpaca", "inst"])
def test_earlier_turns_are_ended_and_masked_as_the_prompt_is(prompt, tmp_path, tokenizer) -> None:
    """Only the record's own answer is learned, unless mask_prompt is off."""
    end = tokenizer.eos_token
    item = only(tmp_path, tokenizer, TALK, prompt=prompt).train[0]
    first, second, own = prompts_of(record(), prompt)
    whole = f"{first}It is 7.{end}{second}It is 8.{end}{own}It is 10.{end}"
    assert tokenizer.decode(item["input_ids"]) == whole
    assert tokenizer.decode(item["labels"][item["labels"] != -100]) == f"It is 10.{end}"
    all_learned = only(tmp_path, tokenizer, TALK, prompt=prompt, mask_prompt=False).train[0]
    assert all_learned["labels"].equal(all_learned["input_ids"])
    assert all_learned["input_ids"].equal(item["input_ids"])


def test_a_token_in_front_of_texts_stands_there_once(tmp_path, tokenizer) -> None:
    """Not before every turn."""

    class WithBeginning:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, texts: list[str], add_special_tokens: bool = True, **more: Any) -> Any:
            ids = tokenizer(texts, add_special_tokens=False, **more)["input_ids"]
            return {"input_ids": [[1, *text] if add_special_tokens else text for text in ids]}

    item = only(tmp_path, WithBeginning(), TALK).train[0]
    assert item["input_ids"][0] == 1
    assert item["input_ids"].eq(1).sum() == 1


def test_the_oldest_turns_give_way_to_the_answer(tmp_path, tokenizer) -> None:
    """As many as must; the system prompt stays, the report counts, and packing keeps them all."""
    whole = only(tmp_path, tokenizer, TALK)
    size = len(whole.train[0]["input_ids"])
    assert whole.report.cuts.turns_left_out == 0
    shorter = only(tmp_path, tokenizer, TALK, block_size=size - 1)
    text = tokenizer.decode(shorter.train[0]["input_ids"])
    assert text.startswith("Be a PIRATE.\n\n### Instruction:\nSay 8.")
    assert text.endswith(f"It is 10.{tokenizer.eos_token}")
    assert shorter.report.cuts.turns_left_out == 1
    assert "1 of 1 records (100%) go without their oldest turns" in str(shorter.report)
    assert f"block_size {size} would hold all records" in str(shorter.report)
    shortest = only(tmp_path, tokenizer, TALK, block_size=56)
    text = tokenizer.decode(shortest.train[0]["input_ids"])
    assert text.startswith("Be a PIRATE.\n\n### Instruction:\nAnd {now}?")
    packed = only(tmp_path, tokenizer, TALK, block_size=size - 1, packing=True)
    assert tokenizer.decode(packed.train[0]["input_ids"]).startswith(
        "Be a PIRATE.\n\n### Instruction:\nSay 7."
    )


def test_each_text_of_a_conversation_makes_another_record() -> None:
    """Equal digests would put different records into one split as copies."""
    plain = record(system="", history=())
    others = [
        record(), record(system=""), record(history=()), record(system="Be."),
        record(history=(("Say 7.", "It is 7."),)), record(history=(("Say 7.It", " is 7."),)),
        record(system="Say 7.", history=(("It is 7.", "Say 8."),)),
    ]  # fmt: skip
    assert len({plain.digest, *(other.digest for other in others)}) == len(others) + 1


@pytest.mark.parametrize("prompt", BEFORE)
def test_records_with_neither_are_the_same_data_as_before(prompt, tmp_path, tokenizer) -> None:
    """Published boards carry these hashes: a store of theirs must open, with the same tokens."""
    empty = [{**values, "system": " ", "history": []} for values in RECORDS]
    for name, records in (("plain.json", RECORDS), ("empty.json", empty)):
        data = load_data(settings(write(tmp_path / name, records), prompt=prompt), tokenizer)
        assert (data.fingerprint[:16], data.train.digest[:16]) == BEFORE[prompt]


@pytest.mark.parametrize("form", [".json", ".jsonl", ".parquet", ".saved"])
def test_every_form_of_file_carries_them(form, tmp_path, tokenizer) -> None:
    """With the same fingerprint, and the keys that are not used counted alike."""
    talks = [{**TALK, "output": f"{n}", "topic": "x" if n % 2 else None} for n in range(60)]
    data = load_data(settings(write(tmp_path / f"talks{form}", talks)), tokenizer)
    reference = load_data(settings(write(tmp_path / "reference.json", talks)), tokenizer)
    assert data.fingerprint == reference.fingerprint
    assert (data.report.with_system, data.report.with_history) == (60, 60)
    assert data.report.unread == {"topic": 30}
    assert "keys that are not used: 'topic' (30)" in data.report.lines
