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
from exporter.pipeline.preflight import Preflight, check_recipe, load_recipe, require
from exporter.pipeline.publishes import Published, publish
from exporter.pipeline.pushes import Request, push
from exporter.pipeline.run_folders import model_in
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
    "Preflight",
    "Published",
    "Request",
    "Run",
    "Talk",
    "check",
    "check_recipe",
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
    "load_recipe",
    "model_in",
    "onnx_advice",
    "onnx_options",
    "pack",
    "publish",
    "push",
    "reach_note",
    "require",
    "run",
    "talk",
    "unpack",
    "upgrade",
    "verify",
]
