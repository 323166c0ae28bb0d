"""Non-maximum suppression that ends as soon as it has kept as many boxes as are taken of it.

PyTorch's has no such number: it goes through all boxes, of which the best are then taken. At low
thresholds that takes as long as a backbone.
"""

from typing import Any


def stop_early(graph: Any) -> None:
    """Give the suppressions of an ONNX graph the numbers of boxes that are taken of them, in place.

    Args:
        graph: That of an ``onnx_ir.Model``. A suppression of which others than the first boxes are
            used stays as it is.
    """
    for node in graph:
        if node.op_type != 'NonMaxSuppression':
            continue
        boxes = only_user(only_user(node))  # the boxes' column of the result, without its axis
        best = only_user(boxes)
        if boxes is None or best is None or best.op_type != 'Slice':
            continue
        start, end, axes = (value and value.const_value for value in best.inputs[1:4])
        if all(v is not None and v.size == 1 for v in (start, end, axes)) and (
            start.numpy() == axes.numpy() == 0 < end.numpy()
        ):
            node.replace_input_with(2, best.inputs[2])


def only_user(node: Any) -> Any:
    """Return the node that uses the result of another one, None where none or several do."""
    users = [user for user, _ in node.outputs[0].uses()] if node is not None else []
    return users[0] if len(users) == 1 else None
