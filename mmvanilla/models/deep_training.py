"""Deep training: what is trained with two convolutions a layer and deployed with one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError


def deep_training_act(x: Tensor, act_learn: float) -> Tensor:
    """Apply the activation that deep training anneals away (paper, section 3.1).

    It is (1 - act_learn) * relu(x) + act_learn * x: at 0 a ReLU, at 1 the identity, which costs
    nothing, neither time nor memory for the backward pass.
    """
    return x if act_learn == 1 else F.leaky_relu(x, act_learn)


class DeepTraining(nn.Module):
    """What has a training form with ``act_learn``, and a deploy form: backbone, head, wrapper.

    A subclass sets ``deploy``, calls :meth:`add_act_learn` in training form, and brings
    ``check_fusable`` and ``switch_to_deploy``; ``fuse`` and ``DeepTrainingHook`` find it by this
    class.

    Attributes:
        deploy: Whether it is in deploy form.
    """

    deploy: bool

    def add_act_learn(self) -> None:
        """Begin at 1, as in a net whose deep training is over."""
        self.register_buffer('_act_learn', torch.tensor(1.0))

    @property
    def act_learn(self) -> float:
        """The deep-training weight, from 0 to 1; 1 in deploy form.

        It is kept as a buffer, so that checkpoints, averaged copies and other devices carry it.
        """
        return 1.0 if self.deploy else self._act_learn.item()

    @act_learn.setter
    def act_learn(self, value: float) -> None:
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            raise UserError(f'act_learn is {value!r}, expected a number from 0 to 1')
        if self.deploy and value != 1:
            raise UserError(
                f'act_learn is {value!r}, expected 1, the only one of a deploy-form net'
            )
        if not self.deploy:
            self._act_learn.fill_(value)

    def check_fusable(self, name: str = '') -> None:
        """Check that this can be fused; in deploy form it needs nothing.

        Args:
            name: Its name in the model, for the message.

        Raises:
            UserError: If ``act_learn`` is not 1; subclasses check their batch norms as well.
        """
        if self.act_learn != 1:
            raise UserError(
                f'act_learn of {name or type(self).__name__} is {self.act_learn:g}, expected 1: '
                'fused now, the net would lose the activation between its pairs of convolutions '
                'and compute something else; finish its deep training, or use a checkpoint from '
                'after it'
            )

    def switch_to_deploy(self) -> None:
        """Fuse into the deploy form, in place: outputs in eval mode stay the same."""
        raise NotImplementedError
