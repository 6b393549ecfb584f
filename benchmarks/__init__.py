"""How fast is the store, beside its peers, in the same run? ``python -m benchmarks``; see README.md."""
