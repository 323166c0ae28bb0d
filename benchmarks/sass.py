"""Read the instructions of a compiled CUDA kernel with Triton's tools, without a GPU."""

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from triton import knobs

LABEL = re.compile(r'(\.L\w+):')
INSTRUCTION = re.compile(r'\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z]\w*)(.*?);')


class Sass(NamedTuple):
    """Resources and instructions of a kernel, for each thread."""

    registers: int  # of a thread
    stack: int  # bytes of a thread
    shared: int  # bytes of a block named by the code
    spills: int  # loads from and stores to local memory
    total: int  # instructions
    loop: Counter[str]  # of the loop with most multiply-adds, by name without modifiers


def read(cubin: bytes) -> Sass:
    """Read a kernel from the bytes of a cubin.

    Raises:
        ValueError: If it has no loop.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'kernel.cubin')
        path.write_bytes(cubin)
        usage = _run(knobs.nvidia.cuobjdump.path, '--dump-resource-usage', path)
        code = _run(knobs.nvidia.nvdisasm.path, '--print-code', path)
    registers, stack, shared = (
        int(re.search(rf'\b{name}:(\d+)', usage)[1]) for name in ('REG', 'STACK', 'SHARED')
    )
    names, loops = _parse(code)
    if not loops:
        raise ValueError('the kernel has no loop')
    loop = max(loops, key=lambda loop: loop['FFMA'])
    spills = sum(name in ('LDL', 'STL') for name in names)
    return Sass(registers, stack, shared, spills, len(names), loop)


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _parse(code: str) -> tuple[list[str], list[Counter[str]]]:
    """Return the names of all instructions, and the counts of each loop."""
    names: list[str] = []
    labels: dict[str, int] = {}
    loops = []
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(names)
        elif instruction := INSTRUCTION.match(line):
            names.append(instruction[1])
            target = re.search(r'\.L\w+', instruction[2])
            if instruction[1] == 'BRA' and target and target[0] in labels:
                loops.append(Counter(names[labels[target[0]] :]))
    return names, loops
