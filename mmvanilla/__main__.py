"""``python -m mmvanilla`` is the command ``mmvanilla``."""

from .cli.main import main

main()
