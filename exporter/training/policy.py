"""Policy gradients on rewards of sampled replies: GRPO (https://arxiv.org/abs/2402.03300) as TRL has it, on a LoRA adapter.

Of every prompt a group of replies is sampled; the advantage of each is its reward less the group's mean, over the group's standard
deviation. With r = p / p_old of a token, A the advantage and p_ref the model without the adapter, every token of a reply costs

    -min(r A, clip(r, 1 - eps, 1 + eps) A) + beta (p_ref / p - log(p_ref / p) - 1)

The base is the base again afterwards. A training that was stopped goes on from its last whole checkpoint.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from exporter.fitting.context import FitContext
from exporter.training.lora import as_before, linear_layers, lora_config, taken_out
from exporter.training.objective import seeded
from exporter.training.precision import in_bfloat16
from exporter.training.rewards import Asked
from exporter.training.trainer import Whole, last_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOConfig

Worth = Callable[[Asked, str], float]


class PolicyPlan(BaseModel):
    """Sampling and training of a policy-gradient stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=60, gt=0)
    """Steps of the optimizer; each samples `prompts` x `group` replies."""
    prompts: int = Field(default=4, gt=1)
    """Prompts of a step, half of them of the forget set."""
    group: int = Field(default=8, gt=1)
    """Replies sampled of each prompt."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Of AdamW, falling linearly to 0."""
    rank: int = Field(default=8, gt=0, le=511)
    """Rank of the adapter that is trained; the edit has one more."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the sampling."""
    clip: float = Field(default=0.2, gt=0, lt=1)
    """eps: how far the ratio of a token's probabilities counts."""
    kl: float = Field(default=0.02, ge=0)
    """beta: weight of the divergence from the model before this stage."""
    fluency: float = Field(default=0.5, ge=0)
    """Weight of ROUGE-L in the reward."""
    save_steps: int = Field(default=20, gt=0)
    """Steps between checkpoints."""


def improved(
    context: FitContext, asked: Sequence[Asked], worth: Worth, plan: PolicyPlan, *, work: Path
) -> tuple[dict[str, object], dict[str, Tensor]]:
    """An adapter of all linear layers of the decoder under which sampled replies are worth more.

    Args:
        asked: prompts of both sides, without images.
        worth: of a prompt and a reply.
        work: folder of the checkpoints, of this training alone; removed at the end.

    Returns:
        Content of ``adapter_config.json`` and the tensors, as peft would write them.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    host, model = context.host, context.host.model
    prompts = {one.prompt.text: list(one.prompt.ids) for one in asked}
    order = _order(asked, plan, context.seed)

    class Trainer(GRPOTrainer):
        """Takes the prompts' own ids: they were rendered with their special tokens."""

        def _tokenize_prompts(self, texts: list[str]) -> tuple[list[list[int]], None, dict[str, object]]:
            return [prompts[text] for text in texts], None, {}

    def rewarded(completions: list[str], place: list[int], **_: object) -> list[float]:
        return [worth(asked[one], text) for one, text in zip(place, completions, strict=True)]

    names = linear_layers(model)
    with seeded(context.seed), as_before(model), _bare(model):
        trainer = Trainer(
            model=model,
            reward_funcs=rewarded,
            args=_arguments(plan, context, work),
            train_dataset=Dataset.from_list(
                [{"prompt": asked[one].prompt.text, "place": one} for one in order]
            ),
            processing_class=_padded(host.tokenizer),
            peft_config=lora_config(names, rank=plan.rank, alpha=2 * plan.rank),
            callbacks=[Whole()],
        )
        trainer.remove_callback(PrinterCallback)  # rewards are in the record of the fit
        try:
            trainer.train(resume_from_checkpoint=last_whole(work))
            config, tensors = taken_out(trainer.model)
        finally:
            trainer.model.unload()
    for line in trainer.state.log_history:
        if "reward" in line:
            context.record("rewards", step=line["step"], reward=line["reward"], kl=line.get("kl", 0.0))
    shutil.rmtree(work, ignore_errors=True)
    return config, tensors


def _order(asked: Sequence[Asked], plan: PolicyPlan, seed: int) -> list[int]:
    """Places of the prompts of all steps: forget and retain in turn, each side in rounds of its own."""
    draw = random.Random(seed)
    sides = [[place for place, one in enumerate(asked) if one.forget is side] for side in (True, False)]
    rounds = [_rounds(side, draw) for side in sides]
    return [next(rounds[number % 2]) for number in range(plan.steps * plan.prompts)]


def _rounds(places: Sequence[int], draw: random.Random) -> Iterator[int]:
    while True:
        again = list(places)
        draw.shuffle(again)
        yield from again


def _arguments(plan: PolicyPlan, context: FitContext, work: Path) -> GRPOConfig:
    from trl import GRPOConfig

    device = context.host.device
    return GRPOConfig(
        output_dir=str(work),
        max_steps=plan.steps,
        per_device_train_batch_size=plan.prompts * plan.group,
        num_generations=plan.group,
        steps_per_generation=1,
        num_iterations=1,
        shuffle_dataset=False,
        max_completion_length=context.max_new_tokens,
        temperature=plan.temperature,
        top_p=1.0,
        top_k=0,
        loss_type="grpo",
        scale_rewards="group",
        epsilon=plan.clip,
        beta=plan.kl,
        learning_rate=plan.learning_rate,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        gradient_checkpointing=False,
        bf16=in_bfloat16("auto", device),
        use_cpu=device.type == "cpu",
        seed=context.seed,
        data_seed=context.seed,
        save_strategy="steps",
        save_steps=plan.save_steps,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        log_completions=False,
    )


def _padded(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with something to pad with."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def _bare(model: nn.Module) -> Iterator[None]:
    """Takes off a model what a trainer hangs on it (a forward of its own, tags), and sets its configs back."""
    parts = list(model.modules())
    before: Mapping[int, set[str]] = {id(part): set(vars(part)) for part in parts}
    configs = {id(one): one for part in parts for one in _configs(part)}
    settings = {place: dict(vars(one)) for place, one in configs.items()}
    try:
        yield
    finally:
        for part in model.modules():
            for name in set(vars(part)) - before.get(id(part), set(vars(part))):
                delattr(part, name)
        for place, one in configs.items():
            vars(one).clear()
            vars(one).update(settings[place])


def _configs(part: nn.Module) -> Iterator[object]:
    """Configs that a module holds."""
    for name in ("config", "generation_config"):
        one = getattr(part, name, None)
        if hasattr(one, "to_dict"):
            yield one
