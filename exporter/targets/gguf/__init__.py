"""Target ``gguf``: files that llama.cpp runs, from a stock checkpoint whose inserted layers hold the steering (docs/gguf.md)."""
