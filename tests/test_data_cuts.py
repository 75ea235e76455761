"""What blocks cost: every cut record, answer and end token is counted, and said in plain lines."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from data_setup import RECORDS, settings, write
from transformers import AutoTokenizer

from optbench_llm.data import load_data
from optbench_llm.data.cuts import Lengths, count_cuts
from optbench_llm.data.records import Record
from optbench_llm.data.tokens import tokenize
from optbench_llm.models.locate import tiny_gpt2_folder

pytestmark = pytest.mark.usefixtures("cache_folder")

WHOLE = {"validation_fraction": 0, "test_fraction": 0}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(tiny_gpt2_folder())


class OneTokenAWord:
    """Tells whose a token is: a word's token is the number that it holds; the end is 0."""

    eos_token_id = 0

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        words = [["".join(filter(str.isdigit, word)) for word in text.split()] for text in texts]
        return {"input_ids": [[int(word) for word in line if word] for line in words]}


def numbered(count: int, longest: int, turns: int = 0) -> list[Record]:
    """Records of random lengths, each token of which is the record's number."""
    draw = random.Random(count + longest + turns)

    def text(number: int) -> str:
        return " ".join([f"{number}"] * draw.randint(1, longest))

    return [
        Record(text(n), "", text(n), history=((text(n), text(n)),) * (n % (turns + 1)))
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("turns", [0, 3])
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("size", [8, 13, 64])
def test_counts_are_those_of_the_labels(size: int, packing: bool, turns: int) -> None:
    """What the report says is lost is just what no model predicts from the blocks."""
    records = numbered(60, 12, turns)
    chosen = settings("x", block_size=size, packing=packing, prompt="inst")
    table = tokenize(records, chosen, OneTokenAWord())
    counted = count_cuts([table.lengths], size, packing, max_size=100)

    learned: Counter[int] = Counter()
    ended: set[int] = set()
    for start, stop in zip(table.offsets, table.offsets[1:], strict=False):
        assert stop - start <= size
        for place in range(start + 1, stop):  # no model predicts a block's first token
            token = int(table.ids[place])
            if table.learned[place] and token:
                learned[token] += 1
            elif table.learned[place]:
                ended.add(int(table.ids[place - 1]))
    answers = {n: len(record.output.split()) for n, record in enumerate(records, 1)}
    assert counted.records == len(records)
    assert counted.ends_lost == len(records) - len(ended)
    assert counted.answers_lost == sum(n not in {*learned, *ended} for n in answers)
    if not packing:
        assert counted.cut == counted.ends_lost
        assert counted.answers_cut == counted.cut - counted.answers_lost
        assert all(learned[n] == answers[n] for n in ended)


def test_the_proposed_sizes_hold_all_and_99_percent() -> None:
    """And no smaller one does."""
    lengths = tokenize(numbered(300, 30), settings("x", block_size=8), OneTokenAWord()).lengths
    proposed = count_cuts([lengths], 8, False, 8)

    def too_long(size: int) -> int:
        return count_cuts([lengths], size, False, 8).too_long

    assert too_long(proposed.all_size) == 0 < too_long(proposed.all_size - 1)
    assert too_long(proposed.most_size) <= 3 < too_long(proposed.most_size - 1)


def test_packed_counts_where_a_block_ends() -> None:
    """A tail that fills no block, an end token that begins one: neither is trained."""
    lengths = np.array([8, 9, 4])  # blocks of 8: [0, 8), [8, 16); the tail begins at 16
    counted = count_cuts([Lengths(np.array([2, 2, 2]), lengths, lengths)], 8, True, 8)
    assert (counted.cut, counted.answers_cut, counted.answers_lost, counted.ends_lost) == (
        2, 1, 1, 2
    )  # fmt: skip
    assert counted.too_long == 1


def test_the_account_of_a_file_whose_answers_are_all_cut(tmp_path, tokenizer) -> None:
    """A warning with the size that would hold them, in lines for a terminal of 80 columns."""
    long = [{"instruction": f"Count from {n}", "output": "1 2 3 " * (30 + n)} for n in range(200)]
    file = write(tmp_path / "long.json", long)
    report = load_data(settings(file, block_size=64), tokenizer).report
    cut, lost, size, limit = report.lines[1:]
    assert cut == "WARNING: 200 of 200 records (100%) are cut at 64 tokens"
    assert lost == "end tokens lost: 200, answers cut short: 200"
    assert "would hold 99% of the records, " in size
    assert limit == "this model takes at most 256 tokens: drop longer records"
    assert all(len(line) < 78 for line in report.lines[1:])
    assert "200 of 200 records (100%) are cut" in str(report)


def test_a_few_long_records_are_a_note_and_none_is_silence(tmp_path, tokenizer) -> None:
    """The word WARNING is for data that is mostly cut."""
    few = [*RECORDS, {"instruction": "Count.", "output": "1 2 " * 200}]
    report = load_data(settings(write(tmp_path / "few.json", few), **WHOLE), tokenizer).report
    assert report.cuts.cut == 1
    assert report.lines[1] == "1 of 61 records (2%) are cut at 256 tokens"
    assert "WARNING" not in str(report)
    short = write(tmp_path / "short.json", RECORDS[:30])
    assert len(load_data(settings(short, **WHOLE), tokenizer).report.lines) == 1


def test_packing_says_that_records_span_blocks(tmp_path, tokenizer) -> None:
    """It warns only where records are longer than any block."""
    short = [{"instruction": f"Say {n}.", "output": f"{n}"} for n in range(60)]
    file = write(tmp_path / "short.json", short)
    report = load_data(settings(file, packing=True, block_size=64, **WHOLE), tokenizer).report
    assert "records (" in report.lines[1]
    assert "span packed blocks of 64 tokens" in report.lines[1]
    assert "WARNING" not in str(report)
    long = write(tmp_path / "long.json", RECORDS)
    report = load_data(settings(long, packing=True, block_size=16, **WHOLE), tokenizer).report
    assert report.lines[1].startswith("WARNING: ")


def test_the_report_comes_from_the_cache_as_it_was(tmp_path, tokenizer) -> None:
    """The second load counts nothing and says the same."""
    file = write(tmp_path / "count.json", RECORDS)
    first, second = (load_data(settings(file, block_size=64), tokenizer).report for _ in range(2))
    assert first == second
    assert first.cuts.cut > 0
