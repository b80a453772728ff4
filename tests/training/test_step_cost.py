"""What makes a step cheaper on a CPU changes what it computes by rounding at most."""

from __future__ import annotations

import planted
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from exporter.data.chat import Chat
from exporter.training import trainer
from exporter.training.examples import Collator, Examples
from exporter.training.labelled_columns import before_labels, head_over
from exporter.training.lora import linear_layers, taken_out, with_adapter
from exporter.training.losses import mean_nll
from exporter.training.settings import TrainingSettings
from exporter.training.short_attention import SHORT, attention_for
from exporter.training.step import run_pass


@pytest.fixture
def host():
    return planted.host()


def conversations(host):
    chat = Chat(host.processor)
    return [chat.encode(row) for row in planted.rows("fit", "forget")]


@pytest.fixture
def batch(host):
    found = Examples.of(conversations(host), (), (), (), epochs=1, seed=0)
    return Collator(host)([found[place] for place in range(len(found))])["forget"]


def test_the_head_reads_the_columns_before_labels_and_no_other(host, batch):
    read = []
    head = host.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda part, inputs, out: read.append(inputs[0].shape[:-1]))
    with torch.no_grad():
        logits = run_pass(host.model, batch, ()).logits
        hook.remove()
        whole = host.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    count = int((batch["labels"][:, 1:] != -100).sum())
    assert read == [(1, count)]
    torch.testing.assert_close(logits, before_labels(whole, batch["labels"]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mean_nll(logits, batch["labels"]), mean_nll(whole, batch["labels"]))


def test_a_batch_without_labels_and_a_model_without_a_head_have_every_column(host, batch):
    plain = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        whole = run_pass(host.model, plain, ()).logits
        assert whole.shape[:2] == batch["input_ids"].shape
        host.model.get_output_embeddings = lambda: None
        there = run_pass(host.model, batch, ()).logits
    torch.testing.assert_close(there, before_labels(whole, batch["labels"]), rtol=0, atol=0)


def test_the_head_is_its_own_again(host, batch):
    head = host.model.get_output_embeddings()
    with pytest.raises(RuntimeError, match="stop"), head_over(host.model, batch["labels"]):
        raise RuntimeError("stop")
    assert not head._forward_pre_hooks


def attention(length: int, kind: torch.dtype = torch.float32):
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, length, 8, dtype=kind, requires_grad=True) for _ in range(3)]
    with attention_for(torch.zeros(2, length, dtype=torch.long)):
        return parts, scaled_dot_product_attention(*parts, is_causal=True)


def test_short_attention_is_written_out_and_long_is_not():
    fused = "Flash"
    assert fused not in attention(SHORT)[1].grad_fn.name()
    assert fused in attention(SHORT + 1)[1].grad_fn.name()
    with torch.no_grad():
        assert attention_for(torch.zeros(2, 3, dtype=torch.long)).__class__.__name__ == "nullcontext"


def test_written_out_it_has_the_same_gradients():
    parts, out = attention(40)
    found = torch.autograd.grad(out.square().sum(), parts)
    wanted = torch.autograd.grad(scaled_dot_product_attention(*parts, is_causal=True).square().sum(), parts)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def trained(tmp_path, host):
    """Tensors of an adapter that was trained for a few steps in bfloat16."""
    settings = TrainingSettings(
        rank=2, alpha=4, learning_rate=1e-2, epochs=3, batch_size=2, precision="bfloat16"
    )
    found = Examples.of(conversations(host), (), (), (), epochs=3, seed=0)
    torch.manual_seed(0)
    with with_adapter(host.model, linear_layers(host.model), rank=2, alpha=4) as tuned:
        trainer.train(
            tuned,
            lambda step: mean_nll(step.edited(step.forget).logits, step.forget["labels"]),
            found,
            Collator(host),
            settings,
            work=tmp_path,
            seed=0,
            device=torch.device("cpu"),
            progress=False,
        )
        return taken_out(tuned)[1]


def test_without_casts_that_the_next_product_undoes_it_is_the_same_to_the_bit(tmp_path, monkeypatch, host):
    without = trained(tmp_path / "without", host)
    kept = trainer.disable_input_dtype_casting
    monkeypatch.setattr(trainer, "disable_input_dtype_casting", lambda model, active: kept(model, False))
    cast = trained(tmp_path / "cast", host)
    assert any(bool(one.any()) for name, one in without.items() if "lora_B" in name)
    assert all(torch.equal(one, cast[name]) for name, one in without.items())
