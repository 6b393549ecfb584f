"""The only room that knows other projects: torch's process groups (``torch``) and its launcher (``torchrun``).

Nothing here is imported by the rest of the package, and torch itself only inside functions; one of them is called when
``rallypoint.integrations.torch`` is imported.
"""
