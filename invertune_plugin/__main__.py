"""``python -m invertune_plugin`` is the command ``invertune``."""

from invertune_plugin.cli import main

main()
