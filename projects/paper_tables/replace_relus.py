"""Replace the ReLUs of any net by series activations."""

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from mmvanilla import SeriesActivation, UserError

CALLS = (F.relu, torch.relu, torch.relu_, 'relu', 'relu_')


def replace_relus(
    net: nn.Module,
    act_num: int = 3,
    norm_cfg: dict = dict(type='BN'),  # noqa: B006 - read, never written
    image_size: int = 224,
) -> fx.GraphModule:
    """Replace every ReLU on (N, C, H, W) by a :class:`SeriesActivation`.

    A ReLU that is called several times, as in the blocks of a ResNet, is replaced once a call.

    Args:
        net: A net that takes images (N, 3, H, W) and that torch.fx can trace.
        act_num: As in :class:`SeriesActivation`.
        norm_cfg: As in :class:`SeriesActivation`.
        image_size: Height and width of the image with which the net is traced.

    Returns:
        The traced net. The names of its modules are unchanged; ``relu_0``, ... are new.

    Raises:
        UserError: If the net cannot be traced or has no such ReLU.
    """
    training = net.training
    try:
        net.eval()  # so that batch norms do not see the image
        traced = fx.symbolic_trace(net)
        with torch.no_grad():
            ShapeProp(traced).propagate(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # whatever the net raises
        raise UserError(
            f'the ReLUs of {type(net).__name__} cannot be found by tracing it with an image of '
            f'{image_size} x {image_size} pixels ({" ".join(str(error).split())}); '
            "give its layers act_cfg=dict(type='SeriesActivation', channels=...) instead"
        ) from error
    finally:
        net.train(training)
    relus = [
        node
        for node in traced.graph.nodes
        if (
            isinstance(traced.get_submodule(node.target), nn.ReLU)
            if node.op == 'call_module'
            else node.target in CALLS
        )
        and len(node.meta['tensor_meta'].shape) == 4
    ]
    if not relus:
        raise UserError(
            f'{type(net).__name__} has no ReLU on (N, C, H, W) for a series activation to replace; '
            'give its activations yourself'
        )
    for i, node in enumerate(relus):
        channels = node.meta['tensor_meta'].shape[1]
        traced.add_submodule(f'relu_{i}', SeriesActivation(channels, act_num, norm_cfg))
        with traced.graph.inserting_before(node):
            node.replace_all_uses_with(traced.graph.call_module(f'relu_{i}', (node.args[0],)))
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.train(training)
