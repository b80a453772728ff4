"""What stock checkpoints forget and keep on test rows: in Transformers, in llama.cpp and in onnxruntime-genai."""
