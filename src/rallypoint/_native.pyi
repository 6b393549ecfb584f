"""The compiled twin as Python sees it."""
