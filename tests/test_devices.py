"""Accelerators of every kind: no float64 where there is none, their random numbers, their clocks.

None is needed: tensors that only claim to be on one, and stand-ins where torch would ask it.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_setup import trainer
from transformers import TrainerCallback

from optbench_llm.audit import timing
from optbench_llm.programs.randomness import RandomStream, random_state, set_random_state
from optbench_llm.training import OptBenchTrainer, callback, evaluation, memory
from optbench_llm.training.evaluation import mean_token_loss
from optbench_llm.training.optimizer_clock import OptimizerClock

#: What Python has on Windows neither as a module nor as a name.
POSIX_MODULES = ("resource", "fcntl", "termios", "pwd", "grp")
POSIX_NAMES = ("SIGHUP", "SIGKILL", "SIGSTOP", "pthread_kill")


class Float64(TorchDispatchMode):
    """Where float64 was made, by type of device."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        made = [a for a in tree_leaves(found) if isinstance(a, torch.Tensor)]
        self.devices |= {a.device.type for a in made if a.dtype == torch.float64}
        return found


def trainer_on_mps(**attributes: Any) -> Any:
    """Of two processes, whose model's loss is a number on a Mac's GPU."""
    device = torch.device("mps")
    accelerator = SimpleNamespace(
        gather=lambda own: torch.cat([own, own]),
        reduce=lambda own, how: own + own,
        unwrap_model=lambda model, **how: model,
    )
    return SimpleNamespace(
        args=SimpleNamespace(device=device, world_size=2),
        accelerator=accelerator,
        compute_loss=lambda model, inputs: torch.ones((), device=device),
        **attributes,
    )


def test_evaluation_makes_no_float64_on_the_device(monkeypatch):
    """A Mac's has none; the sum over tokens is made on the CPU."""
    monkeypatch.setattr(evaluation, "_ignore_repeated", lambda *args: None)
    monkeypatch.setattr(
        evaluation, "trained_positions", lambda trainer, inputs: inputs["labels"] != -100
    )
    with FakeTensorMode(), Float64() as seen:
        model = torch.nn.Identity()
        run = trainer_on_mps(
            model=model,
            model_wrapped=model,
            optimizer=None,
            get_eval_dataloader=lambda data: [{"labels": torch.ones(2, 3, device="mps").long()}],
            _prepare_inputs=lambda batch: batch,
            compute_loss_context_manager=suppress,
        )
        with pytest.raises(DataDependentOutputException):
            mean_token_loss(run, [])
    assert seen.devices == {"cpu"}


def test_means_over_processes_make_no_float64_on_the_device():
    """Neither of the loss nor of the count of tokens."""
    with FakeTensorMode(), Float64() as seen:
        loss, tokens = torch.ones((), device="mps"), torch.ones((), device="mps").long()
        found = OptBenchTrainer._over_processes(trainer_on_mps(), loss, tokens)
    assert [value.dtype for value in found] == [torch.float32, torch.int64]
    assert not seen.devices


def test_many_tokens_are_counted_exactly_over_processes():
    """More of them than fp32 can tell apart."""
    own = 2**23 + 1
    run = SimpleNamespace(
        args=SimpleNamespace(world_size=8),
        accelerator=SimpleNamespace(gather=lambda both: both.repeat(8)),
    )
    loss, tokens = OptBenchTrainer._over_processes(run, torch.tensor(0.5), torch.tensor(own))
    assert (loss.item(), tokens.item()) == (0.5, 8 * own)


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_a_devices_random_numbers_are_put_aside_with_the_cpus(monkeypatch, kind):
    """What runs within a stream leaves those outside where they were; entered again it goes on."""
    device = torch.device(kind)
    state = [torch.zeros(1)]
    names = () if kind == "mps" else (device,)

    def get_rng_state(*own: torch.device) -> torch.Tensor:
        assert own == names
        return state[0].clone()

    def set_rng_state(new: torch.Tensor, *own: torch.device) -> None:
        assert own == names
        state[0] = new.clone()

    def draw() -> float:
        state[0] += 1
        return state[0].item()

    module = torch.get_device_module(kind)
    monkeypatch.setattr(module, "get_rng_state", get_rng_state)
    monkeypatch.setattr(module, "set_rng_state", set_rng_state)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: state[0].fill_(seed))
    assert [draw(), draw()] == [1, 2]
    stream = RandomStream(100, device)
    with stream:
        assert draw() == 101
    assert draw() == 3
    with stream:
        assert draw() == 102
    kept = random_state(device)
    assert draw() == 4
    set_random_state(kept, device)
    assert draw() == 4


class Event:
    """Of a device that does its work only while it is waited for."""

    done = False

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.done = False

    def elapsed_time(self, end: Event) -> float:
        assert Event.done, "read before the device was waited for"
        return 7.0


