"""Instruction data: the same records give the same blocks, and bad ones are named."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from data_setup import RECORDS, settings, write
from pydantic import ValidationError
from transformers import AutoTokenizer

from optbench_llm.data import DataSettings, data_fingerprint, load_data, make_collator
from optbench_llm.data import fingerprint as fingerprint_module
from optbench_llm.data import records as records_module
from optbench_llm.data.prompts import ALPACA, ALPACA_WITH_INPUT, prompts_of
from optbench_llm.data.records import Record
from optbench_llm.data.split import split_records
from optbench_llm.models.locate import tiny_gpt2_folder

pytestmark = pytest.mark.usefixtures("cache_folder")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(tiny_gpt2_folder())


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    return write(tmp_path / "count.json", RECORDS)


def texts(blocks: Any, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(blocks[i]["input_ids"]) for i in range(len(blocks))]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_form_of_the_file_does_not_matter(suffix, data_file, tokenizer) -> None:
    """JSON, JSONL and Parquet with the same records, in any order, are the same data."""
    shuffled = random.Random(0).sample(RECORDS, len(RECORDS))
    other = write(data_file.with_suffix(suffix), shuffled)
    one, two = (load_data(settings(file), tokenizer) for file in (data_file, other))
    assert one.fingerprint == two.fingerprint
    assert one.train.digest == two.train.digest
    assert one.test.digest == two.test.digest


def test_fingerprint_tells_every_difference(data_file) -> None:
    """A changed record or setting changes the fingerprint; what may be tolerated does not."""
    base = data_fingerprint(settings(data_file))
    changes = [
        {"prompt": "inst"},
        {"mask_prompt": False},
        {"block_size": 64},
        {"packing": True},
        {"validation_fraction": 0.1},
        {"test_fraction": 0.1},
        {"max_records": 7},
    ]
    others = [data_fingerprint(settings(data_file, **change)) for change in changes]
    assert len({base, *others}) == len(changes) + 1
    assert data_fingerprint(settings(data_file, max_bad_fraction=0.5)) == base
    write(data_file, [*RECORDS[:-1], {**RECORDS[-1], "output": "changed"}])
    assert data_fingerprint(settings(data_file)) != base


def test_fingerprint_needs_no_torch(data_file) -> None:
    """A plan with thousands of trials is made before torch is imported."""
    code = (
        "import sys; from optbench_llm.data import DataSettings, data_fingerprint;"
        f"data_fingerprint(DataSettings(source={str(data_file)!r}));"
        "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def as_records(values: list[dict]) -> list[Record]:
    return sorted((Record(**value) for value in values), key=lambda record: record.digest)


def test_copies_of_a_record_never_straddle_a_split() -> None:
    """What is evaluated on was not trained on, also where a file repeats itself."""
    splits = split_records(as_records(RECORDS * 3), settings("x", validation_fraction=0.3))
    train, validation, test = map(set, splits)
    assert sum(map(len, splits)) == 3 * len(RECORDS)
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert len(validation) == 18


def test_max_records_thins_every_split_alike() -> None:
    """The cut and the split are independent: no split is cut away."""
    splits = split_records(as_records(RECORDS), settings("x", max_records=40, test_fraction=0.2))
    assert [len(split) for split in splits] == [30, 2, 8]


def test_too_few_records_for_a_split_is_an_error(tmp_path, tokenizer) -> None:
    """Rather than an evaluation loss of NaN at the end."""
    file = write(tmp_path / "two.json", RECORDS[:2])
    with pytest.raises(ValueError, match="too few"):
        load_data(settings(file), tokenizer)
    whole = load_data(settings(file, validation_fraction=0, test_fraction=0), tokenizer)
    assert (len(whole.train), len(whole.validation)) == (2, 0)


def test_prompts_are_the_published_ones() -> None:
    """Stanford Alpaca's texts and LMFlow's template, to the letter."""
    record = Record("Add {them}.", "1 2", "3")
    assert prompts_of(record, "inst") == ["[INST] Add {them}.\n1 2 [/INST]"]
    assert prompts_of(record._replace(input=" "), "inst") == ["[INST] Add {them}. [/INST]"]
    assert prompts_of(record, "alpaca") == [
        ALPACA_WITH_INPUT.format(instruction="Add {them}.", input="1 2")
    ]
    assert prompts_of(record._replace(input=""), "alpaca") == [
        ALPACA.format(instruction="Add {them}.")
    ]
    assert ALPACA_WITH_INPUT.endswith(
        "the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    )


def test_answer_and_end_are_learned_and_the_prompt_is_not(data_file, tokenizer) -> None:
    """The labels, decoded, are exactly the answers with the end token."""
    blocks = load_data(settings(data_file, block_size=256), tokenizer).train
    answers = {record["output"] + tokenizer.eos_token for record in RECORDS}
    seen = 0
    for index in range(len(blocks)):
        item = blocks[index]
        assert len(item["input_ids"]) == len(item["labels"]) == len(item["attention_mask"])
        learned = tokenizer.decode(item["labels"][item["labels"] != -100])
        if len(item["labels"]) < 256:  # not cut
            assert learned in answers
            seen += 1
    assert seen > 20


def test_without_mask_everything_is_learned(data_file, tokenizer) -> None:
    """mask_prompt=False: labels equal the input."""
    blocks = load_data(settings(data_file, mask_prompt=False), tokenizer).train
    assert torch.equal(blocks[0]["labels"], blocks[0]["input_ids"])
    assert blocks.learned_tokens == blocks.tokens


def test_blocks_without_anything_to_learn_are_dropped_and_counted(tmp_path, tokenizer) -> None:
    """A prompt that fills the block leaves no label; a batch of such would have loss NaN."""
    long = [{"instruction": f"long {n} " * 200, "output": "yes"} for n in range(10)]
    file = write(tmp_path / "long.json", RECORDS + long)
    data = load_data(settings(file, validation_fraction=0, test_fraction=0), tokenizer)
    assert data.report.untrained == 10
    assert len(data.train) == len(RECORDS)
    assert "10 records dropped" in str(data.report)
    assert all((data.train[i]["labels"][1:] != -100).any() for i in range(len(data.train)))
    only = write(tmp_path / "only.json", long)
    with pytest.raises(ValueError, match="block_size above 256"):
        load_data(settings(only), tokenizer)


def test_packed_blocks_are_full_and_keep_every_token_in_order(data_file, tokenizer) -> None:
    """Packing cuts one row of all records into whole blocks, and loses its tail only."""
    chosen = {"validation_fraction": 0, "test_fraction": 0, "mask_prompt": False}
    padded = load_data(settings(data_file, **chosen), tokenizer).train
    packed = load_data(settings(data_file, **chosen, packing=True, block_size=64), tokenizer).train
    assert set(packed.lengths) == {64}
    row = torch.cat([packed[i]["input_ids"] for i in range(len(packed))])
    first = padded[0]["input_ids"]
    assert torch.equal(row[: len(first)], first)
    assert row.eq(tokenizer.eos_token_id).sum() >= len(RECORDS) // 2
    assert 0 <= padded.tokens - len(row) < 64


def test_collator_pads_to_eight_and_learns_no_padding(data_file, tokenizer) -> None:
    """The end token pads where there is no pad token, without being learned or attended to."""
    blocks = load_data(settings(data_file), tokenizer).train
    items = [blocks[i] for i in range(5)]
    batch = make_collator(tokenizer)(items)
    longest = max(len(item["input_ids"]) for item in items)
    assert {tuple(v.shape) for v in batch.values()} == {(5, -(-longest // 8) * 8)}
    assert all(v.dtype == torch.int64 for v in batch.values())
    for row, item in enumerate(items):
        length = len(item["input_ids"])
        assert batch["attention_mask"][row].sum() == length
        assert torch.equal(batch["labels"][row, :length], item["labels"])
        assert (batch["labels"][row, length:] == -100).all()
        assert (batch["input_ids"][row, length:] == tokenizer.eos_token_id).all()


def test_block_size_beyond_the_model_is_refused(data_file, tokenizer) -> None:
    """Before training, and not by an index error inside it."""
    with pytest.raises(ValueError, match="block_size=512 is more than the 256"):
        load_data(settings(data_file, block_size=512), tokenizer)


def test_a_damaged_cache_is_rebuilt(data_file, tokenizer, cache_folder) -> None:
    """Neither a cut nor a flipped byte in any cached file changes a result."""
    before = load_data(settings(data_file), tokenizer)
    files = [path for path in cache_folder.glob("*/*") if path.name != ".lock"]
    assert len(files) == 2
    for damage in (lambda content: content[: len(content) // 2], lambda c: c[:-1] + b"?"):
        for path in files:
            path.write_bytes(damage(path.read_bytes()))
        after = load_data(settings(data_file), tokenizer)
        assert after.train.digest == before.train.digest
        assert after.report == before.report


def test_the_second_load_tokenizes_nothing(data_file, tokenizer) -> None:
    """Cached blocks come without a call of the tokenizer; another tokenizer gets its own."""
    before = load_data(settings(data_file), tokenizer)

    class Silent:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    assert load_data(settings(data_file), Silent()).train.digest == before.train.digest
    other = AutoTokenizer.from_pretrained(tiny_gpt2_folder())
    other.add_tokens(["Count"])
    assert load_data(settings(data_file), other).train.digest != before.train.digest


def test_an_unwritable_cache_says_what_to_set(tmp_path, data_file, monkeypatch) -> None:
    """The cache is the user's to place."""
    monkeypatch.setenv("OPTBENCH_CACHE", str(data_file / "below-a-file"))
    with pytest.raises(ValueError, match="set OPTBENCH_CACHE"):
        data_fingerprint(settings(data_file))


