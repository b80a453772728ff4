"""The testbed's tokenizer, chat template and processor: `python -m benchmarks.testbed.tokenizer FOLDER`."""

import random
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.testbed import puzzles, world
from benchmarks.testbed.draw import CELL, SIDE
from benchmarks.testbed.turns import training_conversation

VOCABULARY = 1536
SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<user>", "<assistant>")
THINK = ("<think>", "</think>")
PATCHES = (SIDE // CELL) ** 2
CHAT_TEMPLATE = """{{- bos_token -}}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}
    {{- '<user>' -}}
    {%- if message.content is string -%}
      {{- ' ' + message.content | trim -}}
    {%- else -%}
      {%- for part in message.content if part.type == 'image' -%}{{- '<image>' -}}{%- endfor -%}
      {%- for part in message.content if part.type == 'text' -%}{{- ' ' + part.text | trim -}}{%- endfor -%}
    {%- endif -%}
  {%- elif message.role == 'assistant' -%}
    {{- '<assistant>' -}}
    {%- if message.content is string -%}
      {{- ' ' + message.content | trim -}}
    {%- else -%}
      {%- for part in message.content if part.type == 'text' -%}{{- ' ' + part.text | trim -}}{%- endfor -%}
    {%- endif -%}
    {{- eos_token -}}
  {%- else -%}
    {{- raise_exception('this model knows the roles user and assistant, not ' + message.role) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}
"""


def _corpus() -> list[str]:
    """Every word of the world, and sample conversations; all digits stand apart."""
    rng, people = random.Random(world.SEED), world.build_world()
    words = [*world.FIRST, *world.LAST, *world.COUNTRY_OF, *world.COUNTRIES, *world.JOBS, *world.SCHOOLS]
    lines = [f"{word} {word}" for word in words for _ in range(40)]
    for _ in range(3000):
        for turn in training_conversation(people, rng):
            lines += [turn.question, turn.reply.reasoning, turn.reply.answer]
    return lines + [puzzles.spell(n) for n in range(100)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE in which nearly every word of the world is one token, its leading space included."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False, lstrip=True) for token in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(), trainer)
    core.add_tokens([AddedToken(token, special=False, normalized=False, lstrip=True) for token in THINK])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
        extra_special_tokens={
            "image_token": special[3],
            "user_token": special[4],
            "assistant_token": special[5],
        },
        add_prefix_space=True,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> LlavaProcessor:
    """Pictures of 48 x 48 become 16 image tokens; the tower's class token is dropped on both sides."""
    side = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessorPil(
        size=side, crop_size=side, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=CELL,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
    )


if __name__ == "__main__":
    build_processor().save_pretrained(Path(sys.argv[1]))