@pytest.mark.parametrize("kind", ["cuda:1", "xpu", "mps"])
def test_steps_are_timed_by_the_devices_own_events(monkeypatch, kind):
    """Of any accelerator; all are read after one wait for that device."""
    waits = []
    monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace(Event=Event))
    monkeypatch.setattr(
        torch.accelerator, "synchronize", lambda d: (waits.append(d), setattr(Event, "done", True))
    )
    clock = OptimizerClock(torch.device(kind))
    for _ in range(3):
        clock.start()
        clock.stop()
    assert not waits
    assert clock.read() == (7.0, [7.0, 7.0])
    assert waits == [torch.device(kind)]


class Queue(TrainerCallback):
    """A device that takes a second for each step, and does none of it before it is waited for."""

    def __init__(self) -> None:
        self.now, self.queued, self.waits = 0.0, 0.0, 0

    def perf_counter(self) -> float:
        return self.now

    def synchronize(self, device: torch.device) -> None:
        self.waits += self.queued > 0
        self.now, self.queued = self.now + self.queued, 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.queued = 0.0

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.queued += 1.0

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        self.queued += 10.0


@pytest.mark.parametrize(
    ("changes", "eval_s", "waits"),
    [
        # At the end; no other step waits.
        ({}, 0.0, 1),
        # Before and after each evaluation, of which one is at the end.
        ({"eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": 16}, 20.0, 4),
        # At steps 2 and 4, and at the end.
        ({"logging_strategy": "steps", "logging_steps": 2}, 0.0, 3),
        ({"save_strategy": "steps", "save_steps": 2}, 0.0, 3),
    ],
)
def test_work_that_is_still_under_way_counts_as_what_it_is(
    tmp_path, monkeypatch, changes, eval_s, waits
):
    """Training's as training's, also the last step's; evaluation's as evaluation's."""
    queue = Queue()
    monkeypatch.setattr(callback, "synchronize", queue.synchronize)
    monkeypatch.setattr(callback, "time", queue)
    run = trainer(tmp_path, **{"max_steps": 5, "logging_strategy": "no", **changes})
    measured = run.measurements
    begin = measured.on_train_begin

    def on_an_accelerator(*args: Any, **kwargs: Any) -> None:
        begin(*args, **kwargs)
        measured._reads_at_once = False

    monkeypatch.setattr(measured, "on_train_begin", on_an_accelerator)
    run.add_callback(queue)
    run.train()
    assert (measured.train_wall_s, measured.eval_wall_s) == (5.0, eval_s)
    assert queue.waits == waits


def test_an_audited_step_is_timed_to_its_end(monkeypatch):
    """From an idle device to an idle device."""
    queue = Queue()
    queue.queued = 5.0
    monkeypatch.setattr(timing, "synchronize", queue.synchronize)
    monkeypatch.setattr(timing, "time", queue)
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.1)
    timed = timing.Timed([p], optimizer)
    monkeypatch.setattr(optimizer, "step", lambda: queue.on_optimizer_step())
    timed.step()
    assert timed.milliseconds == [1000.0]


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_peak_memory_is_that_of_the_devices_allocator(monkeypatch, kind):
    """Where it keeps one."""
    module, device = torch.get_device_module(kind), torch.device(kind)
    reset = []
    monkeypatch.setattr(module, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(module, "max_memory_allocated", lambda own: 123)
    memory.reset_peak_memory(device)
    assert reset == [device]
    assert memory.peak_memory_bytes(device) == 123


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_a_peak_of_the_process_needs_no_proc(monkeypatch, tmp_path, kind):
    """The same as /proc tells, within what the measuring itself takes."""
    device = torch.device(kind)
    told = memory.peak_memory_bytes(device)
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    assert memory.peak_memory_bytes(device) == pytest.approx(told, rel=0.3)


def test_on_windows_the_peak_is_the_systems_own(monkeypatch, tmp_path):
    """Of its largest working set, in bytes."""
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=456))
    monkeypatch.setattr(psutil, "Process", lambda: process)
    monkeypatch.setattr(memory, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    assert memory.peak_memory_bytes(torch.device("cpu")) == 456


# Imports the whole package in a process of its own.
@pytest.mark.slow
def test_every_module_is_imported_without_what_windows_lacks():
    """Whatever it does then."""
    program = (
        "import os, pkgutil, signal, sys\n"
        "import torch, transformers, datasets, peft, torch.distributed.launcher.api\n"
        "from transformers import Trainer\n"
        f"sys.modules.update(dict.fromkeys({POSIX_MODULES}))\n"
        f"for name in {POSIX_NAMES}: delattr(signal, name)\n"
        "del os.killpg, os.fork\n"
        "import optbench_llm\n"
        "names = [m.name for m in pkgutil.walk_packages(optbench_llm.__path__, 'optbench_llm.')]\n"
        "for name in names:\n"
        "    if not name.endswith('__main__'): __import__(name)\n"
        "print(len(names))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150
