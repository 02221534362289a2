"""What are operations of torch in ONNX, where the exporter has none or ONNX Runtime has none for float64?

Angles are computed in float64 by the networks, to give the same bits everywhere; ONNX Runtime has their functions in float32
alone, which moves a distance by some 1e-7.
"""

import math
from typing import Any

import torch

FLOAT = 1
"Number of float32 among the types of ONNX."


def translations() -> dict[Any, Any]:
    """Return what stands for operations of torch, for `torch.onnx.export`."""
    from onnxscript import opset20 as op

    def hypot(a, b):  # type: ignore[no-untyped-def]
        return op.Sqrt(op.Add(op.Mul(a, a), op.Mul(b, b)))

    def asinh(x):  # type: ignore[no-untyped-def]
        return op.CastLike(op.Asinh(op.Cast(x, to=FLOAT)), x)

    def atan2(y, x):  # type: ignore[no-untyped-def]
        side, ahead = op.Cast(y, to=FLOAT), op.Cast(x, to=FLOAT)
        zero = op.CastLike(0.0, ahead)
        half_turn = op.Where(op.Less(side, zero), op.CastLike(-math.pi, ahead), op.CastLike(math.pi, ahead))
        angle = op.Add(op.Atan(op.Div(side, ahead)), op.Where(op.Less(ahead, zero), half_turn, zero))
        is_nowhere = op.And(op.Equal(ahead, zero), op.Equal(side, zero))
        return op.CastLike(op.Where(is_nowhere, zero, angle), y)

    hypots = dict.fromkeys((torch.ops.aten.hypot.default, torch.ops.prims.hypot.default), hypot)
    return {**hypots, torch.ops.aten.asinh.default: asinh, torch.ops.aten.atan2.default: atan2}
