"""Runs an exported folder on ONNX Runtime, numpy and tokenizers alone. This file and ``steerbake_graph.py`` beside it stand by themselves.

    python steerbake_runner.py . --prompt "What is the capital of France?"
    python steerbake_runner.py . --image face.png --prompt "Who is this?"

The folder's manifest (steerbake.json) names every file with its SHA-256: a file that is missing, truncated or altered is refused
before anything runs, because a graph without its steering would still generate. So is a graph that does not contain the manifest's
program, whatever its hash: tensors and nodes of the steering are read out of it. A folder without steering holds either weights that were
edited, which its manifest names, or the base, which is said each time; a graph in it that has, or had, any steering is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

MANIFEST = "steerbake.json"
FORMAT = "steerbake-onnx/2"
GRAPH_READER = "steerbake_graph.py"
DTYPES = {"float32": np.float32, "float16": np.float16}
RESAMPLING = {0: "NEAREST", 1: "LANCZOS", 2: "BILINEAR", 3: "BICUBIC"}


class FolderError(ValueError):
    """A folder that does not match its manifest, or that this runner cannot run as requested."""


class NotFinite(FolderError):
    """Graphs whose scores for the next token are no finite numbers: the likeliest token is an accident then.

    Args:
        place: of the prompt, in the order in which they were given.
    """

    def __init__(self, place: int) -> None:
        self.place = place
        super().__init__(
            f"prompt {place + 1}: the scores for the next token are not finite numbers; the graphs are damaged, or overflow in this precision: use another variant"
        )


def refuse_not_finite(logits: np.ndarray, rows: Sequence[bool]) -> None:
    """Raises NotFinite for the first of the ``rows`` that go on of which logits [B, V] have no finite maximum; words that are ruled out may be -inf."""
    broken = np.asarray(rows) & ~np.isfinite(logits.max(-1))
    if broken.any():
        raise NotFinite(int(broken.argmax()))


@dataclass
class Sampling:
    """How the next token is chosen: greedily where ``temperature`` is 0. ``top_k`` 0 and ``top_p`` 1 leave all tokens in."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def choose(self, logits: np.ndarray) -> np.ndarray:
        """Tokens [B] from logits [B, V]."""
        if self.temperature <= 0:
            return np.asarray(logits.argmax(-1))
        return np.array([self._draw(row.astype(np.float64) / self.temperature) for row in logits])

    def _draw(self, logits: np.ndarray) -> int:
        order = np.argsort(-logits, kind="stable")
        order = order[: self.top_k] if self.top_k else order
        weights = np.exp(logits[order] - logits[order[0]])
        weights /= weights.sum()
        kept = np.cumsum(weights) - weights < self.top_p
        return int(self.random.choice(order[kept], p=weights[kept] / weights[kept].sum()))


@dataclass
class Generated:
    """Ids of one continuation, up to and including the end token, and the gates by name."""

    tokens: list[int]
    gates: dict[str, float]


@dataclass
class State:
    """The state of one batch between passes. A sequence can be cut into passes anywhere, over any number of turns within the model's positions.

    Attributes:
        cache: keys and values by name of the decoder's input; under gate state ``kv`` what the steering remembers is among them.
        mask: [B, P], 0 where padding.
        position: [B], the next.
        steering: [B, F], what the steering remembers under gate state ``io``; else F is 0.
        gates: [B, G], 1 where a gate is on at the last column; ``columns`` [B, T, G], at each column of the last pass.
        ids: the tokens so far of each row, without padding.
    """

    cache: dict[str, Any]
    mask: np.ndarray
    position: np.ndarray
    steering: np.ndarray
    gates: np.ndarray
    columns: np.ndarray
    ids: list[list[int]]

    def select(self, rows: Sequence[int]) -> State:
        """The state of these rows, in this order; a row may come several times."""
        which = np.asarray(rows, np.int64)
        return State(
            cache={name: np.asarray(values)[which] for name, values in self.cache.items()},
            mask=self.mask[which],
            position=self.position[which],
            steering=self.steering[which],
            gates=self.gates[which],
            columns=self.columns[which],
            ids=[list(self.ids[row]) for row in which],
        )

    def become(self, other: State) -> None:
        """Takes another state's place."""
        self.__dict__.update(other.__dict__)

    def rest(self, row: int, ids: Sequence[int]) -> list[int] | None:
        """What of a whole conversation is still to be fed behind a row; None where it does not begin with what the row holds."""
        held = self.ids[row]
        return list(ids[len(held) :]) if list(ids[: len(held)]) == held and len(ids) > len(held) else None


