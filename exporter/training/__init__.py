"""Training of weight edits: examples from rows, one LoRA adapter, one trainer, and an objective a file."""
