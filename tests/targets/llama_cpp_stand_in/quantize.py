"""Stands in for llama-quantize: 8 bits for every matrix whose name no --tensor-type names."""

from __future__ import annotations

import re
import sys

import gguf


def main() -> None:
    *options, source, out, kind, _threads = sys.argv[1:]
    assert kind == "Q8_0" and options[::2] == ["--tensor-type"] * (len(options) // 2), sys.argv
    kept = [option.rpartition("=")[0] for option in options[1::2]]
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub_type = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        data, dtype = tensor.data, None
        if data.ndim == 2 and not any(re.search(pattern, tensor.name) for pattern in kept):
            dtype = gguf.GGMLQuantizationType.Q8_0
            data = gguf.quants.quantize(data.astype("float32"), dtype)
        writer.add_tensor(tensor.name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
