"""The graph: values, what an operator is, rewriting, text. Uses base."""
