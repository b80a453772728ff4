"""Target ``adapter``: a weight edit as a LoRA adapter in peft's own format, for those who have the base already."""
