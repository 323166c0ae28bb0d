"""Simulate a CUDA device: values from the CPU under the device rules of a GPU.

``FakeTensorMode`` accepts ``device='cuda'`` on any machine, but its tensors have no values: mmdet,
where shapes depend on values, fails, and so does a backward pass without a GPU. Tensors of this
module report a CUDA device, and the CPU computes their values. Operators on two devices are refused
as on a GPU. Synchronization, tensors left on the CPU and casts from 16 to 32 bits are recorded with
the line of the caller.

Kernels, rounding, memory and streams are not simulated. Autocast has the CPU's operator lists;
CUDA's casts a few more operators to float32.
"""

import contextlib
import inspect
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import torch
import torchvision

# These have no public name. FakeTensorMode keeps torch from looking for a GPU.
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import mmvanilla

CUDA, CPU = torch.device('cuda', 0), torch.device('cpu')
PACKAGE, TORCH = Path(mmvanilla.__file__).parent, Path(torch.__file__).parent
# Files between an operator and the line that called it.
BETWEEN = (str(TORCH), str(Path(torchvision.__file__).parent), contextlib.__file__)
AUTOGRAD = str(TORCH / 'autograd')
DISPATCHING = tuple(str(TORCH / name) for name in ('_compile.py', '_dynamo', '_ops.py', 'utils'))
LOW, HIGH = (torch.float16, torch.bfloat16), (torch.float32, torch.float64)

