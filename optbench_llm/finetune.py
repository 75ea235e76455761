"""Fine-tune one model with one optimizer: `accelerate launch -m optbench_llm.finetune`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import ValidationError
from rich.console import Console
from transformers.utils import logging as transformers_logging

from optbench_llm.data import DataSettings, check_enough_blocks, data_fingerprint, load_data
from optbench_llm.devices import gpus
from optbench_llm.hub import check_login, upload
from optbench_llm.launch import is_launched_here, launch
from optbench_llm.leaderboard.environment import describe_environment
from optbench_llm.models import load_model, model_fingerprint
from optbench_llm.providers import canonical_spec
from optbench_llm.stopping import exit_code, heeding_signals, signal_of
from optbench_llm.training.arguments import OptBenchArguments
from optbench_llm.training.checkpoints import can_resume, check_resumable
from optbench_llm.training.flags import FlagParser, take
from optbench_llm.training.lora import with_lora
from optbench_llm.training.progress import Beginning, FinetuneProgress, result_line
from optbench_llm.training.run import run_training
from optbench_llm.training.run_folder import RunFolder

if TYPE_CHECKING:
    from transformers import TrainerCallback

#: Settings of a run that say where and how often something is written, not what comes out.
UNDECISIVE = {
    "output_dir", "run_name", "resume_from_checkpoint", "report_to", "project", "disable_tqdm",
    "log_level", "log_level_replica", "log_on_each_node", "logging_strategy", "logging_steps",
    "logging_first_step", "save_strategy", "save_steps", "save_total_limit", "save_on_each_node",
    "per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size",
    "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers",
}  # fmt: skip


@dataclass
class FinetuneArguments:
    """Model, data and folder of a fine-tuning run; the rest are training arguments."""

    model: str = field(
        default="optbench:tiny-gpt2",
        metadata={"help": "Hub id, folder, .gguf file, random:CONFIG or optbench:NAME."},
    )
    data: str = field(
        default="optbench:pydocs",
        metadata={
            "help": "Alpaca-format .json, .jsonl or .parquet, a save_to_disk folder, a hub id, or"
            " optbench:pydocs."
        },
    )
    prompt: Literal["alpaca", "inst"] = field(
        default="alpaca", metadata={"help": "Prompt: Alpaca's, or [INST] ... [/INST]."}
    )
    mask_prompt: bool = field(
        default=True, metadata={"help": "Leave the prompt's tokens out of the loss."}
    )
    block_size: int = field(default=256, metadata={"help": "Tokens in a block."})
    packing: bool = field(
        default=False, metadata={"help": "Fill blocks with several records instead of padding."}
    )
    max_bad_fraction: float = field(
        default=0.01, metadata={"help": "Share of unusable records above which data is refused."}
    )
    max_eval_blocks: int | None = field(
        default=None,
        metadata={"help": "Evaluate on the first blocks of the validation split only."},
    )
    lora_r: int | None = field(
        default=None, metadata={"help": "Train LoRA adapters of this rank instead of the model."}
    )
    lora_alpha: int | None = field(
        default=None, metadata={"help": "Scale of the adapters. Default: twice the rank."}
    )
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Modules that get adapters. Default: peft's choice."}
    )
    num_processes: int = field(
        default=1,
        metadata={"help": "Start this many processes here; for several machines use torchrun."},
    )
    fsdp2: bool = field(
        default=False,
        metadata={"help": "Shard weights, gradients and optimizer state over all processes."},
    )
    resume: bool = field(
        default=False, metadata={"help": "Go on from the last checkpoint in the output folder."}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Replace the run that the output folder holds."}
    )

    def __post_init__(self) -> None:
        for name in ("lora_alpha", "lora_target_modules"):
            if self.lora_r is None and getattr(self, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} has no effect without --lora-r")
        if self.max_eval_blocks is not None and self.max_eval_blocks < 1:
            raise ValueError(f"--max-eval-blocks {self.max_eval_blocks}: expected 1 or more")
        if self.num_processes < 1:
            raise ValueError(f"--num-processes {self.num_processes}: expected 1 or more")
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other")

    def data_settings(self) -> DataSettings:
        """Settings for the data room. Raises ValueError naming the flag that is wrong."""
        flags = {"source": self.data, "prompt": self.prompt, "mask_prompt": self.mask_prompt}
        flags |= {"block_size": self.block_size, "packing": self.packing}
        flags |= {"max_bad_fraction": self.max_bad_fraction}
        try:
            return DataSettings.model_validate(flags)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "data"
            flag = "data" if name == "source" else name.replace("_", "-")
            raise ValueError(f"--{flag} {first['input']!r}: {first['msg']}") from None


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Exits with 2 on wrong input, with 1 when the run diverged, with 130 when Ctrl-C ended it, with
    143 or 129 when SIGTERM or SIGHUP did.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    beginning = Beginning()
    folder = Path()
    try:
        with nullcontext() if _is_later_rank() else heeding_signals():
            argv = sys.argv[1:] if argv is None else argv
            options, args = parse_arguments(argv)
            folder = Path(args.output_dir or "")
            if options.num_processes > 1 and "RANK" not in os.environ:
                _in_processes(options.num_processes, argv)
                return
            result = finetune(options, args, callbacks=[beginning])
    except ValueError as error:
        if beginning.is_over:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as interrupt:
        if not _is_later_rank() and not is_launched_here():
            print(_farewell(signal_of(interrupt), folder), file=sys.stderr)
        raise SystemExit(exit_code(signal_of(interrupt))) from None
    if result["status"] != "done":
        raise SystemExit(1)


def _is_later_rank() -> bool:
    """Whether this is one of several processes, and not the first.

    Such a one has nothing to say, and dies of a signal at once: Python would not see to it before
    a collective operation ends.
    """
    return os.environ.get("RANK", "0") != "0"


def _farewell(number: signal.Signals, folder: Path) -> str:
    """What an interrupted run leaves, and how to go on."""
    how = "interrupted" if number == signal.SIGINT else f"interrupted by {number.name}"
    if "RANK" in os.environ and number == signal.SIGTERM:
        how += " (as torchrun does when another process has failed)"
    if can_resume(folder):
        return f"{how}; --resume goes on from the last checkpoint"
    return f"{how}; there is no checkpoint to go on from yet"


def _in_processes(count: int, argv: Sequence[str]) -> None:
    """Run the command in so many processes of this machine, and end as they do.

    Raises:
        KeyboardInterrupt: a signal told this process to end; the others are gone.
    """
    _, devices = gpus()
    if devices and count > devices:
        raise ValueError(f"--num-processes {count}: this machine has {devices} GPUs, one for each")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // count)))
    code = launch(count, ["-m", "optbench_llm.finetune", *argv])
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def parse_arguments(argv: Sequence[str]) -> tuple[FinetuneArguments, OptBenchArguments]:
    """Parse flags. Raises ValueError for whatever can be known to be wrong before loading."""
    parser = FlagParser((FinetuneArguments, OptBenchArguments), prog="optbench-llm finetune")
    parser.set_defaults(
        num_train_epochs=1.0,
        logging_steps=10,
        save_steps=0.1,
        save_total_limit=2,
        disable_tqdm=True,
    )
    namespace = parser.parse(argv)
    options = take(FinetuneArguments, namespace)
    if namespace.output_dir is None:
        spec = canonical_spec(namespace.optim)
        namespace.output_dir = f"runs/finetune/{_slug(options.model)}-{_slug(spec)}"
    return options, take(OptBenchArguments, namespace)


def finetune(
    options: FinetuneArguments,
    args: OptBenchArguments,
    *,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train, save model and tokenizer, and return what ``result.json`` holds.

    Raises ValueError for a model, data or folder that cannot be used.
    """
    transformers_logging.disable_progress_bar()
    console = Console(quiet=not args.should_save, highlight=False)
    data = options.data_settings()
    settings = _decisive_settings(options, args, data)
    if options.fsdp2 and args.world_size == 1:
        raise ValueError(
            "--fsdp2 shards a model over several processes, and this is one; start more with"
            " --num-processes, or with torchrun"
        )
    if args.push_to_hub and args.should_save:
        check_login("--push-to-hub", args.hub_token)
    folder = RunFolder(args.output_dir or "")
    resume = options.resume or args.resume_from_checkpoint is not None
    checkpoint = folder.open(settings, resume=resume, overwrite=options.overwrite)
    if args.resume_from_checkpoint is not None:
        checkpoint = Path(args.resume_from_checkpoint)
    finished = folder.result() if resume else None
    if finished is not None:
        console.print(f"already finished: {result_line(finished)}")
        _push(finished, args, folder.path, console)
        return finished
    if checkpoint is not None:
        check_resumable(checkpoint)
    if resume:
        console.print(f"resuming from {checkpoint or 'the beginning, there is no checkpoint yet'}")
    loaded = load_model(
        options.model, seed=args.seed, shards=args.world_size if options.fsdp2 else 1
    )
    splits = load_data(data, loaded.tokenizer).with_eval_blocks(options.max_eval_blocks)
    check_enough_blocks(splits, args.world_size)
    console.print(splits.report.page, markup=False, soft_wrap=True)
    model: Any = loaded.model
    if options.lora_r is not None:
        targets = options.lora_target_modules
        model = with_lora(model, options.lora_r, options.lora_alpha, targets, seed=args.seed)
    if args.should_save:
        folder.begin(settings, overwrite=options.overwrite)
    progress = FinetuneProgress(console, args)
    record = run_training(
        model,
        loaded.tokenizer,
        splits,
        args,
        resume_from=checkpoint,
        on_step=progress.on_step,
        callbacks=[progress, *callbacks],
    )
    values = record.to_dict()
    curves = values.pop("curves")
    result = {**values, **curves, "settings": settings, "environment": describe_environment()}
    if record.status == "done" and (args.should_save or options.fsdp2):
        # Sharded weights are put together by all processes and written by the first.
        model.save_pretrained(folder.path)
    if args.should_save:
        if record.status == "done":
            loaded.tokenizer.save_pretrained(folder.path)
        folder.write_result(result)
    console.print(result_line(result), soft_wrap=True)
    console.print(f"written to {folder.path}")
    _push(result, args, folder.path, console)
    return result


