"""From a target to everything that the processes are started with; import from its modules."""