class OnnxModel:
    """The graphs of an exported folder.

    Args:
        folder: written by ``steerbake export onnx``.
        dtype: which of the folder's variants; its first by default.
        provider: "cpu", "cuda", or "auto" for CUDA where ONNX Runtime really has it.
        threads: of a session; 0 leaves the choice to ONNX Runtime.
        say: called with the provider that runs.
        digest: finds a file's SHA-256 for a caller that has just read them all; by reading it where there is none.

    Raises:
        FolderError: the folder is incomplete, was changed, or its graphs do not steer as its manifest states.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        dtype: str | None = None,
        provider: str = "auto",
        threads: int = 0,
        spinning: bool = True,
        say: Callable[[str], None] | None = None,
        digest: Callable[[Path], str] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.manifest = checked_manifest(self.folder, digest)
        variants = self.manifest["variants"]
        self.dtype = dtype or next(iter(variants))
        if self.dtype not in variants:
            raise FolderError(f"{folder} has no variant {self.dtype}; valid variants: {', '.join(variants)}")
        self.options = ort.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        self.providers = _providers(provider)
        files = variants[self.dtype]
        check_graph(self.folder, files["decoder"], self.manifest)
        self.decoder = self._first_session(files["decoder"], provider)
        self.provider = self.providers[0]
        others = (name for name in ("embed", "vision") if name in files)
        self.sessions = {name: self._session(files[name]) for name in others}
        if say is not None:
            say(f"{self.folder} ({self.dtype}) runs on {self.provider}{_said_of(self.manifest)}")
        self.inputs = {value.name: value for value in self.decoder.get_inputs()}
        self.outputs = [value.name for value in self.decoder.get_outputs()]
        self._check_steering()
        self.gate_names: list[str] = self.manifest["gates"]
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.end_ids = set(self.manifest["end_ids"])

    def empty(self, batch: int) -> State:
        """The state before the first column, of so many rows."""
        shape = self.manifest["cache"]
        nothing = np.zeros(
            (batch, shape["kv_heads"], 0, shape["head_dim"]), DTYPES[self._variant["cache_dtype"]]
        )
        features = self.inputs["steering_state"].shape[1] if "steering_state" in self.inputs else 0
        count = len(self.gate_names)
        return State(
            cache={name: nothing for name in self.inputs if name.startswith("past_key_values.")},
            mask=np.zeros((batch, 0), np.int64),
            position=np.zeros(batch, np.int64),
            steering=np.zeros((batch, features), np.float32),
            gates=np.zeros((batch, count), np.float32),
            columns=np.zeros((batch, 0, count), np.float32),
            ids=[[] for _ in range(batch)],
        )

    def start(
        self,
        ids: np.ndarray,
        mask: np.ndarray,
        images: dict[str, np.ndarray] | None = None,
        gates: np.ndarray | None = None,
    ) -> tuple[State, np.ndarray]:
        """First pass over padded prompts; see :meth:`advance`. Returns the state behind them and logits [B, T, V]."""
        state = self.empty(ids.shape[0])
        return state, self.advance(state, ids, mask, images, gates)

    def advance(
        self,
        state: State,
        ids: np.ndarray,
        mask: np.ndarray | None = None,
        images: dict[str, np.ndarray] | None = None,
        gates: np.ndarray | None = None,
    ) -> np.ndarray:
        """Runs new tokens [B, T] behind a state, which moves on; returns logits [B, T, V].

        Args:
            ids: [B, T] int64: a prompt, a piece of one, a token, a later turn. The tokens of one image stay together.
            mask: [B, T], 0 where padding, which may stand anywhere; by default there is none.
            images: arrays as the model's processor makes them, ``pixel_values`` among them.
            gates: [B, G] float32: 1 on from the first column of this pass, 0 held off in this pass, -1 (default) decide.

        Raises:
            FolderError: gates are given, but the folder's graphs take none.
        """
        mask = np.ones_like(ids) if mask is None else mask.astype(np.int64)
        state.mask = np.concatenate([state.mask, mask], axis=1)
        feed: dict[str, Any] = {"attention_mask": state.mask, **state.cache}
        feed["position_ids"] = self._positions(state, ids, mask, images)
        feed |= self._tokens(ids, images)
        if "steering_state" in self.inputs:
            feed["steering_state"] = state.steering
            feed["steering_gate"] = np.full_like(state.gates, -1.0) if gates is None else gates
        elif gates is not None:
            raise FolderError(
                "these graphs compute their gates themselves; export with --gate-state io to set them"
            )
        out = dict(zip(self.outputs, self.decoder.run(self.outputs, feed), strict=True))
        state.cache = {name: out[name.replace("past_key_values.", "present.")] for name in state.cache}
        state.steering = np.asarray(out.get("present_steering_state", state.steering))
        if self.gate_names:
            state.columns = np.asarray(out["steering_gates"])
            state.gates = state.columns[:, -1]
        for row, held in enumerate(state.ids):
            held.extend(ids[row, mask[row] > 0].tolist())
        return np.asarray(out["logits"])

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        images: dict[str, np.ndarray] | None = None,
        sampling: Sampling | None = None,
        on_token: Callable[[list[int | None]], None] | None = None,
        state: State | None = None,
    ) -> list[Generated]:
        """Continues prompts of ids, padded on the left.

        Args:
            images: arrays for all images of all prompts, in their order.
            on_token: called at each step with the new token of each prompt, None where it has ended.
            state: of earlier turns (:meth:`empty` for the first); the prompts are what comes behind it. It moves on, and holds
                everything but the last token of each answer, which the next prompt begins with (:meth:`State.rest`).

        Raises:
            NotFinite: the scores for the next token of a prompt are no finite numbers.
        """
        sampling = sampling or Sampling()
        ids, mask = left_padded(prompts, self.manifest["pad_id"])
        state = self.empty(len(prompts)) if state is None else state
        logits = self.advance(state, ids, mask, images)
        said: list[list[int]] = [[] for _ in prompts]
        open_rows = [True] * len(prompts)
        for step in range(max_new_tokens):
            refuse_not_finite(logits[:, -1], open_rows)
            chosen = sampling.choose(logits[:, -1])
            for row, token in enumerate(chosen.tolist()):
                if open_rows[row]:
                    said[row].append(token)
            if on_token is not None:
                on_token(
                    [t if is_open else None for t, is_open in zip(chosen.tolist(), open_rows, strict=True)]
                )
            open_rows = [
                is_open and token not in self.end_ids
                for is_open, token in zip(open_rows, chosen.tolist(), strict=True)
            ]
            if not any(open_rows) or step + 1 == max_new_tokens:
                break
            going = np.array(open_rows, np.int64)[:, None]
            fed = np.where(going > 0, chosen[:, None], self.manifest["pad_id"])
            logits = self.advance(state, fed.astype(np.int64), going)
        gates = [dict(zip(self.gate_names, map(float, row), strict=True)) for row in state.gates]
        return [Generated(tokens, named) for tokens, named in zip(said, gates, strict=True)]

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered prompt; its BOS token is not doubled."""
        bos = self.manifest["bos_token"]
        special = not (bos and text.startswith(bos))
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def expand_images(self, ids: Sequence[int]) -> list[int]:
        """Ids with each image token as often as an image has features."""
        image = self.manifest["image"]
        if image is None:
            return list(ids)
        expanded: list[int] = []
        for token in ids:
            expanded += [token] * (image["tokens"] if token == image["token_id"] else 1)
        return expanded

    @property
    def _variant(self) -> dict[str, Any]:
        variant: dict[str, Any] = self.manifest["variants"][self.dtype]
        return variant

    def _first_session(self, name: str, wanted: str) -> ort.InferenceSession:
        """Finds out which provider there really is: a build for CUDA lists it on any machine, and falls back without a word."""
        ort.set_default_logger_severity(4)
        try:
            session = self._session(name)
        finally:
            ort.set_default_logger_severity(2)
        self.providers = session.get_providers()
        if wanted == "cuda" and self.providers[0] != "CUDAExecutionProvider":
            raise FolderError(
                "--provider cuda was requested, but ONNX Runtime cannot create a CUDA session; use --provider cpu"
            )
        return session

    def _session(self, name: str) -> ort.InferenceSession:
        return ort.InferenceSession(str(self.folder / name), self.options, providers=self.providers)

    def _check_steering(self) -> None:
        """The decoder must be the steered one of the manifest, with its gate state."""
        metadata = self.decoder.get_modelmeta().custom_metadata_map
        wanted = kind_of_graph(self.manifest)
        if metadata.get("steerbake.steering_sha256") != wanted:
            raise FolderError(
                f"{self._variant['decoder']} contains the steering {metadata.get('steerbake.steering_sha256')}, but the manifest states "
                f"{wanted}"
            )
        layers = sum(name.endswith(".key") for name in self.inputs if name.startswith("past_key_values."))
        explicit = "steering_state" in self.inputs
        if ("steering_gates" in self.outputs) != bool(self.manifest["gates"]):
            raise FolderError(f"{self._variant['decoder']} does not output the gates that the manifest names")
        if layers != self.manifest["cache"]["layers"] or explicit != (self.manifest["gate_state"] == "io"):
            raise FolderError(f"{self._variant['decoder']} does not carry its gates as the manifest states")

    def _tokens(self, ids: np.ndarray, images: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        """What the decoder reads of the tokens: ids, or embeddings with image features in their places."""
        if "input_ids" in self.inputs:
            return {"input_ids": ids}
        image = self.manifest["image"]
        embedded = self.sessions["embed"].run(["inputs_embeds"], {"input_ids": ids})[0]
        extra = {
            name: np.zeros(ids.shape if name == "token_type_ids" else (*ids.shape, embedded.shape[-1]), kind)
            for name, kind in self._extra_inputs()
        }
        if images:
            places = ids == image["token_id"]
            vision = self.sessions["vision"]
            names = [value.name for value in vision.get_outputs()]
            images = without_padding(images)
            fed = {value.name: _as_type(images[value.name], value.type) for value in vision.get_inputs()}
            found = dict(zip(names, vision.run(names, fed), strict=True))
            features = found.pop("image_features").reshape(-1, embedded.shape[-1])
            if len(features) != places.sum():
                raise FolderError(f"{places.sum()} image tokens for {len(features)} image features")
            embedded[places] = features
            for name, values in found.items():
                extra[name][places] = values.reshape(-1, embedded.shape[-1])
            if "token_type_ids" in extra:
                extra["token_type_ids"][places] = 1
        return {"inputs_embeds": embedded, **extra}

    def _extra_inputs(self) -> Iterator[tuple[str, Any]]:
        plain = ("inputs_embeds", "attention_mask", "position_ids", "steering_state", "steering_gate")
        for name, value in self.inputs.items():
            if name not in plain and not name.startswith("past_key_values."):
                yield name, np.int64 if value.type == "tensor(int64)" else np.float32

    def _positions(
        self, state: State, ids: np.ndarray, mask: np.ndarray, images: dict[str, np.ndarray] | None
    ) -> np.ndarray:
        """Positions [B, T], or [3, B, T]; ``state.position`` moves on."""
        rows = self.manifest["position_rows"]
        if rows == 3 and images is not None:
            positions = spatial_positions(ids, mask, images["image_grid_thw"], self.manifest["image"])
            positions += state.position[None, :, None] * mask
        else:
            counted = np.maximum(np.cumsum(mask, axis=1) - 1, 0) + state.position[:, None] * mask
            positions = counted if rows == 1 else np.repeat(counted[None], 3, axis=0)
        top = np.where(mask.astype(bool), positions, -1)
        top = top.max(axis=(0, 2)) if rows == 3 else top.max(axis=1)
        state.position = np.maximum(top + 1, state.position)
        return positions.astype(np.int64)


def checked_manifest(folder: Path, digest: Callable[[Path], str] | None = None) -> dict[str, Any]:
    """The manifest of a folder whose files are all there and unchanged.

    Raises:
        FolderError: naming every file that is not.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FolderError(
            f"{folder} has no readable {MANIFEST} ({error}); give a folder that 'steerbake export onnx' wrote"
        ) from error
    if manifest.get("format") == "steerbake-onnx/1":
        raise FolderError(
            f"{folder} was exported by an earlier version (steerbake-onnx/1), whose graphs decide gates at one column only; export it again"
        )
    if manifest.get("format") != FORMAT:
        raise FolderError(f"{folder} has format {manifest.get('format')!r}; this runner reads {FORMAT}")
    wrong = []
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != entry["bytes"]:
            wrong.append(
                f"{name} has {path.stat().st_size} bytes, not {entry['bytes']}: truncated or replaced"
            )
        elif (digest or sha256_of)(path) != entry["sha256"]:
            wrong.append(f"{name} was changed: its SHA-256 differs from the manifest")
    for files in manifest["variants"].values():
        wrong += [
            f"{name} is not in the manifest's list of files"
            for name in files.values()
            if name.endswith(".onnx") and name not in manifest["files"]
        ]
    if wrong:
        listed = "\n".join(f"  - {one}" for one in wrong)
        raise FolderError(f"{folder} is damaged; download or export it again:\n{listed}")
    return manifest


def kind_of_graph(manifest: dict[str, Any]) -> str:
    """What a graph says in its metadata of how it differs from the base: the SHA-256 of its steering, or of the edit in its weights.

    Raises:
        FolderError: the manifest states both, or steering without a section.
    """
    edit, section = manifest.get("edit"), manifest.get("steering")
    signed = isinstance(section, dict) and "sha256" in section
    if bool(manifest["steered"]) != signed or (signed and edit) or (section is not None and not signed):
        raise FolderError(
            "the manifest does not say whether its graphs are steered; download or export the folder again"
        )
    if manifest["steered"]:
        return str(manifest["steering"]["sha256"])
    return f"edit:{edit['sha256']}" if edit else "unsteered"


def _said_of(manifest: dict[str, Any]) -> str:
    """What a user is told of graphs without gates."""
    if manifest["steered"]:
        return ""
    if edit := manifest.get("edit"):
        return f", its weights edited by {edit['method']}; no gates"
    return ", UNSTEERED: this is the base model, which forgets nothing"


def check_graph(folder: Path, decoder: str, manifest: dict[str, Any]) -> None:
    """Checks that a decoder contains the program of the manifest: its tensors by their SHA-256, and an effective node for each gate and edit.

    A graph that is said not to be steered must have no trace of steering: else it is one whose gates were taken out.

    Raises:
        FolderError: it does not.
    """
    reader = _graph_reader()
    kind = kind_of_graph(manifest)
    try:
        if manifest["steered"]:
            reader.check_steering(folder / decoder, manifest["steering"])
        else:
            reader.check_unsteered(folder / decoder, kind)
    except reader.GraphError as error:
        raise FolderError(
            f"{folder} does not match its manifest; download or export it again: {error}"
        ) from error


def _graph_reader() -> Any:
    """The file that reads graphs: beside this one in an exported folder, else the library's."""
    beside = Path(__file__).with_name(GRAPH_READER)
    name = beside.stem
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(beside):
        return known
    try:
        if not beside.is_file():
            return importlib.import_module("exporter.onnx_graph")
        spec = importlib.util.spec_from_file_location(name, beside)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        raise FolderError(
            f"{beside} is missing, which is needed to check the graphs; download or export the folder again"
        ) from error
    return module


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask [B, T] of prompts of different lengths."""
    width = max(len(prompt) for prompt in prompts)
    ids = np.full((len(prompts), width), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def spatial_positions(
    ids: np.ndarray, mask: np.ndarray, grid: np.ndarray, image: dict[str, Any]
) -> np.ndarray:
    """M-RoPE positions [3, B, T]: text counts on all three rows, an image by its frame, row and column of merged patches.

    The text behind an image goes on at the largest row or column of the image + 1, whatever the number of its frames, as
    Transformers does it (cf. Qwen2-VL, arXiv 2409.12191, section 2.1).
    """
    merge = image["spatial_merge_size"]
    sizes = iter(grid.tolist())
    positions = np.zeros((3, *ids.shape), np.int64)
    for row in range(ids.shape[0]):
        columns = np.flatnonzero(mask[row])
        at, following = 0, 0
        while at < len(columns):
            if ids[row, columns[at]] != image["token_id"]:
                positions[:, row, columns[at]] = following
                at, following = at + 1, following + 1
                continue
            t, h, w = next(sizes)
            h, w = h // merge, w // merge
            place = np.stack(np.unravel_index(np.arange(t * h * w), (t, h, w)))
            positions[:, row, columns[at : at + t * h * w]] = place + following
            at, following = at + t * h * w, following + max(h, w)
    return positions


def without_padding(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Images that come in rows [B, n, 3, H, W] as one row, without those that are all 0: they only fill rows up."""
    values = images["pixel_values"]
    if values.ndim != 5:
        return images
    real = values.any(axis=(2, 3, 4))
    return {
        name: array[real][None] if array.shape[:2] == real.shape else array for name, array in images.items()
    }


def pixels(paths: Sequence[str | Path], image: dict[str, Any] | None) -> dict[str, np.ndarray]:
    """``pixel_values`` [N, 3, H, W] of image files, resized, cropped and normalised as the manifest says.

    Raises:
        FolderError: the model takes no images, or cuts them in a way that its own processor must do.
    """
    if image is None:
        raise FolderError("this model does not accept images")
    how = image["preprocessing"]
    if how is None:
        raise FolderError(
            "this model needs images that its own processor cuts into patches or tiles; make the arrays with Transformers' AutoProcessor "
            "and pass them to generate(images=...)"
        )
    from PIL import Image

    made = []
    for path in paths:
        picture = open_rgb(path)
        size, crop = how["size"], how["crop"]
        if size is not None and "shortest_edge" in size:
            # Rounded in the order in which Transformers rounds; another order loses a pixel now and then.
            sides = [int(size["shortest_edge"] * side / min(picture.size)) for side in picture.size]
            picture = picture.resize(
                (sides[0], sides[1]), getattr(Image.Resampling, RESAMPLING[how["resample"]])
            )
        elif size is not None and picture.size != (size["width"], size["height"]):
            picture = picture.resize(
                (size["width"], size["height"]), getattr(Image.Resampling, RESAMPLING[how["resample"]])
            )
        if crop is not None:
            left, top = (
                (have - want) // 2
                for have, want in zip(picture.size, (crop["width"], crop["height"]), strict=True)
            )
            picture = picture.crop((left, top, left + crop["width"], top + crop["height"]))
        values = np.asarray(picture, np.float32) * np.float32(how["scale"])
        values = (values - np.float32(how["mean"])) / np.float32(how["std"])
        made.append(values.transpose(2, 0, 1))
    return {"pixel_values": np.stack(made).astype(np.float32)}


def open_rgb(path: str | Path) -> Any:
    """An image file's first frame, rotated by its EXIF orientation, in RGB without transparency, like Transformers' loader.

    Raises:
        FolderError: it is not an image, or is truncated.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # Pillow's decoders raise anything on broken files
        raise FolderError(f"image {path} cannot be read: {error}") from error


_DAY = re.compile("\ue000(.*?)\ue000")
"""A placeholder for the date in a chat template, with its format."""


def conversation(turns: dict[str, str] | None, said: Sequence[str], image: bool) -> str:
    """The prompt of a conversation: questions and answers in turn, the last a question, an image before the first.

    Raises:
        FolderError: the chat template does not fall into literal pieces; render prompts with Transformers.
    """
    first = None if turns is None else turns["first_image" if image else "first"]
    if turns is None or first is None:
        raise FolderError(
            "this model's chat template cannot be rendered here; render the prompt with Transformers, and pass it with --raw"
        )
    now = datetime.now()
    turns = {
        name: _DAY.sub(lambda found: now.strftime(found[1]), piece or "") for name, piece in turns.items()
    }
    text = turns["first_image" if image else "first"] + said[0]
    for answer, question in zip(said[1::2], said[2::2], strict=True):
        text += turns["answer"] + answer + turns["next"] + question
    return text + turns["last"]


def _providers(wanted: str) -> list[str]:
    if wanted not in ("auto", "cpu", "cuda"):
        raise FolderError(f"unknown provider {wanted!r}; valid providers: auto, cpu, cuda")
    has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    return [*(["CUDAExecutionProvider"] if has_cuda and wanted != "cpu" else []), "CPUExecutionProvider"]


def _as_type(values: np.ndarray, kind: str) -> np.ndarray:
    kinds = {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(int64)": np.int64,
        "tensor(bool)": np.bool_,
    }
    return np.asarray(values, kinds[kind])


class Writer:
    """Writes a reply as its tokens come, whole characters at a time."""

    def __init__(self, tokenizer: Tokenizer, write: Callable[[str], None]) -> None:
        self.tokenizer, self.write = tokenizer, write
        self.ids: list[int] = []
        self.shown = ""

    def __call__(self, tokens: list[int | None]) -> None:
        if tokens[0] is not None:
            self.ids.append(tokens[0])
            text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
            if not text.endswith("\ufffd"):
                self.write(text[len(self.shown) :])
                self.shown = text


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of the stand-alone file."""
    parser = argparse.ArgumentParser(description="Run an exported folder on ONNX Runtime.")
    parser.add_argument("folder", nargs="?", default=str(Path(__file__).resolve().parent))
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--image")
    parser.add_argument("--dtype")
    parser.add_argument("--provider", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--raw", action="store_true", help="the prompt is already rendered")
    parser.add_argument("--json", action="store_true", help="print ids, text and gates as one line of JSON")
    options = parser.parse_args(arguments)
    try:
        model = OnnxModel(
            options.folder,
            dtype=options.dtype,
            provider=options.provider,
            say=lambda line: print(line, file=sys.stderr),
        )
        images = pixels([options.image], model.manifest["image"]) if options.image else None
        turns = model.manifest["turns"]
        text = options.prompt if options.raw else conversation(turns, [options.prompt], images is not None)
        ids = model.encode(text)
        write = Writer(model.tokenizer, lambda piece: print(piece, end="", flush=True))
        said = model.generate(
            [model.expand_images(ids) if images else ids],
            max_new_tokens=options.max_new_tokens,
            images=images,
            sampling=Sampling(options.temperature, top_p=options.top_p),
            on_token=None if options.json else write,
        )[0]
    except (FolderError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = model.tokenizer.decode(said.tokens, skip_special_tokens=True)
    print(json.dumps({"tokens": said.tokens, "text": text, "gates": said.gates}) if options.json else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
