"""The executor of GPUs: for each stage of a rule one Triton kernel, launched once for all tensors.

A stage is traced as inductor's code is (``tracing.py``), on tensors whose sizes are symbols, and
``emitter.py`` writes the graph, of some forty operations (``operations.py``), as a kernel of one of
three forms (``templates.py``): ranges of elements, blocks of 8-bit codes, rows of channels. Where
tensors lie and how long they are is in tables on the device (``batch.py``), so that no shape is
compiled anew; gradients' addresses and the step's numbers go there in one copy a step
(``executor.py``), and nothing is read. Sums are kept by tile and added up in a fixed order
(``kernels.py``), so that a run can be repeated bit for bit.

What has no kernel is stepped eagerly: rules of whole matrices, float64, channels in 8 bits, and
tensors with gaps in memory.
"""
