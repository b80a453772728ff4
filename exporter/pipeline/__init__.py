"""What the commands do: the only place that knows all rooms."""

from exporter.evaluation.judges.endpoint import EndpointJudge
from exporter.look_inside import inspect, model_in, summary
from exporter.pipeline.archive import Checked, check, pack, unpack
from exporter.pipeline.attack import Siege, attack
from exporter.pipeline.chat import Talk, talk
from exporter.pipeline.checkpoints import compile, reach_note, upgrade  # noqa: A004 - the command's name
from exporter.pipeline.evaluate import EvaluationRequest, evaluate
from exporter.pipeline.export import export
from exporter.pipeline.forget import Forgotten, forget
from exporter.pipeline.preflight import Preflight, check_recipe, load_recipe, require
from exporter.pipeline.publish import Published, publish
from exporter.pipeline.push import Request, push
from exporter.pipeline.run import DEMO_RECIPE, Run, demo, fit, run
from exporter.pipeline.train_along import train_along
from exporter.pipeline.verify import verify
from exporter.processes import is_main
from exporter.publish.hub import Pushed
from exporter.targets.companions import left_out

__all__ = [
    "DEMO_RECIPE",
    "Checked",
    "EndpointJudge",
    "EvaluationRequest",
    "Forgotten",
    "Preflight",
    "Published",
    "Pushed",
    "Request",
    "Run",
    "Siege",
    "Talk",
    "attack",
    "check",
    "check_recipe",
    "compile",
    "demo",
    "evaluate",
    "export",
    "fit",
    "forget",
    "inspect",
    "is_main",
    "left_out",
    "load_recipe",
    "model_in",
    "pack",
    "publish",
    "push",
    "reach_note",
    "require",
    "run",
    "summary",
    "talk",
    "train_along",
    "unpack",
    "upgrade",
    "verify",
]
