"""The base of an edit where that is a model in memory: what is noted of it, and whether it is the one that an edit notes."""

from __future__ import annotations

from transformers import PreTrainedModel

from exporter.pipeline.loaded_fingerprint import fingerprint_of, weights_of
from exporter.targets.edited_base import edited_base, other_setting, plain_settings
from exporter.weight_edit import EditedBase


def edited_base_of(model: PreTrainedModel) -> EditedBase:
    """What an edit that was fitted on a loaded model notes of it: that of the files that it was loaded from, where they hold just this model.

    Else a digest of all weights is left out, as the files that it is going to be saved to do not exist yet.

    Raises:
        InputErrors: as :func:`exporter.pipeline.loaded_fingerprint.fingerprint_of`.
    """
    fingerprint = fingerprint_of(model)
    with weights_of(model) as weights:
        if weights is not None and weights.fingerprint() == fingerprint:  # then all of it was compared
            return edited_base(weights.folder)
    return EditedBase(
        architecture=type(model).__name__,
        model_type=model.config.model_type,
        fingerprint=fingerprint,
        settings=plain_settings(model.config.to_dict()),
    )


def why_other_model(wanted: EditedBase, model: PreTrainedModel) -> str | None:
    """Why a loaded model is not the one that an edit was fitted on, in a few words; None where it is."""
    found = edited_base_of(model)
    if found.fingerprint != wanted.fingerprint:
        return "its weights have another fingerprint"
    if key := other_setting(wanted, model.config.to_dict()):
        return f"{key} is another"
    both = {found.weights_sha256, wanted.weights_sha256}
    return "its weights are others" if len(both) == 2 and None not in both else None
