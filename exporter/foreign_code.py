"""Code that somebody else wrote: what of a folder would make Transformers run it, and whether all code of a folder is ours.

Transformers runs code that a JSON file names (``auto_map``, in the folder itself or as ``OWNER/NAME--FILE.CLASS`` in another
repository), ``custom_generate/generate.py``, and attention kernels that are called by a repository's name. A base that asks for any of it
is refused, unless the recipe trusts it; and nothing is loaded with ``trust_remote_code=True`` before all code of its folder was compared with
what this version writes, or one earlier version wrote.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import steer_modules
from exporter.earlier_code import CHECKPOINT, RUNNER, earlier_code, note
from exporter.errors import CompileError, VerificationError
from exporter.model_folder import inner, parsed_object
from exporter.registry import targets
from steer_modules.files import TRAVELLING
from steer_modules.template import StockClasses, stock_classes

CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate")
_KERNEL_KEYS = ("attn_implementation", "experts_implementation")
_TRACE = re.compile(rb"auto_map|custom_(pipelines|generate)|(attn|experts)_implementation|\\u00[4-7]")
_MODEL = ("AutoConfig", "AutoModel")
_MOST_NAMED = 4
"""Files that one fault names; of a folder that another version of steerbake wrote, nearly all differ."""


class Asked(NamedTuple):
    """A request for code in a file: its path within the folder, the dotted key, and the value."""

    file: str
    key: str
    value: object

    def __str__(self) -> str:
        return f"{self.file} requests code in its key {self.key} ({str(self.value)[:80]})"


def asked_code(folder: Path) -> Iterator[Asked]:
    """Every place of a folder's JSON files that makes Transformers run code of the folder or of another repository.

    A file that is no JSON is passed over: Transformers does not read it either.
    """
    for name in _files(folder, ".json"):
        try:
            if not _may_ask(folder / name):
                continue
            tree = parsed_object((folder / name).read_bytes(), strict=False)
        except (OSError, ValueError):
            continue
        for place, value in inner(tree):
            key = place.rpartition(".")[2]
            if (key in CODE_KEYS and value and not isinstance(value, int)) or _is_kernel(key, value):
                yield Asked(name, place, value)


def refuse_code(base: Path, *, trusted: bool) -> None:
    """Refuses a base that would run code of its own, before anything of it is loaded.

    Args:
        trusted: whether its user trusts it (``base.trust_remote_code``); code for the model itself is refused all the same, because
            only stock models can be steered.

    Raises:
        CompileError: names file and key; or the folder is already steered.
    """
    if "steering" in _settings(base / "config.json"):
        raise CompileError(f"{base} is already steered; give its base model")
    for asked in asked_code(base):
        if asked.file == "config.json" and asked.key == "auto_map" and _is_for_model(asked.value):
            raise CompileError(f"{base}: {asked}; only stock Transformers models can be steered")
        if not trusted:
            raise CompileError(
                f"{base}: {asked}; code of a base is run or copied only if the recipe sets base.trust_remote_code: true (compile: "
                "--trust-remote-code)"
            )


def check_code(folder: Path, trusted: Path | None = None) -> None:
    """To be called before a folder is loaded in a way that runs the code in it.

    Args:
        trusted: a base whose own code its user trusts; the same code in the folder is then allowed.

    Raises:
        VerificationError: any code in it, or requested by it, is neither what this version writes nor what an earlier one wrote.
    """
    if faults := code_faults(folder, trusted):
        raise VerificationError(
            f"{folder} is not loaded, because its code is not trusted: {'; '.join(faults)}; compile or export it again"
        )


class Code(NamedTuple):
    """What came of comparing all code of a folder.

    Attributes:
        faults: code that is not ours, one sentence each.
        earlier: where the code of an earlier version lies, whole and unchanged ("" for the folder itself), and the kind of folder that has it.
    """

    faults: list[str]
    earlier: dict[str, str]


def code_faults(folder: Path, trusted: Path | None = None) -> list[str]:
    """Code of a folder that no version of steerbake wrote, one sentence each; arguments as in :func:`check_code`."""
    return compared_code(folder, trusted).faults


def earlier_notes(folder: Path, trusted: Path | None = None) -> dict[str, str]:
    """What the user must know of code of an earlier version, by where it lies ("" for the folder itself); nothing of code that is refused.

    Args:
        trusted: as in :func:`check_code`.
    """
    faults, earlier = compared_code(folder, trusted)
    return {home: note(kind, home) for home, kind in sorted(() if faults else earlier.items())}


def compared_code(folder: Path, trusted: Path | None = None) -> Code:
    """Compares all code of a folder with this version's and with that of earlier ones; arguments as in :func:`check_code`."""
    try:
        stock = _stock_of(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Code(["the base type that config.json names is unknown"], {})
    needed = {} if stock is None else checkpoint_code(stock)
    code = _code_beside(folder, needed, trusted)
    differs = {name for name, content in code.items() if content != _own(name, needed)}
    lacks = {name for name in needed if not (folder / name).is_file()}
    earlier: dict[str, str] = {}
    parts: list[str] = []
    for kind, home, group in _groups(code, stock):
        if not group & differs and not (kind == CHECKPOINT and lacks):
            continue
        known, named = earlier_code()[kind], {PurePosixPath(name).name: code[name] for name in group}
        of_base = stock if kind == CHECKPOINT else None
        if known.has_version(named, of_base):
            earlier[home] = kind
            differs -= group
            lacks = set() if kind == CHECKPOINT else lacks
        else:
            files = group & differs
            parts += [n for n in files if known.has_file(PurePosixPath(n).name, code[n], of_base)]
    wrong = [f"{name} is missing" for name in needed if name in lacks and not parts]
    wrong += [f"{name} is a link to a folder" for name in _linked_folders(folder)]
    if unknown := sorted(differs - set(parts)):
        wrong += _each(unknown, "differs from the code of this version of steerbake and of all earlier ones")
    else:  # beside an unknown file, the others are not whole because of it
        wrong += _each(
            sorted(parts), "comes from an earlier version of steerbake, which has other code beside it"
        )
    return Code(wrong + _asked_by_others(folder, stock, trusted), earlier)


def _code_beside(folder: Path, needed: Mapping[str, bytes], trusted: Path | None) -> dict[str, bytes]:
    """Content of every code file by its path within the folder, but for the trusted base's own."""
    found = {name: (folder / name).read_bytes() for name in _files(folder, ".py")}
    return {
        name: content
        for name, content in found.items()
        if content == _own(name, needed) or trusted is None or content != _content(trusted / name)
    }


def _own(name: str, needed: Mapping[str, bytes]) -> bytes | None:
    """What this version writes under a path within a folder; None where it writes nothing there."""
    if name in needed:
        return needed[name]
    ours = {file: path for one in targets().values() for file, path in one.code.items()}
    base = PurePosixPath(name).name
    return ours[base].read_bytes() if base in ours and name.count("/") <= 1 else None


def _groups(code: Mapping[str, bytes], stock: StockClasses | None) -> Iterator[tuple[str, str, set[str]]]:
    """Code that must be of one version, with its kind and where it lies: a runner's in the folder or one below it, and the checkpoint's."""
    runners = earlier_code()[RUNNER].files
    places: dict[str, set[str]] = {}
    for name in code:
        home, _, base = name.rpartition("/")
        if base in runners and "/" not in home:
            places.setdefault(home, set()).add(name)
    yield from ((RUNNER, home, names) for home, names in places.items())
    if stock is not None:
        yield CHECKPOINT, "", {name for name in code if "/" not in name and name not in runners}


def _asked_by_others(folder: Path, stock: StockClasses | None, trusted: Path | None) -> list[str]:
    """Requests for code that neither a steered checkpoint makes nor the trusted base, one sentence each."""
    wrong = []
    allowed = (
        set() if trusted is None else {(one.file, one.key, str(one.value)) for one in asked_code(trusted)}
    )
    for asked in asked_code(folder):
        is_ours = stock is not None and asked[:2] == ("config.json", "auto_map")
        if is_ours and asked.value == {**_trusted_map(trusted), **(stock.auto_map if stock else {})}:
            continue
        if (asked.file, asked.key, str(asked.value)) not in allowed:
            wrong.append(str(asked))
    return wrong


def _each(names: Sequence[str], fault: str) -> list[str]:
    """A sentence for each of the files; of more than a few, the others are counted."""
    if len(names) <= _MOST_NAMED:
        return [f"{name} {fault}" for name in names]
    return [
        *(f"{name} {fault}" for name in names[: _MOST_NAMED - 1]),
        f"so do {len(names) - _MOST_NAMED + 1} other files",
    ]


def checkpoint_code(stock: StockClasses) -> dict[str, bytes]:
    """The code of a steered checkpoint by its name, as this version writes it."""
    home = Path(steer_modules.__file__).parent
    code = {name: (home / name).read_bytes() for name in TRAVELLING}
    return {**code, f"{stock.module_name}.py": stock.source().encode("utf-8")}


def names_of_code(stock: StockClasses) -> set[str]:
    """The names of all code that this version or an earlier one writes into a checkpoint."""
    return {*checkpoint_code(stock), *earlier_code()[CHECKPOINT].files}


def _may_ask(path: Path) -> bool:
    """Whether one of the keys stands in a file, or a letter is spelled by its number; files of data need not be read then."""
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return _TRACE.search(text) is not None


def _trusted_map(trusted: Path | None) -> Mapping[str, object]:
    """The ``auto_map`` of a trusted base's config: of its tokenizer or processor, as its model can have none."""
    return {} if trusted is None else _settings(trusted / "config.json").get("auto_map") or {}


def _is_for_model(auto_map: object) -> bool:
    return not isinstance(auto_map, dict) or any(name.startswith(_MODEL) for name in auto_map)


def _is_kernel(key: str, value: object) -> bool:
    """An attention that is fetched: its name is a repository's, or a mapping of such names by part of the model."""
    if not key.lstrip("_").removesuffix("_internal").startswith(_KERNEL_KEYS):
        return False
    named = value.values() if isinstance(value, dict) else [value]
    return any(isinstance(one, str) and "/" in one for one in named)


def _stock_of(folder: Path) -> StockClasses | None:
    """The stock classes that a steered checkpoint builds on; None for another folder."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    section = parsed_object(path.read_bytes(), strict=False).get("steering")
    return (
        None
        if section is None
        else stock_classes(section["base"]["model_type"], section["base"]["architecture"])
    )


def _files(folder: Path, suffix: str) -> list[str]:
    """Files below a folder by their paths with slashes; links to files count, links to folders are not followed."""
    found = []
    for place, _, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        found += [(inside / name).as_posix() for name in names if name.endswith(suffix)]
    return sorted(name for name in found if (folder / name).is_file())


def _linked_folders(folder: Path) -> list[str]:
    found = []
    for place, names, _ in os.walk(folder):
        inside = Path(place).relative_to(folder)
        found += [(inside / name).as_posix() for name in names if (Path(place) / name).is_symlink()]
    return sorted(found)


def _settings(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where it is none."""
    try:
        return parsed_object(path.read_bytes(), strict=False)
    except (OSError, ValueError):
        return {}


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
