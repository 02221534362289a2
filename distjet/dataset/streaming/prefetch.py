"""How does a compiled function ask for memory that it will need soon?

Rows of a batch lie at random places, and a processor that meets a new place waits for its first lines before it recognises a
stretch. The instruction that asks for a line ahead exists on every processor, but not in numba, so it is named here for its
compiler.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

LINE_BYTES = 64
"Memory that is fetched at a time."


@intrinsic
def prefetch(typing_context: Any, array: Any, number: Any) -> Any:
    """Ask for the line of memory that holds element `number` of a one-dimensional array; any number is allowed."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        whole = ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [address.type, whole, whole, whole])
        function = builder.module.declare_intrinsic("llvm.prefetch", [address.type], function_type)
        to_read, near, is_data = whole(0), whole(3), whole(1)
        builder.call(function, [address, to_read, near, is_data])
        return context.get_dummy_value()

    return types.void(array, number), generate
