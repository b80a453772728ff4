"""Everything that may call a steered checkpoint, on several versions of Transformers: it steers, or it raises."""
