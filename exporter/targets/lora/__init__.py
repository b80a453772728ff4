"""Target ``lora``: the steering as an ordinary LoRA adapter, trained to what the steered checkpoint says."""
