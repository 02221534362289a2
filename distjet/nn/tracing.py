"""Is torch following the operations, to compile or to export them? Loops of our own must not take their place then."""

import torch


def is_traced() -> bool:
    """Whether torch.compile, torch.export or the export to ONNX is at work."""
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
