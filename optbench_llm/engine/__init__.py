"""The engine: one ``torch.optim.Optimizer`` that runs any rule.

A rule says how one tensor is stepped, and knows neither memory nor devices. The engine makes of
each parameter::

    parameter -> views -> slots -> stages -> executor
                 a matrix,        exp_avg,   measure,   eager (pieces.py): torch's own kernels,
                 part or stack    in fp32,   update,      on a GPU by stacks (stacks.py)
                 (units.py)       bf16 or    ...        inductor (compiled.py): code for a CPU
                                  int8       (phases.py)  Triton (triton/): on a GPU, one kernel for
                                  (storage.py)              all tensors of a kind

All but the last is the parameter's *plan* (``plan.py``): it follows from shape, dtype, group and
storage, needs no memory, and is what steps, evaluation, checkpoints, sharding and the ledger of
memory go by. A plan that is bound to memory is a ``BoundUnit`` (``bound.py``); it is kept while
``Memory.holds`` (``memory.py``). With its gradient and the numbers of one step it is a ``Work``.

One step of AdamW::

    RuleOptimizer.step      optimizer.py      torch's interface: groups, checks, checkpoints
    Stepper.step            stepper.py        the last step once more (repeat.py), or a new one:
    Division.divide         division.py       who steps which parameter, of one process or many
    WorkMaker.works         works.py          its works; small ones share one (bundles.py)
    take_step               stepping.py       stages in their order, and sums that updates must know
    EagerPhases.run         pieces.py         the executor, on chunks; or CompiledPhases.run
    Phases.update           phases.py         slots decoded, the rule in fp32, all written back
    AdamW.update            ../rules/adam.py  the equations

On a GPU the path ends otherwise::

    take_step               stepping.py         as there
    TritonPhases.prepare    triton/executor.py  batches of works; their numbers go out in one copy
    TritonPhases.run        triton/executor.py  a stage of each batch
    Batch.run               triton/batch.py     tables that stay on the device; one launch
    adamw_update            triton/emitter.py   the kernel: text made of the traced Phases.update

Beside that path: of sharded parameters (FSDP2) ``sharding.py`` moves parts to their owners and
``resharding.py`` puts state together; ``loading.py`` reads checkpoints, ``evaluation.py`` moves
weights to where they are evaluated, ``checks.py`` refuses what cannot be stepped. Modules import
one way: none needs to be read before those that it imports.
"""

from optbench_llm.engine.optimizer import RuleOptimizer

__all__ = ["RuleOptimizer"]
