"""Make the weights and the tokenizer of ``optbench:tiny-gpt2`` from docstrings of other packages.

The text is the prose of docstrings in permissively licensed distributions, found in the folders
given (a site-packages folder, or unpacked wheels). Whatever the standard library says too is left
out, so that ``optbench:pydocs`` stays unseen. The same text, steps and seed give the same corpus
and tokenizer; weights agree up to the floating-point order of the machine.

    python benchmarks/pretrain_tiny_gpt2.py FOLDER... --out optbench_llm/assets/tiny-gpt2
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import Distribution, distributions
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from optbench_llm.data.docstrings import documented, python_sources
from optbench_llm.data.pydocs import NOT_PROSE, SKIPPED_FOLDERS, standard_library

END = "<|endoftext|>"
CONTEXT = 256
VOCABULARY = 2048
PERMISSIVE = {
    "Apache-2.0": "accelerate aiohttp boto3 datasets diffusers flax huggingface-hub jax keras "
    "lightning nltk optax peft pymc requests tensorboard tensorflow tokenizers torchmetrics "
    "tornado transformers trl xarray openai",
    "BSD": "astropy bokeh click dask distributed django flask geopandas httpx ipython jinja2 "
    "mpmath networkx numba numpy pandas pygments scikit-image scikit-learn scipy seaborn shapely "
    "sphinx starlette statsmodels sympy torch torchvision fsspec psutil",
    "MIT": "anyio bitsandbytes fastapi mypy pip polars pydantic pydantic-settings pytest rich "
    "setuptools sqlalchemy trio twisted typer urllib3 virtualenv platformdirs llama-cpp-python",
    "MIT-CMU": "pillow",
    "PSF-based": "matplotlib",
    "Biopython": "biopython",
}
LICENCES = {name: licence for licence, names in PERMISSIVE.items() for name in names.split()}
LEFT_OUT = re.compile(r"(^|/)(tests?|testing|_vendor|vendored|externals|_vendored_packages)/")


@dataclass(frozen=True)
class Package:
    """A distribution whose docstrings were read."""

    name: str
    version: str
    licence: str
    documents: int
    characters: int


def fingerprint(paragraph: str) -> bytes:
    """Equal for paragraphs that differ in case, spacing or punctuation alone."""
    return blake2b(re.sub(r"\W+", "", paragraph.lower()).encode(), digest_size=12).digest()


def paragraphs(doc: str) -> list[str]:
    blocks = re.split(r"\n\s*\n", doc)
    return [" ".join(b.split()) for b in blocks if b.strip() and not NOT_PROSE.search(b)]


def standard_library_paragraphs() -> set[bytes]:
    seen = set()
    for module, path in python_sources(standard_library(), SKIPPED_FOLDERS):
        try:
            for thing in documented(path.read_bytes(), module):
                seen.update(map(fingerprint, paragraphs(thing.doc)))
        except (SyntaxError, ValueError):
            continue
    return seen


def documents(distribution: Distribution, seen: set[bytes]) -> Iterator[str]:
    """One text for each documented thing; a paragraph that was ``seen`` is not given again."""
    for file in sorted(distribution.files or (), key=str):
        name = file.as_posix()
        if not name.endswith(".py") or LEFT_OUT.search(name) or name.startswith(".."):
            continue
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        try:
            things = list(documented(Path(str(file.locate())).read_bytes(), module))
        except (SyntaxError, ValueError, OSError, RecursionError):
            continue
        for thing in things:
            fresh = []
            for paragraph in paragraphs(thing.doc):
                key = fingerprint(paragraph)
                if key not in seen:
                    seen.add(key)
                    fresh.append(paragraph)
            if fresh:
                yield f"{thing.name}{thing.signature}\n" + "\n".join(fresh)


def read_corpus(folders: list[str]) -> tuple[list[str], list[Package]]:
    """All documents, package by package in the order of their names."""
    found = {}
    for distribution in distributions(path=folders):
        found.setdefault(distribution.name.lower().replace("_", "-"), distribution)
    seen = standard_library_paragraphs()
    texts, packages = [], []
    for name in sorted(LICENCES.keys() & found.keys()):
        new = list(documents(found[name], seen))
        size = sum(map(len, new))
        packages.append(Package(name, found[name].version, LICENCES[name], len(new), size))
        texts += new
    return texts, packages


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """GPT-2's kind of tokenizer, byte-level BPE, with a vocabulary of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def encode(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """One long row of tokens, every document ended by the end token."""
    rows = []
    for start in range(0, len(texts), 4096):
        part = texts[start : start + 4096]
        for ids in tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]:
            rows.append(torch.tensor([*ids, tokenizer.eos_token_id], dtype=torch.int16))
    return torch.cat(rows)


