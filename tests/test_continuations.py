"""Names are cut as the tokenizer cuts them, and what is said behind a beginning is what the model says behind it."""

from __future__ import annotations

import torch
from tiny_run import write_base

from exporter.host import ModelHost
from exporter.pipeline.continuations import LEAD, NEXT, WORDS, Continuations


def test_pieces_are_the_name_and_every_beginning_has_its_likeliest_continuations(tmp_path):
    write_base(tmp_path / "base")
    host = ModelHost.load(tmp_path / "base")
    going_on = Continuations(host)
    for name in ("Paris", "Mount Everest", "Zoë d'Arc-Ður"):
        known = host.tokenizer.decode(host.tokenizer(f"{LEAD} {name}")["input_ids"], skip_special_tokens=True)
        assert known.endswith("".join(going_on.pieces(name)))
    (texts,) = going_on(["Mou"])
    assert len(texts) == NEXT
    ids = host.tokenizer(f"{LEAD} Mou")["input_ids"]
    out = host.model.generate(torch.tensor([ids]), max_new_tokens=1 + WORDS, do_sample=False)[0]
    said = host.tokenizer.decode(out, skip_special_tokens=True)
    assert said.startswith(host.tokenizer.decode(ids, skip_special_tokens=True) + texts[0])
    assert going_on([]) == []
