"""The sections of `gpu_check.py`, each a process of its own, and what runs and judges them."""
