"""End non-maximum suppression after as many boxes as are used.

PyTorch's operator has no such limit and goes through all boxes. At low score thresholds that takes
as long as a backbone.
"""

from typing import Any


def limit_suppressions(graph: Any) -> None:
    """Give each suppression in an ONNX graph the number of boxes that are used, in place.

    Args:
        graph: The graph of an ``onnx_ir.Model``. A suppression stays as it is unless only its
            first boxes are used.
    """
    for node in graph:
        if node.op_type != 'NonMaxSuppression':
            continue
        boxes = only_user(only_user(node))  # the index column of the result, without its axis
        best = only_user(boxes)
        if boxes is None or best is None or best.op_type != 'Slice':
            continue
        start, end, axes = (value and value.const_value for value in best.inputs[1:4])
        if all(v is not None and v.size == 1 for v in (start, end, axes)) and (
            start.numpy() == axes.numpy() == 0 < end.numpy()
        ):
            node.replace_input_with(2, best.inputs[2])


def only_user(node: Any) -> Any:
    """Return the only node that uses the first output of a node, or None."""
    users = [user for user, _ in node.outputs[0].uses()] if node is not None else []
    return users[0] if len(users) == 1 else None