def batches(tokens: torch.Tensor, size: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """Windows of the row in random order, epoch after epoch."""
    generator = torch.Generator().manual_seed(seed)
    windows = (len(tokens) - 1) // CONTEXT
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(windows, generator=generator)])
        chosen, order = order[:size], order[size:]
        yield torch.stack([tokens[i * CONTEXT : (i + 1) * CONTEXT] for i in chosen.tolist()]).long()


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, tokens: torch.Tensor) -> float:
    model.eval()
    rows = tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT).long()[:256]
    losses = [model(input_ids=part, labels=part).loss for part in rows.split(32)]
    model.train()
    return torch.stack(losses).mean().item()


def pretrain(
    train: torch.Tensor, held_out: torch.Tensor, args: argparse.Namespace
) -> tuple[GPT2LMHeadModel, float]:
    """AdamW with a linear warm-up and a cosine to a tenth of the learning rate."""
    torch.manual_seed(args.seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=128,
        n_layer=6,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        # Far fewer parameters than tokens: nothing to regularise, and runs without dropout
        # are faster and comparable step by step.
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=True)
    started = time.perf_counter()
    for step, batch in enumerate(batches(train, args.batch_size, args.steps, args.seed)):
        progress = step / args.steps
        cosine = 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / args.warmup) * cosine
        with torch.autocast("cpu", torch.bfloat16):  # 1.6 times the tokens per second of fp32
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            speed = (step + 1) * args.batch_size * CONTEXT / (time.perf_counter() - started)
            print(f"step {step:6d}  loss {loss.item():.4f}  {speed:,.0f} tokens/s", flush=True)
    return model, held_out_loss(model, held_out)


def model_card(packages: list[Package], facts: dict[str, str]) -> str:
    lines = [
        "# tiny-gpt2",
        "",
        "GPT-2's architecture in miniature, made to compare optimizers with where no network is at",
        "hand. It has read docstrings of the Python packages below and nothing else: it is no",
        "assistant, and its losses are not GPT-2's.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in facts.items()),
        "",
        "Made by `benchmarks/pretrain_tiny_gpt2.py`. Weights are stored in fp16 and trained on in",
        "fp32. Dropout is 0: runs are faster, and comparable step by step. The tokenizer is a",
        "byte-level BPE trained on the same text. Paragraphs were taken once each, and none that",
        "stands in a docstring of the Python standard library, of which `optbench:pydocs` is made.",
        "",
        "## Text",
        "",
        "| package | version | licence | documents | characters |",
        "|---|---|---|---:|---:|",
        *(
            f"| {p.name} | {p.version} | {p.licence} | {p.documents:,} | {p.characters:,} |"
            for p in packages
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", help="folders with installed or unpacked wheels")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    started = time.perf_counter()
    texts, packages = read_corpus(args.folders)
    random.Random(args.seed).shuffle(texts)
    print(f"{len(texts):,} documents, {sum(map(len, texts)):,} characters", flush=True)
    tokenizer = train_tokenizer(texts)
    tokens = encode(texts, tokenizer)
    held_out, train = tokens[: CONTEXT * 256], tokens[CONTEXT * 256 :]
    print(f"{len(tokens):,} tokens after {time.perf_counter() - started:.0f} s", flush=True)
    model, loss = pretrain(train, held_out, args)
    parameters = sum(p.numel() for p in model.parameters())
    seen = args.steps * args.batch_size * CONTEXT
    schedule = f"lr {args.lr:g}, {args.warmup} steps of warm-up, cosine to a tenth"
    facts = {
        "parameters": f"{parameters:,}",
        "shape": "6 layers, 4 heads, width 128, context 256, vocabulary 2,048, tied embeddings",
        "text": f"{len(texts):,} documents, {len(tokens):,} tokens",
        "training": f"{args.steps:,} steps of {args.batch_size} x {CONTEXT} = {seen:,} tokens",
        "optimizer": f"AdamW, {schedule}, bf16 autocast",
        "held-out loss": f"{loss:.3f} nats per token (uniform: {math.log(VOCABULARY):.2f})",
        "licence": "Apache-2.0",
    }
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    (args.out / "README.md").write_text(model_card(packages, facts), encoding="utf-8")
    print(f"held-out loss {loss:.4f} after {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
