"""What people hand in as data: read, or refused by an error that says what was found."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pytest
from data_setup import RECORDS, settings, write

from optbench_llm.data import data_fingerprint
from optbench_llm.data.fingerprint import summarise

pytestmark = pytest.mark.usefixtures("cache_folder")


@pytest.fixture
def reference(tmp_path: Path) -> str:
    """The fingerprint of the records as a JSON file."""
    return data_fingerprint(settings(write(tmp_path / "reference.json", RECORDS)))


@pytest.fixture(scope="module", autouse=True)
def _no_bars():
    datasets.disable_progress_bars()


def test_a_saved_data_set_is_read(tmp_path, reference) -> None:
    """One file, several, or a dictionary of splits, of which the train split is named."""
    saved = datasets.Dataset.from_list(RECORDS)
    saved.save_to_disk(tmp_path / "one")
    saved.shuffle(seed=1).save_to_disk(tmp_path / "shards", num_shards=3)
    splits = datasets.DatasetDict(train=saved, test=saved.select(range(3)))
    splits.save_to_disk(tmp_path / "splits")
    for name in ("one", "shards", "splits", "splits/train"):
        assert data_fingerprint(settings(tmp_path / name)) == reference
    assert str(summarise(settings(tmp_path / "splits")).report) == (
        f"{tmp_path / 'splits/train'}: 60 records"
    )
    assert summarise(settings(tmp_path / "splits/test")).report.records == 3


def test_a_saved_data_set_that_changed_is_read_again(tmp_path) -> None:
    """The cache goes by its Arrow files."""
    datasets.Dataset.from_list(RECORDS).save_to_disk(tmp_path / "saved")
    before = data_fingerprint(settings(tmp_path / "saved"))
    datasets.Dataset.from_list(RECORDS[:50]).save_to_disk(tmp_path / "saved")
    assert data_fingerprint(settings(tmp_path / "saved")) != before


def test_a_byte_order_mark_is_no_text(tmp_path, reference) -> None:
    """Windows' editors begin files with one."""
    file = write(tmp_path / "bom.jsonl", RECORDS)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert data_fingerprint(settings(file)) == reference


ALPACA = json.dumps(RECORDS)
REFUSED = {
    "a.csv": (b"instruction,output\na,b\n", r"ends in \.json, .*save_to_disk.*pandas: read_csv"),
    "a.json.gz": (gzip.compress(ALPACA.encode()), r"ends in \.json, .*gunzip"),
    "a.arrow": (b"", "name the folder that it lies in"),
    "utf16.json": (ALPACA.encode("utf-16"), "line 1: not UTF-8"),
    "data.json": (
        json.dumps({"version": 1, "data": RECORDS}).encode(),
        r"found an object with the keys 'version', 'data' \(the list under 'data' alone, perhaps\)",
    ),
    "columns.json": (
        json.dumps({"instruction": {"0": "a"}, "output": {"0": "b"}}).encode(),
        "found an object with the keys 'instruction', 'output'; expected objects",
    ),
    "completion.json": (
        json.dumps([{"prompt": "a", "completion": "b"}] * 9).encode(),
        r"9 without 'instruction'.*not used: 'completion' \(9\), 'prompt' \(9\).*Rename its keys",
    ),
    "messages.json": (
        json.dumps([{"messages": [{"role": "user", "content": "a"}]}] * 9).encode(),
        r"not used: 'messages' \(9\).*'instruction' and 'output'",
    ),
    "sharegpt.json": (
        json.dumps([{"conversations": [{"from": "human", "value": "a"}]}] * 9).encode(),
        r"not used: 'conversations' \(9\).*'instruction' and 'output'",
    ),
    "folder/a.json": (ALPACA.encode(), r"folder is a folder: name one file \(a\.json\)"),
    "empty/state.json": (b"{}", r"state\.json is damaged"),
    "files/state.json": (b'{"_data_files": [3]}', r"state\.json is damaged"),
    "lost/state.json": (b'{"_data_files": [{"filename": "x.arrow"}]}', r"x\.arrow is missing"),
    "splits/dataset_dict.json": (
        b'{"splits": ["test", "dev"]}',
        "expected a split 'train', found 'test', 'dev'; to train on another, name its folder",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_what_it_is(name, tmp_path) -> None:
    """The message names what was found and what was expected; nothing is a traceback."""
    content, message = REFUSED[name]
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data_fingerprint(settings(tmp_path / Path(name).parts[0]))


def test_keys_that_are_not_used_are_counted_and_named(tmp_path, reference) -> None:
    """The most frequent ones; a null is no value. They change no fingerprint."""
    values = [{**r, "id": i, f"k{i}" * 40: 1, "none": None} for i, r in enumerate(RECORDS)]
    file = write(tmp_path / "keys.json", values)
    report = summarise(settings(file)).report
    assert report.unread["id"] == 60
    assert (len(report.unread), report.further_unread) == (5, 56)
    (line,) = report.lines[1:]
    assert line.startswith("keys that are not used: 'id' (60), ")
    assert line.endswith(", 56 more")
    assert len(line) < 250
    assert data_fingerprint(settings(file)) == reference
