"""What a published folder says of itself, and how it leaves this machine."""
