"""What the commands do: the only place that knows all rooms."""

from exporter.pipeline.archive import Checked, check, pack, unpack
from exporter.pipeline.chat import Talk, talk
from exporter.pipeline.export import (
    export_gguf,
    export_onnx,
    export_stock,
    gguf_options,
    onnx_advice,
    onnx_options,
)
from exporter.pipeline.forget import Forgotten, forget
from exporter.pipeline.preflight import Preflight, check_recipe, load_recipe, require
from exporter.pipeline.publish import Published, publish
from exporter.pipeline.push import Request, push
from exporter.pipeline.run import (
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
from exporter.pipeline.run_folders import model_in
from exporter.pipeline.verify import verify
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
