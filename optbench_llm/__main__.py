"""``python -m optbench_llm`` is ``optbench-llm``."""

from optbench_llm.cli import main

if __name__ == "__main__":
    main()
