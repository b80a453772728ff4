"""What the steering loses as an ordinary LoRA adapter, and whether others load it."""
