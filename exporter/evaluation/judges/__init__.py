"""Who says what no string match can: whether a secret follows from a reasoning, whether a reasoning is sound, how a reply reads."""