def _push(result: dict[str, Any], args: OptBenchArguments, folder: Path, console: Console) -> None:
    """Put the trained model and its card on the hub, where that is asked for."""
    if not (args.push_to_hub and args.should_save and result["status"] == "done"):
        return
    from optbench_llm.report.model_card import model_card

    repo = args.hub_model_id or folder.resolve().name
    card = model_card(result, repo.rpartition("/")[2])
    (folder / "README.md").write_text(card, encoding="utf-8")
    url = upload(
        folder,
        repo,
        "model",
        "--push-to-hub",
        message="End of training",
        private=args.hub_private_repo,
        token=args.hub_token,
        ignore=["checkpoint-*", "_*"],
    )
    console.print(f"pushed to {url}")


def _decisive_settings(
    options: FinetuneArguments, args: OptBenchArguments, data: DataSettings
) -> dict[str, Any]:
    training = {k: v for k, v in args.to_dict().items() if k not in UNDECISIVE}
    # Any number of processes may go on, with batches that come to as much.
    batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    lora = {"r": options.lora_r, "alpha": options.lora_alpha, "on": options.lora_target_modules}
    return {
        "model": options.model,
        "model_fingerprint": model_fingerprint(options.model),
        "data": data.model_dump(mode="json"),
        "data_fingerprint": data_fingerprint(data),
        "max_eval_blocks": options.max_eval_blocks,
        "lora": lora if options.lora_r is not None else None,
        "global_train_batch_size": batch,
        **training,
    }


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._" else "-" for c in text.rstrip("/").split("/")[-1])


if __name__ == "__main__":
    main()