DEEP = "[" * 100_000
BAD_FILES = {
    "deep.json": (DEEP, r"deep\.json: nested too deeply; expected objects with 'instruction'"),
    "deep.jsonl": (f"{{}}\n{DEEP}", r"deep\.jsonl, line 2: nested too deeply"),
    "cut.json": ('[{"instruction": "a",\n "output": "b"},\n {"instruction"', r"cut\.json, line 3"),
    "lines.json": ('{"a": 1}\n{"a": 2}\n', r"lines\.json, line 2.*name it \.jsonl"),
    "cut.jsonl": ('{"instruction": "a", "output": "b"}\n\n{"instr', r"cut\.jsonl, line 3"),
    "object.json": (
        '{"instruction": "a"}',
        "expected a JSON list, found an object with the keys 'instruction';",
    ),
    "blank.json": ("  \n", "is empty"),
    "none.json": ("[]", "holds no records"),
    "none.jsonl": ("\n\n", "holds no records"),
    "bytes.parquet": ("no parquet", "not a readable Parquet file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_malformed_file_is_named_with_its_line(name, tmp_path) -> None:
    """The message says which file, where, and what is wrong."""
    content, message = BAD_FILES[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        data_fingerprint(settings(tmp_path / name))


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path) -> None:
    """Latin-1 files are common, and must not end in a traceback of the decoder."""
    (tmp_path / "latin.jsonl").write_bytes('{}\n{"instruction": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.jsonl, line 2: not UTF-8"):
        data_fingerprint(settings(tmp_path / "latin.jsonl"))


def test_numbers_do_not_matter_however_long(tmp_path) -> None:
    """Python's limit on the digits of an integer is none of the data's; an answer is a string."""
    long = "9" * 5000
    lines = [json.dumps(record)[:-1] + f', "id": {long}}}' for record in RECORDS]
    file = tmp_path / "long.jsonl"
    file.write_text("\n".join(lines))
    clean = write(tmp_path / "clean.jsonl", RECORDS)
    assert data_fingerprint(settings(file)) == data_fingerprint(settings(clean))
    file.write_text(f'{{"instruction": "Count.", "output": {long}}}')
    with pytest.raises(ValueError, match="'output' that is no string"):
        data_fingerprint(settings(file))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("~nobody-of-that-name/x.json", "the folder ~nobody-of-that-name does not exist"),
        ("x" * 300, "cannot be looked up: File name too long"),
        ("x" * 300 + ".json", "cannot be looked up: File name too long"),
        ("a\0b.json", "cannot be looked up: embedded null byte"),
    ],
)
def test_an_impossible_name_is_an_error_that_repeats_it(name, message) -> None:
    """Whatever is typed or pasted as a source."""
    with pytest.raises(ValueError, match=message):
        data_fingerprint(settings(name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("what", [".", "count.json"])
def test_what_may_not_be_read_is_named(what, data_file) -> None:
    """A file or its folder without permission."""
    forbidden = data_file.parent / what
    mode = forbidden.stat().st_mode
    forbidden.chmod(0)
    try:
        with pytest.raises(ValueError, match=r"count\.json.*Permission denied"):
            data_fingerprint(settings(data_file))
    finally:
        forbidden.chmod(mode)


def test_counts_of_an_older_checker_are_not_used(data_file, monkeypatch) -> None:
    """After an upgrade that checks otherwise, unchanged data is checked anew."""
    before = data_fingerprint(settings(data_file))
    monkeypatch.setattr(fingerprint_module, "_checker_version", lambda: "another")
    monkeypatch.setattr(records_module, "_check", lambda value: "with a flaw")
    fingerprint_module._read_records.cache_clear()
    with pytest.raises(ValueError, match="with a flaw"):
        data_fingerprint(settings(data_file))
    monkeypatch.undo()
    fingerprint_module._read_records.cache_clear()
    assert data_fingerprint(settings(data_file)) == before


HISTORY = "with a 'history' that is no list of .instruction, answer. pairs"
BAD_RECORDS = {
    "without 'instruction'": {"output": "b"},
    "without 'output'": {"instruction": "a"},
    "with an empty 'output'": {"instruction": "a", "output": " "},
    "with an 'output' that is no string": {"instruction": "a", "output": 3},
    "with an 'input' that is no string": {"instruction": "a", "input": ["x"], "output": "b"},
    "with a 'system' that is no string": {"instruction": "a", "output": "b", "system": {"x": 1}},
    HISTORY: {"instruction": "a", "output": "b", "history": [{"role": "user", "content": "a"}]},
    "with an empty text in 'history'": {"instruction": "a", "output": "b", "history": [["a", ""]]},
    "not an object": ["a", "b"],
    "no valid Unicode": {"instruction": "\ud800", "output": "b"},
}


@pytest.mark.parametrize("reason", BAD_RECORDS)
def test_bad_records_are_counted_named_and_refused_above_the_limit(reason, tmp_path) -> None:
    """The limit decides; below it the record is left out and the report says so."""
    file = write(tmp_path / "some.jsonl", [*RECORDS, BAD_RECORDS[reason]])
    with pytest.raises(ValueError, match=f"(?s){reason}.*line 61.*max_bad_fraction=0.01"):
        data_fingerprint(settings(file))
    # The refusal must also hold when the count comes from the cache.
    with pytest.raises(ValueError, match=reason):
        data_fingerprint(settings(file))
    clean = write(tmp_path / "clean.jsonl", RECORDS)
    tolerant = data_fingerprint(settings(file, max_bad_fraction=0.02))
    assert tolerant == data_fingerprint(settings(clean))


def test_a_parquet_file_of_other_columns_names_them(tmp_path) -> None:
    """Rather than 100 % bad records."""
    file = write(tmp_path / "other.parquet", [{"prompt": "a", "output": "b"}])
    with pytest.raises(ValueError, match=r"no column instruction \(columns: prompt, output\)"):
        data_fingerprint(settings(file))


def test_a_missing_file_lists_its_nearest_neighbours(data_file) -> None:
    """A typing error is the usual reason."""
    with pytest.raises(ValueError, match=r"coumt\.json: in .* there is count\.json"):
        data_fingerprint(settings(data_file.with_name("coumt.json")))
    with pytest.raises(ValueError, match="is a folder: name one file"):
        data_fingerprint(settings(data_file.parent))
    with pytest.raises(ValueError, match="only one is 'optbench:pydocs'"):
        data_fingerprint(settings("optbench:pydoc"))


def test_a_hub_id_without_network_says_how_to_run_offline(monkeypatch, tmp_path) -> None:
    """At once, with the ways that need no network."""
    code = (
        "from optbench_llm.data import DataSettings, data_fingerprint;"
        "data_fingerprint(DataSettings(source='tatsu-lab/alpaca'))"
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert "To run offline, give a .json, .jsonl, .parquet file" in done.stderr
    assert "optbench:pydocs" in done.stderr


def test_a_downloaded_hub_dataset_works_offline(monkeypatch, tmp_path) -> None:
    """What lies in the hub's cache is read, and only its train files."""
    repo = tmp_path / "hub" / "datasets--someone--counting"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    data = repo / "snapshots" / ("0" * 40) / "data"
    data.mkdir(parents=True)
    write(data / "train-00000-of-00001.parquet", RECORDS)
    write(data / "test-00000-of-00001.parquet", RECORDS[:5])
    code = (
        "from optbench_llm.data import DataSettings, data_fingerprint;"
        "print(data_fingerprint(DataSettings(source='someone/counting')))"
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    clean = data_fingerprint(settings(write(tmp_path / "clean.json", RECORDS)))
    assert done.stdout.strip() == clean, done.stderr


def test_settings_refuse_what_they_do_not_know() -> None:
    """A misspelt key is an error, not a default."""
    with pytest.raises(ValidationError, match="block_sise"):
        settings("x", block_sise=3)
    with pytest.raises(ValidationError, match="leaves nothing to train on"):
        settings("x", validation_fraction=0.6, test_fraction=0.4)


def test_alpaca_records_load_without_loss(alpaca_file, tokenizer) -> None:
    """Every record is usable, and comes out as it went in."""
    records = json.loads(alpaca_file.read_text(encoding="utf-8"))
    data = load_data(settings(alpaca_file, validation_fraction=0.1), tokenizer)
    assert (data.report.records, data.report.bad_records) == (len(records), 0)
    blocks = len(data.train) + len(data.validation) + len(data.test)
    assert blocks + data.report.untrained == len(records)
    everything = "".join(
        t for split in (data.train, data.validation, data.test) for t in texts(split, tokenizer)
    )
    assert records[0]["instruction"] in everything
    assert records[0]["output"][:40] in everything, "a long answer is cut, and only at its end"


def test_a_shortened_validation_split_keeps_the_first_blocks_and_the_rest_of_the_splits(tokenizer):
    """What a quick evaluation looks at is a prefix of what a whole one does."""
    splits = load_data(DataSettings(source="optbench:pydocs", max_records=400), tokenizer)
    shorter = splits.with_eval_blocks(5)
    assert len(shorter.validation) == 5 < len(splits.validation)
    for index in range(5):
        item, whole = shorter.validation[index], splits.validation[index]
        assert torch.equal(item["input_ids"], whole["input_ids"])
    assert shorter.train is splits.train
    assert splits.with_eval_blocks(None) is splits
