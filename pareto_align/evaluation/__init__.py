"""What policies are worth on held-out prompts or comparisons, and which of them can be told apart."""
