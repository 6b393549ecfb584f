"""The import paths of ``torch.distributed.elastic``, for code in which ``rallypoint`` stands for ``torch.distributed``.

Nothing is written here. Each module re-exports under torch's name what has its home elsewhere in the package; what
torch has and rallypoint has not is missing here too, so that the import fails and not the job.
"""
