"""The models of each stage: mathematics in the docstring, a short method per constraint family."""
