"""Predictions in JSON Lines, written as they come, and resumed."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping

from ...errors import UserError
from ...whole_files import writing
from .inputs import Input


class Lines:
    """The file ``predictions.jsonl``, and ``run.json`` with the model and options.

    Each line is an image with ``file`` and ``name``, a frame of a video with ``frame``, or the end
    of a complete video. Only the last line can be incomplete, after a kill.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = os.path.join(folder, 'predictions.jsonl')
        self.run_path = os.path.join(folder, 'run.json')
        self.names: set[str] = set()

    def __iter__(self) -> Iterator[dict]:
        """Yield the lines, except for an incomplete one."""
        with open(self.path, 'rb') as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                yield entry

    def append(self, entry: Mapping) -> None:
        """Append a line."""
        with open(self.path, 'ab') as file:
            file.write(json.dumps(entry).encode() + b'\n')

    def start(self, inputs: list[Input], run: Mapping, resume: bool) -> list[Input]:
        """Begin the file, or drop the lines of incomplete inputs from it.

        Args:
            inputs: All inputs.
            run: Model and options that the predictions depend on, JSON types.
            resume: Keep the lines of an earlier run.

        Returns:
            The inputs that are not in the file.

        Raises:
            UserError: If the earlier run was another, or had another file of the same name.
        """
        owners: dict[str, str] = {}  # files by name
        done: set[str] = set()
        kept: Iterable[dict] = ()
        if resume and os.path.exists(self.path):
            self._check_run(run)
            owners = {entry['name']: entry['file'] for entry in self if 'frame' not in entry}
            done = set(owners.values())
            kept = (entry for entry in self if entry['file'] in done)
        for item in inputs:
            if owners.get(item.name, item.path) != item.path:
                raise UserError(
                    f'{item.path!r} is called {item.name!r} in the results, which in '
                    f'{self.folder!r} is {owners[item.name]!r}; name another --out'
                )
        with writing(self.path) as path, open(path, 'w') as file:
            file.writelines(f'{json.dumps(entry)}\n' for entry in kept)
        with writing(self.run_path) as path, open(path, 'w') as file:
            json.dump(run, file, indent=1)
        self.names = set(owners)
        return [item for item in inputs if item.path not in done]

    def _check_run(self, run: Mapping) -> None:
        """Raise a UserError if an earlier run differs."""
        try:
            with open(self.run_path) as file:
                earlier = json.load(file)
        except (OSError, ValueError) as error:
            raise UserError(
                f'{self.run_path!r} cannot be read ({error}), so the model of the predictions '
                'next to it is unknown; leave out --resume to begin again'
            ) from error
        for key in {**earlier, **run}:
            if earlier.get(key) != run.get(key):
                raise UserError(
                    f'the predictions in {self.folder!r} were made with {key} {earlier.get(key)}, '
                    f'this run has {run.get(key)}; name another --out, or leave out --resume'
                )
