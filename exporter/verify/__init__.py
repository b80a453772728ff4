"""Whether a folder is what it claims to be: it loads strictly, says what the checkpoint says, and tells nothing it must not."""