aten = torch.ops.aten
# Operators that return a Python number or a size that depends on values.
WAITING = {
    aten._local_scalar_dense,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten.repeat_interleave,
    aten.unique_consecutive,
    aten.unique_dim,
    torch.ops.torchvision.nms,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
COPYING = {aten._to_copy, aten.copy_}


class Event(NamedTuple):
    """A recorded event: its kind, the operator and the caller."""

    kind: str
    operator: str
    file: str
    line: int
    function: str

    def __str__(self):
        return f'{self.kind}: {self.operator} in {self.function} ({self.file}:{self.line})'


class PretendedTensor(torch.Tensor):
    """A tensor that reports a CUDA device; it shares memory with a CPU tensor."""

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self):
        return CUDA.index

    def to(self, *args, **kwargs):
        return move(self, *args, **kwargs)

    def cpu(self, *_, **__):
        return copy_to(CPU, self)

    def cuda(self, *_, **__):
        return self

    def type_as(self, other):
        return move(self, other)

    def new_tensor(self, data, dtype=None, device=CUDA):
        return copy_to(torch.device(device), torch.tensor(data, dtype=dtype or self.dtype))

    # Methods that read values without an operator or ask for the tensor class.

    def numpy(self, *, force=False):
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu()")
        return self.cpu().numpy(force=True)

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self, **kwargs):
        return repr(self.cpu())

    def __format__(self, spec):
        return format(self.cpu(), spec)

    def __reduce_ex__(self, protocol):
        return self.detach().cpu().__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            with no_dispatch():
                copied = pretend(self.detach().clone()).requires_grad_(self.requires_grad)
            copied._is_param = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = copied
        return memo[id(self)]

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():  # as torch's documentation does
            if func in (torch.Tensor.to, torch.Tensor.type_as):  # of one elsewhere, to this one
                return move(*args, **kwargs or {})
            return func(*args, **kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def pretend(value):
    """Return a simulated CUDA tensor that shares memory with a CPU tensor."""
    with no_dispatch():
        return value.detach().as_subclass(PretendedTensor)


def copy_to(device, x):
    with torch._C.DisableTorchFunctionSubclass():
        return aten._to_copy(x, device=device)


def move(x, *args, **kwargs):
    """Call ``Tensor.to`` from or to a simulated tensor."""
    args = [part for a in args for part in ((a.device, a.dtype) if torch.is_tensor(a) else (a,))]
    places = [a for a in (*args, kwargs.pop('device', None)) if is_place(a)]
    args = [a for a in args if not is_place(a)]
    if places and torch.device(places[0]).type != x.device.type:
        x = copy_to(torch.device(places[0]), x)
    return torch.Tensor.to(x, *args, **kwargs) if args or kwargs else x


def is_place(value):
    return isinstance(value, str | torch.device)


def compute(func, args, kwargs):
    """Compute an operator on the CPU; mark outputs that a GPU would keep."""
    on_cuda = is_on_cuda(func, args, kwargs)
    args, kwargs = tree_map(lambda x: CPU if isinstance(x, torch.device) else x, (args, kwargs))
    with no_dispatch():
        outputs = func(*args, **kwargs)
    return tree_map(lambda x: pretend(x) if on_cuda and type(x) is torch.Tensor else x, outputs)


def is_on_cuda(func, args, kwargs):
    """Return whether the outputs of an operator are on CUDA; refuse two devices."""
    if kwargs.get('device') is not None:
        return torch.device(kwargs['device']).type == 'cuda' or is_within_pytorch()
    tensors = tensors_in((args, kwargs))
    there = [isinstance(x, PretendedTensor) for x in tensors]
    if func.overloadpacket is aten.copy_ or (func.overloadpacket in INDEXING and there[0]):
        return there[0]
    # A scalar CPU tensor counts as a Python number.
    if any(there) and any(
        x.ndim for x, is_there in zip(tensors, there, strict=True) if not is_there
    ):
        raise RuntimeError(f'{func} got tensors on {CUDA} and on {CPU}, expected one device')
    return any(there)


def is_within_pytorch():
    """Return whether PyTorch calls an operator within one of our operators or a backward pass.

    PyTorch creates tensors there on the device of the underlying CPU tensors.
    """
    whole = PretendedTensor.__torch_function__.__code__
    frame = caller((*DISPATCHING, __file__), (whole, copy_to.__code__))
    return frame.f_code is whole or frame.f_code.co_filename.startswith(AUTOGRAD)


def caller(passed_over, but=()):
    """Return the innermost frame outside of some files, or None."""
    frame = inspect.currentframe()
    while frame and frame.f_code not in but and frame.f_code.co_filename.startswith(passed_over):
        frame = frame.f_back
    return frame


def tensors_in(tree):
    return [x for x in tree_flatten(tree)[0] if isinstance(x, torch.Tensor)]


class PretendedCUDA(TorchDispatchMode):
    """Simulate ``device='cuda'`` and record costly ``events``.

    ``module.to('cuda')`` replaces parameters, so create optimizers afterwards.
    """

    def __init__(self, also=''):
        """Count a file as part of the package."""
        super().__init__()
        self.events, self.roots = [], (str(PACKAGE), *([also] if also else []))
        self.contexts = ExitStack()

    def __enter__(self):
        enter, future = self.contexts.enter_context, torch.__future__
        enter(FakeTensorMode())
        # mmdet asks for it; autocast disables itself without it.
        enter(patch('torch.cuda.is_available', lambda: True))
        enter(patch('torch.cuda.device_count', lambda: 1))
        enter(patch('torch.cuda.reset_peak_memory_stats', lambda *_: None))
        enter(patch('torch.cuda.is_bf16_supported', lambda *_: True))
        enter(patch('torch.autocast', autocast_on_both(torch.autocast)))
        before = future.get_overwrite_module_params_on_conversion()
        self.contexts.callback(future.set_overwrite_module_params_on_conversion, before)
        future.set_overwrite_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.contexts.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        outputs = compute(func, args, kwargs)
        for kind in kinds(func.overloadpacket, tensors_in((args, kwargs)), tensors_in(outputs)):
            self.note(kind, func)
        return outputs

    def note(self, kind, func):
        """Record an event with the line of its caller."""
        if frame := caller((*BETWEEN, __file__)):
            code = frame.f_code
            place = code.co_filename, frame.f_lineno, code.co_name
            self.events.append(Event(kind, str(func), *place))

    @property
    def ours(self):
        """Events caused by the package or by the file in ``also``."""
        return [event for event in self.events if event.file.startswith(self.roots)]


def autocast_on_both(autocast):
    """Return an autocast that casts on CUDA as on the CPU."""

    @contextmanager
    def both(device_type, *args, **kwargs):
        with autocast(device_type, *args, **kwargs), autocast('cpu', *args, **kwargs):
            yield

    return lambda device_type, *args, **kwargs: (
        both if torch.device(device_type).type == 'cuda' else autocast
    )(device_type, *args, **kwargs)


def kinds(packet, inputs, outputs):
    """Yield the kinds of costly events in an operator."""
    there = [isinstance(x, PretendedTensor) for x in inputs]
    here = [x for x in outputs if not isinstance(x, PretendedTensor) and not x.is_meta]
    if packet in COPYING:
        if any(there) and here:
            yield 'copied to the CPU'
        elif not all(there) and not here and inputs[-1].ndim:
            yield 'copied from the CPU'
    elif packet in INDEXING and any(there):
        if not all(there):
            yield 'copied from the CPU'
        if any(x.dtype == torch.bool for x in inputs[1:]):
            yield 'waits'
    elif packet in WAITING and any(there):
        yield 'waits'
    elif not any(there) and any(x.ndim and x.numel() for x in here):
        yield 'made on the CPU'
    high = any(there) and outputs and outputs[0].dtype in HIGH
    if high and any(x.dtype in LOW and x.ndim for x in inputs):
        yield 'upcast'


class PretendedGraph(TorchDispatchMode):
    """Replace ``torch.cuda.CUDAGraph``: repeat the captured operators in the same memory.

    Synchronization within a capture is an error, as on a GPU.
    """

    def __init__(self):
        super().__init__()
        self.steps = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        inputs = tensors_in((args, kwargs))
        found = {*kinds(func.overloadpacket, inputs, tensors_in(outputs))} - {'upcast'}
        if found:
            raise RuntimeError(f'{func} is not permitted when stream is capturing: {found}')
        self.steps.append((func, args, kwargs or {}, tensors_in(outputs)))
        return outputs

    def replay(self):
        for func, args, kwargs, outputs in self.steps:
            for old, new in zip(outputs, tensors_in(func(*args, **kwargs)), strict=True):
                if old is not new:
                    old.copy_(new)


@contextmanager
def pretended_graphs():
    """Capture CUDA graphs on the simulated device."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    with ExitStack() as stack:
        for name, stand_in in dict(
            CUDAGraph=PretendedGraph,
            Stream=lambda device: stream,
            current_stream=lambda device: stream,
            graph=lambda graph, pool, stream: graph,
            graph_pool_handle=lambda: (0, 1),
            stream=lambda stream: nullcontext(),
        ).items():
            stack.enter_context(patch(f'torch.cuda.{name}', stand_in))
        yield


def try_it():
    """Call operators that some versions of torch refuse without a GPU."""
    with PretendedCUDA():
        net = torch.nn.Conv2d(3, 4, 1).to('cuda')
        net(torch.zeros(1, 3, 2, 2, device='cuda')).sum().backward()
