"""A folder for ``sys.path``: worker processes find the toolbox in it; see workers.py."""
