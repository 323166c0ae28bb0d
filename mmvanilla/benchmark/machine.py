"""The machine that is measured on: what it is, and what disturbed it meanwhile."""

import itertools
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import torch
import torchvision

from ..installed import DISTRIBUTIONS, version

TICKS = os.sysconf('SC_CLK_TCK') if hasattr(os, 'sysconf') else 100
# Shares of the processor's time, and of a core's, from which others disturb a measurement.
STOLEN = 0.01
OTHERS = 0.05


def processor() -> str:
    """Return the processor's name where Linux tells it, else its architecture."""
    return read_field('/proc/cpuinfo', 'model name') or platform.processor() or platform.machine()


def describe(device: str | torch.device = 'cpu') -> dict[str, str]:
    """Return what a figure depends on: hardware, threads and versions, by name."""
    facts = dict(
        processor=processor(),
        cores=str(os.cpu_count()),
        instructions=torch.backends.cpu.get_cpu_capability() + _extensions(),
        threads=str(torch.get_num_threads()),
        system=platform.platform(aliased=True, terse=True),
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        **libraries(),
    )
    if torch.device(device).type == 'cuda':
        facts.update(
            gpu=torch.cuda.get_device_name(device),
            cuda=str(torch.version.cuda),
            cudnn=str(torch.backends.cudnn.version()),
        )
    return facts


def libraries() -> dict[str, str]:
    """Return the versions of OpenMMLab's or OneDL's packages, of those that are installed."""
    names = itertools.chain(*DISTRIBUTIONS.values())
    return {name: found for name in names if (found := version(name))}


def _extensions() -> str:
    """Return those of the processor's instructions for 16 bit that PyTorch uses."""
    flags = (read_field('/proc/cpuinfo', 'flags') or '').split()
    known = [
        flag for flag in ('avx512_bf16', 'avx512_fp16', 'amx_bf16', 'amx_fp16') if flag in flags
    ]
    return f' ({", ".join(known)})' if known else ''


def read_field(file: str, name: str) -> str | None:
    """Return the first value of a ``name: value`` line of a file, None where there is none."""
    path = Path(file)
    for line in path.read_text().splitlines() if path.exists() else []:
        key, _, value = line.partition(':')
        if key.strip() == name:
            return value.strip()
    return None


class Watch:
    """Watch the processor, and the GPU if one is measured, from ``start`` on.

    Args:
        device: What is measured.
        pids: Processes that measure for this one, and are no disturbance.
    """

    def __init__(self, device: str | torch.device = 'cpu', pids: Iterable[int | None] = ()) -> None:
        self.cuda = torch.device(device).type == 'cuda'
        self.pids = [pid for pid in pids if pid]

    def start(self) -> 'Watch':
        """Begin."""
        self.before = self._read()
        return self

    def disturbances(self) -> list[str]:
        """Return what has disturbed the measurement since the start, a sentence each."""
        before, after = self.before, self._read()
        gone = {name: after[name] - before[name] for name in before}
        found = []
        if gone['total'] and gone['stolen'] / gone['total'] > STOLEN:
            share = gone['stolen'] / gone['total']
            found.append(f'the CPU is shared: {share:.0%} of its time went to other machines')
        elapsed = max(gone['wall'], 1e-9)
        others = (gone['busy'] - gone['own']) / elapsed
        # Ticks are counted in hundredths of a second; a short measurement cannot tell.
        if gone['busy'] and elapsed > 1 and others > OTHERS:
            found.append(f'the CPU is shared: other processes kept {others:.2f} cores busy')
        if gone['throttled']:
            found.append('the CPU was throttled, by heat or by a limit on its use')
        if self.cuda and (reason := gpu_slowdown()):
            found.append(f'the GPU was slowed down: {reason}')
        return found

    def _read(self) -> dict[str, float]:
        """Read the counters; seconds, or 0 where the system has none."""
        own = sum(os.times()[:4]) + sum(map(cpu_seconds, self.pids))
        ticks = [0.0] * 8
        if Path('/proc/stat').exists():
            first = Path('/proc/stat').read_text().split('\n', 1)[0].split()
            ticks = [int(value) / TICKS for value in first[1:9]]
        idle = ticks[3] + ticks[4]
        return dict(
            wall=time.perf_counter(),
            total=sum(ticks),
            busy=sum(ticks[:7]) - idle,
            stolen=ticks[7],
            own=own,
            throttled=throttle_count(),
        )


def cpu_seconds(pid: int) -> float:
    """Return what a process has computed; 0 once it was waited for, and counts as a child's."""
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def throttle_count() -> int:
    """Return how often the cores were slowed by heat, or this group of processes by its quota."""
    cores = Path('/sys/devices/system/cpu').glob('cpu*/thermal_throttle/*_throttle_count')
    count = sum(int(path.read_text()) for path in cores)
    for path in map(Path, ('/sys/fs/cgroup/cpu.stat', '/sys/fs/cgroup/cpu/cpu.stat')):
        if path.exists():
            fields = dict(line.split() for line in path.read_text().splitlines())
            count += int(fields.get('nr_throttled', 0))
    return count


def gpu_slowdown() -> str | None:
    """Return why the GPU's clocks are held down, None where they are not or nobody tells."""
    query = 'clocks_event_reasons.{}'
    reasons = ('hw_slowdown', 'sw_thermal_slowdown', 'sw_power_cap')
    command = ['nvidia-smi', '--format=csv,noheader']
    command.append('--query-gpu=' + ','.join(query.format(reason) for reason in reasons))
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    active = [
        reason.replace('_', ' ')
        for line in answer.stdout.splitlines()
        for reason, value in zip(reasons, line.split(','), strict=False)
        if value.strip() == 'Active'
    ]
    return ', '.join(dict.fromkeys(active)) or None
