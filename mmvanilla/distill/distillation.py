"""A student and its teacher: more losses in the student's training, nothing else."""

from contextlib import suppress
from functools import partial
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import UserError, sentence
from .losses import DistillLoss
from .teacher import Conversion, build_teacher, same_weights

# The loss of a model that has one of these modules; the first one counts.
DEFAULTS = {'decode_head.conv_seg': 'ChannelWiseDivergence', 'head': 'KLDivergence'}
FEATURES = ('backbone', 'neck')
ROLES = ('student', 'teacher')


class Distillation:
    """Add losses to a model, the student, that compare it with a trained one, the teacher.

    Forward hooks add them. The teacher is no module of the student, so the names, checkpoints,
    averages and optimizer of the student do not change. The teacher gets the batch of the student,
    augmented and mixed, converted to the preprocessing of the teacher.

    Args:
        teacher: Config of the teacher's model, or the name of a config file, such as
            ``'mmdet::...'``.
        teacher_checkpoint: Its weights.
        distill: Configs of losses. None takes the loss for the task: KL divergence for
            classifiers, channel-wise divergence for segmentors, else PKD on the neck.
        labels: Whether the data have labels; if not, only the added losses are trained.

    Raises:
        UserError: In ``load``, ``attach`` and the first forward pass, if the two models do not fit.
    """

    def __init__(
        self,
        teacher: str | dict,
        teacher_checkpoint: str | None = None,
        distill: list[dict] | None = None,
        labels: bool = True,
    ) -> None:
        self.cfg, self.file, self.distill = teacher, teacher_checkpoint, distill
        self.labels = labels
        self.losses: list[DistillLoss] = []
        self.teacher: Any = None  # a model of any library, once loaded
        self.meta: dict = {}  # of its checkpoint
        self._convert: Conversion | None = None
        self._outputs: dict[tuple[str, str], Any] = {}
        self._handles: list = []

    def __deepcopy__(self, memo: dict) -> 'Distillation':
        return self  # a copy of the student has the same teacher

    def attach(self, student: nn.Module) -> None:
        """Add forward hooks to a student.

        Raises:
            UserError: If it has no module that a loss compares.
        """
        self.losses = [MODELS.build(cfg) for cfg in self.distill or [default_loss(student)]]
        self._watch(student, 'student')
        if not self.labels:
            self._handles += [student.register_forward_pre_hook(_without_loss, with_kwargs=True)]
        # The teacher is loaded and run outside of a compiled step.
        add_losses = torch.compiler.disable(self._add_losses)
        self._handles += [student.register_forward_hook(add_losses, with_kwargs=True)]

    def detach(self) -> None:
        """Remove the hooks and the teacher."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._outputs.clear()
        self.teacher = self._convert = None

    def load(self, student: nn.Module) -> None:
        """Build and load the teacher, on the student's device.

        Raises:
            UserError: If it cannot be loaded, is the student itself or has no compared module.
        """
        teacher, self.meta = build_teacher(self.cfg, self.file)
        teacher.to(next(student.parameters()).device)
        if same_weights(student, teacher):
            raise UserError(
                f'the teacher {self.file!r} has the weights of the student itself; expected other '
                'weights; change teacher_checkpoint'
            )
        self._watch(teacher, 'teacher')
        self.teacher = teacher

    def _watch(self, model: nn.Module, role: str) -> None:
        """Note the outputs of the compared modules."""
        for loss in self.losses:
            try:
                module = model.get_submodule(loss.module)
            except AttributeError as error:
                raise UserError(
                    f'{type(loss).__name__} compares {loss.module!r}, but the {role} '
                    f'({type(model).__name__}) has no such module; set module of the loss to '
                    'another one'
                ) from error
            handle = module.register_forward_hook(partial(self._note, (role, loss.module)))
            if role == 'student':
                self._handles.append(handle)

    def _note(self, key: tuple[str, str], module: nn.Module, inputs: tuple, output: Any) -> None:
        self._outputs[key] = output

    def _add_losses(
        self, student: nn.Module, args: tuple, kwargs: dict, output: Any
    ) -> dict[str, Tensor] | None:
        """Add the losses to the output of the student's forward pass in training."""
        mode = 'loss' if self.labels else 'tensor'
        if not student.training or kwargs.get('mode') != mode:
            self._outputs.clear()
            return None
        if self.teacher is None:
            self.load(student)
        images, *samples = [*args, *(kwargs[k] for k in ('inputs', 'data_samples') if k in kwargs)]
        self._run_teacher(student, images, *samples[:1])
        losses = dict(output) if self.labels else {}
        if 'loss' in losses:  # mmengine logs the sum under this name
            losses['loss_student'] = losses.pop('loss')
        for loss in self.losses:
            name, pair = f'distill.loss_{loss.name}', map(self._output, ROLES, [loss.module] * 2)
            losses[name] = losses.get(name, 0) + loss(*pair)
        self._outputs.clear()  # they hold the graph
        return losses

    @torch.no_grad()
    def _run_teacher(self, student: nn.Module, images: Tensor, samples: Any = None) -> None:
        """Run the teacher on the student's images (N, C, H, W), without heads if it can."""
        if self._convert is None:
            preprocessors = (student.data_preprocessor, self.teacher.data_preprocessor)
            self._convert = Conversion(*preprocessors, images.shape[1])
        features_only = all(loss.module.partition('.')[0] in FEATURES for loss in self.losses)
        try:
            if features_only:
                self.teacher.extract_feat(self._convert(images))
            else:
                self.teacher(self._convert(images), samples, mode='tensor')
        except (torch.cuda.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # models of any library
            raise UserError(
                f'the teacher ({type(self.teacher).__name__}) cannot take images of shape '
                f'{tuple(images.shape)} ({type(error).__name__}: {sentence(error)}); give the '
                'student images of a size that the teacher was trained with'
            ) from error

    def _output(self, role: str, module: str) -> Any:
        """Return the noted output of a compared module."""
        if (role, module) not in self._outputs:
            raise UserError(
                f'{module!r} of the {role} is not called in a step; expected a module with an '
                'output; set module of the loss to another one'
            )
        return self._outputs[role, module]


def default_loss(student: nn.Module) -> dict:
    """Return the config of the loss for a student's task."""
    for module, loss in DEFAULTS.items():
        with suppress(AttributeError):
            student.get_submodule(module)
            return dict(type=loss, module=module)
    return dict(type='PKDLoss')


def _without_loss(student: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Compute outputs in place of losses, which need labels."""
    return (args, dict(kwargs, mode='tensor')) if kwargs.get('mode') == 'loss' else None


@MODELS.register_module(name='DistilledModel')
def distilled_model(student: dict, **distillation: Any) -> nn.Module:
    """Build a student with a teacher, for programs that run no ``DistillHook``.

    The student keeps its class and its names. The teacher is loaded in the first training step.
    The tools replace this model in a config by the student and the hook.

    Args:
        student: Config of the student.
        **distillation: Arguments of ``Distillation``.
    """
    model = MODELS.build(student)
    Distillation(**distillation).attach(model)
    return model
