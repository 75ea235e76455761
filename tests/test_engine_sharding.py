"""Sharded parameters (FSDP2) on two processes: every row steps as it does on one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sharded_steps import model_of_odd_sizes, train

import optbench_llm as ob

SCRIPT = str(Path(__file__).with_name("sharded_steps.py"))
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ROWS = [name for name in ob.list_optimizers() if ob.optimizer_info(name).provider == "optbench_llm"]
LOW_BITS = ["adamw@bf16", "adamw@int8", "lion@int8", "lamb@int8", "prodigy@bf16", "muon@int8"]
SPECS = [*ROWS, *LOW_BITS]
