"""A CUDA device that is pretended: the values of the CPU under the rules of a GPU.

``FakeTensorMode`` takes ``device='cuda'`` on any machine, but its tensors have no values, and most
of mmdet, whose shapes depend on values, stops there; so does every backward pass without a GPU.
Here a tensor says that it is on CUDA, and the CPU computes what is in it. What a GPU refuses, since
tensors lie on two devices, is refused. What makes the host wait is written down with the line that
asked for it, and so are tensors that are left on the CPU and conversions from 16 to 32 bits.

Kernels, rounding, memory and streams are the CPU's: nothing of them is rehearsed. Autocast takes
the CPU's lists of operators, which lack some of those that CUDA's brings to 32 bits.
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

# None of these has a public name. The mode keeps torch from looking for a GPU where CUDA is named.
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import mmvanilla

CUDA, CPU = torch.device('cuda', 0), torch.device('cpu')
PACKAGE, TORCH = Path(mmvanilla.__file__).parent, Path(torch.__file__).parent
# What may stand between an operator and the line that asked for it.
BETWEEN = (str(TORCH), str(Path(torchvision.__file__).parent), contextlib.__file__)
AUTOGRAD = str(TORCH / 'autograd')
DISPATCHING = tuple(str(TORCH / name) for name in ('_compile.py', '_dynamo', '_ops.py', 'utils'))
LOW, HIGH = (torch.float16, torch.bfloat16), (torch.float32, torch.float64)

aten = torch.ops.aten
# Their result is a number of Python, or its size depends on values.
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
    """What is written down: the kind, the operator, and the place that asked for it."""

    kind: str
    operator: str
    file: str
    line: int
    function: str

    def __str__(self):
        return f'{self.kind}: {self.operator} in {self.function} ({self.file}:{self.line})'


class PretendedTensor(torch.Tensor):
    """What says that it is a CUDA tensor; it is an alias of the CPU tensor that it is made of."""

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

    # What reads values without an operator, or asks for the very class of a tensor.

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
    """Return a pretended CUDA tensor in the memory of one on the CPU."""
    with no_dispatch():
        return value.detach().as_subclass(PretendedTensor)


def copy_to(device, x):
    with torch._C.DisableTorchFunctionSubclass():
        return aten._to_copy(x, device=device)


def move(x, *args, **kwargs):
    """Do what ``Tensor.to`` does, of a pretended tensor or to where one is."""
    args = [part for a in args for part in ((a.device, a.dtype) if torch.is_tensor(a) else (a,))]
    places = [a for a in (*args, kwargs.pop('device', None)) if is_place(a)]
    args = [a for a in args if not is_place(a)]
    if places and torch.device(places[0]).type != x.device.type:
        x = copy_to(torch.device(places[0]), x)
    return torch.Tensor.to(x, *args, **kwargs) if args or kwargs else x


def is_place(value):
    return isinstance(value, str | torch.device)


def compute(func, args, kwargs):
    """Compute an operator on the values; what it gives is where a GPU would leave it."""
    on_cuda = is_on_cuda(func, args, kwargs)
    args, kwargs = tree_map(lambda x: CPU if isinstance(x, torch.device) else x, (args, kwargs))
    with no_dispatch():
        outputs = func(*args, **kwargs)
    return tree_map(lambda x: pretend(x) if on_cuda and type(x) is torch.Tensor else x, outputs)


def is_on_cuda(func, args, kwargs):
    """Tell where an operator leaves what it gives, or refuse tensors on two devices."""
    if kwargs.get('device') is not None:
        return torch.device(kwargs['device']).type == 'cuda' or is_within_pytorch()
    tensors = tensors_in((args, kwargs))
    there = [isinstance(x, PretendedTensor) for x in tensors]
    if func.overloadpacket is aten.copy_ or (func.overloadpacket in INDEXING and there[0]):
        return there[0]
    # A single number of the CPU is an argument as one of Python is.
    if any(there) and any(
        x.ndim for x, is_there in zip(tensors, there, strict=True) if not is_there
    ):
        raise RuntimeError(f'{func} got tensors on {CUDA} and on {CPU}, expected one device')
    return any(there)


def is_within_pytorch():
    """Tell whether an operator is a part of one of ours, or of a backward pass.

    What PyTorch itself makes for these lies where their tensors do, which tell it that this is CPU.
    """
    whole = PretendedTensor.__torch_function__.__code__
    frame = caller((*DISPATCHING, __file__), (whole, copy_to.__code__))
    return frame.f_code is whole or frame.f_code.co_filename.startswith(AUTOGRAD)


def caller(passed_over, but=()):
    """Return the innermost frame that is not of some files, or None."""
    frame = inspect.currentframe()
    while frame and frame.f_code not in but and frame.f_code.co_filename.startswith(passed_over):
        frame = frame.f_back
    return frame


def tensors_in(tree):
    return [x for x in tree_flatten(tree)[0] if isinstance(x, torch.Tensor)]


class PretendedCUDA(TorchDispatchMode):
    """Within it ``device='cuda'`` is pretended; ``events`` are what a GPU would suffer from.

    A module that is brought to it gets other parameters, so make an optimizer afterwards.
    """

    def __init__(self, also=''):
        """Take a file, beside those of the package, as ours."""
        super().__init__()
        self.events, self.roots = [], (str(PACKAGE), *([also] if also else []))
        self.contexts = ExitStack()

    def __enter__(self):
        enter, future = self.contexts.enter_context, torch.__future__
        enter(FakeTensorMode())
        # mmdet asks for it, and without it autocast disables itself.
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
        """Write down an event with the line that asked for it."""
        if frame := caller((*BETWEEN, __file__)):
            code = frame.f_code
            place = code.co_filename, frame.f_lineno, code.co_name
            self.events.append(Event(kind, str(func), *place))

    @property
    def ours(self):
        """The events that the package asked for, or the file that is taken as ours."""
        return [event for event in self.events if event.file.startswith(self.roots)]


def autocast_on_both(autocast):
    """Return an autocast that, on CUDA, casts what it does on the CPU."""

    @contextmanager
    def both(device_type, *args, **kwargs):
        with autocast(device_type, *args, **kwargs), autocast('cpu', *args, **kwargs):
            yield

    return lambda device_type, *args, **kwargs: (
        both if torch.device(device_type).type == 'cuda' else autocast
    )(device_type, *args, **kwargs)


def kinds(packet, inputs, outputs):
    """Yield what a GPU would suffer from in an operator."""
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
    """Takes the place of ``torch.cuda.CUDAGraph``: computes again what was captured, in its place.

    What a capture does not allow, that the host waits, ends it as on a GPU.
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
    """Let CUDA graphs be captured where CUDA is pretended."""
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
    """Do on the pretended device what some versions of torch do not do without a GPU."""
    with PretendedCUDA():
        net = torch.nn.Conv2d(3, 4, 1).to('cuda')
        net(torch.zeros(1, 3, 2, 2, device='cuda')).sum().backward()
