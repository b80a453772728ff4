"""Target ``onnx``: graphs that ONNX Runtime runs with the steering inside (docs/onnx.md)."""
