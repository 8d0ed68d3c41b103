"""What a new worker process finds under the name ``core``; it is replaced by the toolbox."""

from invertune_plugin.adapters.backdoorbox.loader import enter_worker

enter_worker()
