"""The executor of GPUs: one Triton kernel steps all tensors of a rule."""
