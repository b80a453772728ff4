"""What the commands do: the only place that knows all rooms."""

from exporter.pipeline.exports import (
    export_gguf,
    export_onnx,
    export_stock,
    gguf_options,
    onnx_advice,
    onnx_options,
)
from exporter.pipeline.forgets import Forgotten, forget
from exporter.pipeline.handoffs import Checked, check, pack, unpack
from exporter.pipeline.publishes import Published, publish
from exporter.pipeline.pushes import Request, push
from exporter.pipeline.runs import (
    DEMO_RECIPE,
    Run,
    compile,  # noqa: A004 - the command's name
    demo,
    fit,
    inspect,
    inspect_stock,
    reach_note,
    run,
    upgrade,
)
from exporter.pipeline.talks import Talk, talk
from exporter.pipeline.verifies import verify
from exporter.targets.companions import left_out

__all__ = [
    "DEMO_RECIPE",
    "Checked",
    "Forgotten",
    "Published",
    "Request",
    "Run",
    "Talk",
    "check",
    "compile",
    "demo",
    "export_gguf",
    "export_onnx",
    "export_stock",
    "fit",
    "forget",
    "gguf_options",
    "inspect",
    "inspect_stock",
    "left_out",
    "onnx_advice",
    "onnx_options",
    "pack",
    "publish",
    "push",
    "reach_note",
    "run",
    "talk",
    "unpack",
    "upgrade",
    "verify",
]
