"""A small multimodal reasoning model and a fictitious world to unlearn people from."""
