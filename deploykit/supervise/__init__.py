"""Starts, watches, restarts and drains a deployment's processes. Empty: the children import `child` alone."""
