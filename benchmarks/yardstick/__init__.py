"""Parts of ``benchmarks/step_time.py``: optimizers side by side, timed against fused AdamW."""
