"""Kernel templates by family; each picks its tiles analytically from shapes and the machine.

A template is a function from buffers, attributes and a `Machine` to a statement::

    matmul.matmul(a, b, out, transpose_a=, transpose_b=, machine=, epilogue=)
    conv.conv(x, w, out, geometry=, machine=, epilogue=)
    conv.conv_input_grad(dy, w, out, input_shape=, geometry=, machine=, epilogue=)
    conv_kernel_grad.conv_kernel_grad(x, dy, out, kernel_shape=, geometry=, machine=, epilogue=)
    window.max_pool(x, out, windows=, machine=, epilogue=)
    max_pool_grad.max_pool_grad(x, dy, out, windows=, machine=, epilogue=)
    window.avg_pool(x, out, windows=, include_padding=, machine=, epilogue=)
    avg_pool_grad.avg_pool_grad(
        dy, out, input_shape=, windows=, include_padding=, machine=, epilogue=
    )

Buffers have the ranks of their tensors (`emit.view` gives a flat one another shape). The caller
wraps the statement with `emit.kernel`, which gathers the scratch arrays that templates declare.
Every shape works, with sizes 1 and 0, and tails that no tile divides.

The epilogue is what fusion hangs on: ``epilogue(indices, value)`` is called with the indices and
the value of one result, inside a loop over lanes that becomes vectors, and returns what to store:
a sequence of (buffer, indices, value), all of which are computed before the first is stored. It
runs once for each element, so an output may lie on a residual input's memory (`emit.kernel(...,
aliased=True)`). The value has the dtype of the sums: f32 for f16 and bf16, else the operand's.
Without an epilogue the value is stored in `out`, converted to its dtype.
"""
