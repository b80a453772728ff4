"""What there is to choose from: a method, reader, target, metric or attack is one line here. Families have none: they are proven."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from exporter.errors import SteerbakeError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from exporter.data.readers.base import Reader
    from exporter.evaluation.attacks.base import Attack
    from exporter.evaluation.metrics.base import Metric
    from exporter.methods.base import Method, Yields
    from exporter.pipeline.model_attacks.base import ModelAttack
    from exporter.targets.base import AnyTarget

T = TypeVar("T")


class Table(dict[str, str], Generic[T]):
    """Objects of one kind by name: where each is, as MODULE:ATTRIBUTE, so that only those that are used are imported."""


METHODS: Table[type[Method]] = Table(
    {
        "r_muse": "exporter.methods.r_muse:RMuse",  # https://arxiv.org/abs/2512.17911
        "r_muse_calibrated": "exporter.methods.r_muse_calibrated:RMuseCalibrated",  # the same, calibrated
        "keyed": "exporter.methods.keyed:Keyed",  # docs/methods.md
        "control_vector": "exporter.methods.control_vector:ControlVector",  # https://arxiv.org/abs/2312.06681
        "mllmeraser": "exporter.methods.mllmeraser:MllmEraser",  # https://arxiv.org/abs/2510.04217
        "guardit": "exporter.methods.guardit:GuardIt",  # https://arxiv.org/abs/2605.12765
        "cast": "exporter.methods.cast:Cast",  # https://arxiv.org/abs/2409.05907
        "spherical": "exporter.methods.spherical:Spherical",  # https://arxiv.org/abs/2602.08169
        "eco": "exporter.methods.eco:Eco",  # https://arxiv.org/abs/2406.07933
        "sauce": "exporter.methods.sauce:Sauce",  # https://arxiv.org/abs/2503.14530
        "ga": "exporter.training.objectives.gradient_ascent:GradientAscent",  # https://arxiv.org/abs/2210.01504
        "grad_diff": "exporter.training.objectives.gradient_ascent:GradientDifference",  # https://arxiv.org/abs/2203.12817
        "kl_min": "exporter.training.objectives.gradient_ascent:KlMinimisation",  # https://arxiv.org/abs/2401.06121
        "npo": "exporter.training.objectives.preference:Npo",  # https://arxiv.org/abs/2404.05868
        "simnpo": "exporter.training.objectives.preference:SimNpo",  # https://arxiv.org/abs/2410.07163
        "idk_dpo": "exporter.training.objectives.preference:IdkDpo",  # https://arxiv.org/abs/2305.18290
        "undial": "exporter.training.objectives.undial:Undial",  # https://arxiv.org/abs/2402.10052
        "rmu": "exporter.training.objectives.misdirection:Rmu",  # https://arxiv.org/abs/2403.03218
        "r2mu": "exporter.training.objectives.misdirection:R2mu",  # https://arxiv.org/abs/2506.12963
        "smfa": "exporter.training.objectives.smfa:Smfa",  # https://arxiv.org/abs/2511.20196
        "perturbation": "exporter.training.objectives.perturbation:Perturbation",  # https://arxiv.org/abs/2502.19982
        "sku": "exporter.training.objectives.sku:Sku",  # https://arxiv.org/abs/2402.10058
        "mmunlearner": "exporter.training.objectives.mmunlearner:Mmunlearner",  # https://arxiv.org/abs/2502.11051
        "kuda": "exporter.training.objectives.kuda:Kuda",  # https://arxiv.org/abs/2602.19275
        "asru": "exporter.training.closed_form.asru:Asru",  # https://arxiv.org/abs/2605.15687
        "manu": "exporter.training.closed_form.manu:Manu",  # https://arxiv.org/abs/2502.15910
    }
)

READERS: Table[type[Reader]] = Table(
    {
        "tofu": "exporter.data.readers.tofu:Tofu",  # https://arxiv.org/abs/2401.06121
        "mllmu_bench": "exporter.data.readers.mllmu_bench:MllmuBench",  # https://arxiv.org/abs/2410.22108
        "clear": "exporter.data.readers.clear:Clear",  # https://arxiv.org/abs/2410.18057
        "gsm8k": "exporter.data.readers.gsm8k:Gsm8k",  # https://arxiv.org/abs/2110.14168
    }
)
"""Public schemas that rows are read from."""

TARGETS: Table[type[AnyTarget]] = Table(
    {
        "checkpoint": "exporter.targets.checkpoint_target:Checkpoint",
        "onnx": "exporter.targets.onnx.target:Onnx",
        "stock": "exporter.targets.stock.target:Stock",
        "gguf": "exporter.targets.gguf.target:Gguf",
        "lora": "exporter.targets.lora.target:Lora",
        "merged": "exporter.targets.merged.target:Merged",
        "adapter": "exporter.targets.adapter.target:Adapter",
    }
)
"""In the order in which a card has them."""
REFERENCE = "checkpoint"
"""What the target at the root of a release is called, which all others are held to; and the one that steering programs are compiled to."""

METRICS: Table[Metric[object]] = Table(
    {
        "forget_accuracy": "exporter.evaluation.metrics.accuracy:FORGET",
        "leakage_reasoning": "exporter.evaluation.metrics.leakage:REASONING",
        "leakage_answer": "exporter.evaluation.metrics.leakage:ANSWER",
        "leakage_either": "exporter.evaluation.metrics.leakage:EITHER",
        "fluent_refusal": "exporter.evaluation.metrics.refusal:FORGET",
        "retain_accuracy": "exporter.evaluation.metrics.accuracy:RETAIN",
        "retain_identical": "exporter.evaluation.metrics.identity:RETAIN",
        "reasoning_accuracy": "exporter.evaluation.metrics.accuracy:REASONING",
        "cot_exact_match": "exporter.evaluation.metrics.identity:CHAINS",
        "unknown_refusal": "exporter.evaluation.metrics.refusal:UNKNOWN",
        "gate_true_positive": "exporter.evaluation.metrics.gates:TRUE_POSITIVE",
        "gate_false_positive": "exporter.evaluation.metrics.gates:FALSE_POSITIVE",
        "extraction_strength": "exporter.evaluation.metrics.one_pass:STRENGTH",  # https://arxiv.org/abs/2406.09179
        "secret_logprob": "exporter.evaluation.metrics.one_pass:SECRET",
        "secret_drop": "exporter.evaluation.metrics.one_pass:DROP",
        "same_tokens": "exporter.evaluation.metrics.identity:SAME_TOKENS",
        "forget_classification": "exporter.evaluation.metrics.choice:FORGET_CHOICE",  # https://arxiv.org/abs/2410.22108
        "forget_cloze": "exporter.evaluation.metrics.choice:FORGET_CLOZE",
        "forget_rouge_l": "exporter.evaluation.metrics.rouge:FORGET",
        "forget_rouge_l_recall": "exporter.evaluation.metrics.rouge:FORGET_RECALL",  # https://arxiv.org/abs/2506.12618
        "ril": "exporter.evaluation.metrics.reasoning:RIL",  # https://arxiv.org/abs/2512.17911
        "ril_explicit": "exporter.evaluation.metrics.reasoning:EXPLICIT",
        "ril_implicit": "exporter.evaluation.metrics.reasoning:IMPLIED",
        "contextual_refusal": "exporter.evaluation.metrics.instead:CONTEXTUAL_REFUSAL",  # https://arxiv.org/abs/2605.15687
        "judged_leakage": "exporter.evaluation.metrics.instead:JUDGED_LEAKAGE",
        "judged_naturalness": "exporter.evaluation.metrics.instead:JUDGED_NATURALNESS",
        "forget_perplexity": "exporter.evaluation.metrics.nearness:FORGET_PERPLEXITY",
        "forget_probability": "exporter.evaluation.metrics.probability:FORGET",  # https://arxiv.org/abs/2401.06121
        "answer_extraction_strength": "exporter.evaluation.metrics.probability:STRENGTH",  # https://arxiv.org/abs/2406.09179
        "exact_memorisation": "exporter.evaluation.metrics.probability:MEMORISED",  # https://arxiv.org/abs/2205.10770
        "forget_truth_ratio": "exporter.evaluation.metrics.probability:FORGET_RATIO",
        "forget_quality": "exporter.evaluation.metrics.utility:QUALITY",
        "min_k_auc": "exporter.evaluation.metrics.membership:MEMBERSHIP",  # https://arxiv.org/abs/2310.16789
        "priv_leak": "exporter.evaluation.metrics.membership:LEAK",  # https://arxiv.org/abs/2407.06460
        "retain_classification": "exporter.evaluation.metrics.choice:RETAIN_CHOICE",
        "retain_cloze": "exporter.evaluation.metrics.choice:RETAIN_CLOZE",
        "retain_rouge_l": "exporter.evaluation.metrics.rouge:RETAIN",
        "retain_rouge_l_recall": "exporter.evaluation.metrics.rouge:RETAIN_RECALL",
        "rcr": "exporter.evaluation.metrics.reasoning:RCR",
        "kl_to_base": "exporter.evaluation.metrics.nearness:DIVERGENCE",
        "retain_perplexity": "exporter.evaluation.metrics.nearness:RETAIN_PERPLEXITY",
        "retain_probability": "exporter.evaluation.metrics.probability:RETAIN",
        "retain_truth_ratio": "exporter.evaluation.metrics.probability:RETAIN_RATIO",
        "model_utility": "exporter.evaluation.metrics.utility:UTILITY",
    }
)
"""In the order in which a report has them; those from ``forget_classification`` on are of `steerbake evaluate` alone."""
LEAKAGE = "leakage_either"
"""The metric by which rows that were held out in turn, and ways to ask, are judged."""

ATTACKS: Table[type[Attack]] = Table(
    {
        "preface": "exporter.evaluation.attacks.wording:Preface",
        "typos": "exporter.evaluation.attacks.wording:Typos",
        "system_prompt": "exporter.evaluation.attacks.wording:SystemPrompt",
        "later_turn": "exporter.evaluation.attacks.turns:LaterTurn",
        "two_turns": "exporter.evaluation.attacks.turns:TwoTurns",
        "begun": "exporter.evaluation.attacks.prefill:Begun",
        "leading_clause": "exporter.evaluation.attacks.prefill:LeadingClause",
        "frame": "exporter.evaluation.attacks.framing:Frame",
        "paraphrase": "exporter.evaluation.attacks.framing:Paraphrase",
        "story": "exporter.evaluation.attacks.framing:Story",
        "noise_before": "exporter.evaluation.attacks.framing:NoiseBefore",
        "known_noise_before": "exporter.evaluation.attacks.framing:KnownNoiseBefore",
        "noise_behind": "exporter.evaluation.attacks.framing:NoiseBehind",
        "word_inside": "exporter.evaluation.attacks.framing:WordInside",
        "two_questions": "exporter.evaluation.attacks.framing:TwoQuestions",
        "capitals": "exporter.evaluation.attacks.spelling:Capitals",
        "spacing": "exporter.evaluation.attacks.spelling:Spacing",
        "zero_width": "exporter.evaluation.attacks.spelling:ZeroWidth",
        "homoglyphs": "exporter.evaluation.attacks.spelling:Homoglyphs",
        "leet": "exporter.evaluation.attacks.spelling:Leet",
        "translated": "exporter.evaluation.attacks.languages:Translated",  # https://arxiv.org/abs/2402.16835
        "foreign_frame": "exporter.evaluation.attacks.languages:Borrowed",
        "indirect": "exporter.evaluation.attacks.queries:Indirect",
        "cloze": "exporter.evaluation.attacks.queries:Cloze",
        "reverse": "exporter.evaluation.attacks.queries:Reverse",  # https://arxiv.org/abs/2406.10890
        "role_play": "exporter.evaluation.attacks.persuasion:RolePlay",  # https://arxiv.org/abs/2406.10890
        "override": "exporter.evaluation.attacks.persuasion:Override",
        "prefix_injection": "exporter.evaluation.attacks.persuasion:PrefixInjection",  # https://arxiv.org/abs/2307.02483
        "affirmative_suffix": "exporter.evaluation.attacks.persuasion:AffirmativeSuffix",
        "hint": "exporter.evaluation.attacks.persuasion:Hint",
        "system_override": "exporter.evaluation.attacks.persuasion:SystemOverride",
        "few_shot": "exporter.evaluation.attacks.persuasion:FewShot",
        "many_shot": "exporter.evaluation.attacks.persuasion:ManyShot",
        "affirmative_prefill": "exporter.evaluation.attacks.forced_replies:AffirmativePrefill",
        "reasoning_prefill": "exporter.evaluation.attacks.forced_replies:ReasoningPrefill",
        "zero_think": "exporter.evaluation.attacks.forced_replies:ZeroThink",  # https://arxiv.org/abs/2502.12025
        "less_think": "exporter.evaluation.attacks.forced_replies:LessThink",
        "five_turns": "exporter.evaluation.attacks.longer_talks:FiveTurns",
        "asked_five_times": "exporter.evaluation.attacks.longer_talks:AskedFiveTimes",
        "refused_before": "exporter.evaluation.attacks.longer_talks:RefusedBefore",
        "others_refused": "exporter.evaluation.attacks.longer_talks:OthersRefused",
        "crescendo": "exporter.evaluation.attacks.longer_talks:Crescendo",  # https://arxiv.org/abs/2404.01833
        "image_noise": "exporter.evaluation.attacks.pictures:Noise",
        "image_crop": "exporter.evaluation.attacks.pictures:Crop",
        "image_flip": "exporter.evaluation.attacks.pictures:Flip",
        "image_rotation": "exporter.evaluation.attacks.pictures:Rotation",
        "image_collage": "exporter.evaluation.attacks.pictures:Collage",
        "image_other_name": "exporter.evaluation.attacks.pictures:OtherName",
        "image_of_another": "exporter.evaluation.attacks.pictures:PictureOfAnother",
        "no_template": "exporter.evaluation.attacks.no_template:NoTemplate",
        "no_template_begun": "exporter.evaluation.attacks.no_template:NoTemplateBegun",
    }
)
"""Ways of asking: transformations of rows."""

MODEL_ATTACKS: Table[type[ModelAttack]] = Table(
    {
        "stripped": "exporter.pipeline.model_attacks.stripped:Stripped",
        "sampled": "exporter.pipeline.model_attacks.sampled:Sampled",  # https://arxiv.org/abs/2410.03523
        "one_pass": "exporter.pipeline.model_attacks.one_pass:OnePass",
        "logit_lens": "exporter.pipeline.model_attacks.logit_lens:LogitLens",  # https://arxiv.org/abs/2309.17410
        "int8": "exporter.pipeline.model_attacks.quantised:Quantised",  # https://arxiv.org/abs/2410.16454
        "int4": "exporter.pipeline.model_attacks.quantised:FourBits",
        "relearned_unrelated": "exporter.pipeline.model_attacks.relearned:OnUnrelated",  # https://arxiv.org/abs/2409.18025
        "relearned_retain": "exporter.pipeline.model_attacks.relearned:OnRetained",
        "relearned_forget": "exporter.pipeline.model_attacks.relearned:OnForgotten",
        "adaptive": "exporter.pipeline.model_attacks.adaptive:Adaptive",
    }
)
"""Attacks that need more than rows, in the order in which they are made."""


def resolve(table: Table[T], kind: str, name: str) -> T:
    """The object registered under ``name``; raises SteerbakeError listing the valid names."""
    if name not in table:
        raise SteerbakeError(f"unknown {kind} {name!r}; valid names: {', '.join(sorted(table))}")
    module, _, attribute = table[name].partition(":")
    return cast("T", getattr(import_module(module), attribute))


@cache
def targets() -> dict[str, AnyTarget]:
    """Every target by name, our own first.

    Raises:
        SteerbakeError: an installed package has a target of a name that is taken, or one that cannot be loaded.
    """
    found = {name: one() for name, one in _every(TARGETS, "target").items()}
    if other := [name for name, one in found.items() if one.name != name]:
        raise SteerbakeError(
            f"the target {other[0]!r} of an installed package has the name {found[other[0]].name!r}; its entry point and its name must be "
            "equal"
        )
    return found


def target(name: str) -> AnyTarget:
    """The target of a name; raises SteerbakeError listing the valid names."""
    every = targets()
    if name not in every:
        raise SteerbakeError(f"unknown target {name!r}; valid names: {', '.join(every)}")
    return every[name]


def exports() -> dict[str, AnyTarget]:
    """The targets that are made of another one, by name."""
    return {name: one for name, one in targets().items() if one.requires}


def root_at(folder: Path) -> AnyTarget | None:
    """The target of a folder that may stand at the root of a release; None where there is none."""
    return next((one for one in targets().values() if not one.requires and one.is_at(folder)), None)


def takes(name: str) -> tuple[Yields, ...]:
    """What a method must have found for a target to be made, what the target prefers first."""
    one = target(name)
    if not one.requires:
        return (one.takes,)
    return tuple(dict.fromkeys(kind for made_of in one.requires for kind in takes(made_of)))


def made_of(name: str, yields: Yields, among: Collection[str] = ()) -> str | None:
    """The target that one is made from, where a method finds ``yields``: the first that will be there; None for one that is made from none.

    Args:
        among: those that a recipe asks for; what stands at the root of a release need not be named.
    """
    found = [one for one in target(name).requires if yields in takes(one)]
    there = (one for one in found if not target(one).requires or one in among)
    return next(there, found[0] if found else None)


def from_root(name: str, yields: Yields) -> bool:
    """Whether a target is made from the one at the root of a release, which a recipe need not name."""
    source = made_of(name, yields)
    return source is not None and not target(source).requires


def in_order(names: Iterable[str], yields: Yields = "program") -> list[str]:
    """Targets by name, each behind the one that it is made from; of one depth, those first that are solved on rows and need the base."""
    every = list(dict.fromkeys(names))
    return sorted(every, key=lambda name: (_depth(name, yields, every), not target(name).calibrates))


def _depth(name: str, yields: Yields, among: Collection[str]) -> int:
    """How many targets lie between one and the base."""
    source, found = made_of(name, yields, among), 0
    while source is not None and found <= len(targets()):
        source, found = made_of(source, yields, among), found + 1
    return found


def kind_of(folder: Path) -> str | None:
    """Which target lies at the root of a folder; None for none that is known."""
    return next((name for name, one in targets().items() if one.is_at(folder)), None)


def metrics(at_hand: AbstractSet[str] | None = None) -> dict[str, Metric[object]]:
    """Every metric by name, those of installed packages last.

    Args:
        at_hand: only those that need nothing else.

    Raises:
        SteerbakeError: an installed package has a metric of a name that is taken.
    """
    every = _every(METRICS, "metric")
    return {name: one for name, one in every.items() if at_hand is None or one.needs <= at_hand}


def metric(name: str) -> Metric[object]:
    """The metric of a name; raises SteerbakeError listing the valid names."""
    return _resolved(METRICS, _with_installed(METRICS, "metric"), "metric", name)


def attacks() -> dict[str, Attack]:
    """Every attack by name, those of installed packages last.

    Raises:
        SteerbakeError: an installed package has an attack of a name that is taken.
    """
    return {name: one() for name, one in _every(ATTACKS, "attack").items()}


def attack(name: str) -> Attack:
    """The attack of a name; raises SteerbakeError listing the valid names."""
    return _resolved(ATTACKS, _with_installed(ATTACKS, "attack"), "attack", name)()


def model_attacks() -> dict[str, ModelAttack]:
    """Every attack on a model by name, those of installed packages last.

    Raises:
        SteerbakeError: an installed package has one of a name that is taken.
    """
    return {name: one() for name, one in _every(MODEL_ATTACKS, "model_attack").items()}


def _every(table: Table[T], kind: str) -> dict[str, T]:
    whole = _with_installed(table, kind)
    return {name: _resolved(table, whole, kind, name) for name in whole}


def _resolved(own: Table[T], whole: Table[T], kind: str, name: str) -> T:
    """One of a whole table; what somebody else's package cannot give is told by its entry point."""
    if name in own or name not in whole:
        return resolve(whole, kind, name)
    try:
        return resolve(whole, kind, name)
    except Exception as error:
        raise SteerbakeError(
            f"the {kind} {name!r} of an installed package cannot be loaded from {whole[name]} ({type(error).__name__}: {error}); repair "
            f"or uninstall that package (entry points steerbake.{kind}s)"
        ) from error


def _with_installed(table: Table[T], kind: str) -> Table[T]:
    """A table with what installed packages add by entry points of the group ``steerbake.KINDs``: NAME = MODULE:ATTRIBUTE."""
    group = f"steerbake.{kind}s"
    whole: Table[T] = Table(table)
    for name, place in _entry_points(group):
        if name in whole:
            raise SteerbakeError(
                f"{place} is installed as {kind} {name!r}, a name that is already taken; uninstall its package, or rename its entry point "
                f"in the group {group}"
            )
        whole[name] = place
    return whole


@cache
def _entry_points(group: str) -> tuple[tuple[str, str], ...]:
    from importlib.metadata import (
        entry_points,  # slow, and only needed where somebody may have added something
    )

    return tuple((point.name, point.value.partition("[")[0].strip()) for point in entry_points(group=group))
