"""What commands are declared with: frozen dataclasses whose fields carry their help; `parse` makes flags of them.

A field's name is its flag, its type what is accepted, its default the default. The dataclasses of other rooms that are
declared alike (`InferenceOptions`, the options of the map models and of the studies) become flags when a command has
one as a field; a field without a help text is not a flag.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import InputError, MissingDependencyError

Command = TypeVar("Command")
_NO_WRAPPING = "100000"


def option(
    help: str,
    default: Any = MISSING,
    *,
    metavar: str | None = None,
    choices: Callable[[], Iterable[str]] | None = None,
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """A flag.

    Parameters
    ----------
    help : str
        A line for people.
    default : optional
        Without one the flag is required.
    metavar : str, optional
        What stands for the value in the help; by default the choices, else the name.
    choices : callable, optional
        The names to choose from, read from their registry when the command is parsed.
    parse : callable, optional
        Makes the value from its text; raises ValueError with what was expected.
    """
    return field(default=default, metadata={"help": help, "metavar": metavar, "choices": choices, "parse": parse})


def argument(help: str, default: Any = MISSING) -> Any:
    """A value without a flag, in the order of the fields."""
    return field(default=default, metadata={"help": help, "positional": True})


def options_of(kinds: Callable[[], Iterable[type]]) -> Any:
    """The flags of several dataclasses, read from a registry when the command is parsed; a mapping of name to value."""
    return field(default_factory=dict, metadata={"kinds": kinds})


def names_of(known: Callable[[], Iterable[str]]) -> Callable[[str], tuple[str, ...]]:
    """Parser of names with commas between them.

    Examples
    --------
    >>> names_of(lambda: ("fa", "qa"))("FA, qa")
    ('fa', 'qa')
    """

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
        if unknown := [name for name in names if name not in set(known())]:
            raise ValueError(f"there is no {unknown[0]!r}; expected some of {','.join(known())}")
        if not names:
            raise ValueError(f"it names nothing; expected some of {','.join(known())}")
        return names

    return parse


def seed(text: str) -> int:
    """Parser of a seed: a whole number that NumPy's generators take."""
    if not re.fullmatch(r"\d{1,18}", text):
        raise ValueError(f"{text!r} is no seed; expected a whole number from 0 on")
    return int(text)


def count(text: str) -> int:
    """Parser of a whole number from 1 on."""
    if not re.fullmatch(r"0*[1-9]\d{0,8}", text):
        raise ValueError(f"{text!r} is no whole number from 1 on")
    return int(text)


def needs_training_parts(what: str, error: ModuleNotFoundError) -> MissingDependencyError:
    """What to say where a module that training needs is not installed."""
    return MissingDependencyError(
        f"{what} needs {error.name}, which is not installed; pip install 'dwi-superres[train]'."
    )


def positive(text: str) -> float:
    """Parser of a number above 0."""
    number = _number(text)
    if not 0 < number < float("inf"):
        raise ValueError(f"{text!r} is no number above 0")
    return number


def not_negative(text: str) -> float:
    """Parser of a number from 0 on."""
    number = _number(text)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{text!r} is no number from 0 on")
    return number


def _number(text: str) -> float:
    """NaN, which no comparison holds for, where it is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def parse(command: type[Command], arguments: Sequence[str], prog: str, description: str) -> Command:
    """The command that the arguments describe; SystemExit(0) once help was shown.

    Raises
    ------
    InputError
        If an argument is unknown, missing or not what was expected.
    """
    import tyro

    shown, screen = io.StringIO(), os.environ.get("COLUMNS")
    asks_for_help = {"-h", "--help"} & set(arguments)
    try:
        if not asks_for_help:
            os.environ["COLUMNS"] = _NO_WRAPPING  # the words of an error are taken out of its frame
        with contextlib.redirect_stderr(shown):
            parsed: Any = tyro.cli(
                _typed(command),
                prog=prog,
                description=description,
                args=list(arguments),
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise InputError(f"{_sentence(shown.getvalue())}; see {prog} --help.") from None
    finally:
        if screen is not None:
            os.environ["COLUMNS"] = screen
        elif not asks_for_help:
            del os.environ["COLUMNS"]
    return _plain(command, parsed)


def _typed(kind: type, positional: Sequence[str] = ()) -> type:
    """The dataclass with tyro's annotations in place of ours."""
    hints = get_type_hints(kind)
    entries: list[Any] = []
    for each in _flags(kind):
        if kinds := each.metadata.get("kinds"):
            for inner in map(_typed, kinds()):
                entries.append((_group(inner), inner, field(default_factory=inner)))
        elif is_dataclass(hints[each.name]):
            inner = _typed(hints[each.name], each.metadata.get("positional", ()))
            required = any(part.default is MISSING and part.default_factory is MISSING for part in fields(inner))
            entries.append((each.name, inner, field() if required else field(default_factory=inner)))
        else:
            kept = field(default=each.default, default_factory=each.default_factory)
            entries.append((each.name, _annotated(hints[each.name], each, each.name in positional), kept))
    return make_dataclass(kind.__name__, entries, frozen=True, kw_only=True, namespace={"__doc__": ""})


def _flags(kind: Any) -> list[Field]:
    return [each for each in fields(kind) if each.metadata.get("help") != ""]


def _group(kind: type) -> str:
    """What the help calls the flags of a dataclass: GQIOptions' are "gqi options"."""
    return kind.__name__.removesuffix("Options").lower()


def _annotated(kind: Any, each: Field, positional: bool) -> Any:
    import tyro

    about = {"metavar": None, "choices": None, "parse": None, "positional": positional, **each.metadata}
    default, text = each.default, about["help"]
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    told = shown in (None, False, "", MISSING) or "(default" in text
    known = tuple(about["choices"]()) if about["choices"] else ()
    extra: list[Any] = [
        tyro.conf.arg(
            help=text,
            metavar=None if kind is bool else about["metavar"] or "|".join(known) or each.name.upper(),
            help_behavior_hint="" if told else f"(default: {shown})",
        )
    ]
    each_kind = kind
    if about["positional"]:
        kind = tyro.conf.Positional[kind]  # type: ignore[misc]
    convert = about["parse"] or (_one_of(known) if known else None)
    read = (lambda texts: convert(texts[0])) if convert else _reader_of_several(each_kind)
    if read:
        extra.append(
            tyro.constructors.PrimitiveConstructorSpec(
                nargs=1 if convert else "*",
                metavar="",
                instance_from_str=read,
                is_instance=lambda value: True,
                str_from_instance=lambda value: [str(value)],
            )
        )
    return Annotated[(kind, *extra)]  # type: ignore[return-value]


def _reader_of_several(kind: Any) -> Callable[[list[str]], Any] | None:
    """What makes a value of a kind that holds several, from several texts; None for other kinds."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if any(get_origin(each) is Mapping for each in kinds):
        return lambda texts: dict(map(_pair, texts))
    element = next((get_args(each)[0] for each in kinds if get_origin(each) in (Sequence, tuple)), None)
    if element is None:
        return None
    number = next((each for each in kinds if each in (int, float)), None)  # in place of a sequence

    def read(texts: list[str]) -> Any:
        if number is not None and len(texts) == 1:
            with contextlib.suppress(ValueError):
                return number(texts[0])
        return tuple(_value(element, text) for text in texts)

    return read


def _value(kind: Any, text: str) -> Any:
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if NoneType in kinds and text.lower() == "none":
        return None
    for each in kinds:
        with contextlib.suppress(ValueError):
            if each is not NoneType:
                return each(text)
    raise ValueError(f"{text!r} is not of the kind {' or '.join(getattr(each, '__name__', 'none') for each in kinds)}")


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not (name and value):
        raise ValueError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _one_of(known: Sequence[str]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in known:
            raise ValueError(f"there is no {text!r}; expected one of {', '.join(known)}")
        return text

    return convert


def _plain(kind: type[Command], parsed: Any) -> Command:
    """The dataclass as it was declared, so that its own checks run and its errors are told as they are."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for each in _flags(kind):
        if kinds := each.metadata.get("kinds"):
            values[each.name] = {}
            for inner in kinds():
                made = _plain(inner, getattr(parsed, _group(inner)))
                values[each.name] |= {part.name: getattr(made, part.name) for part in fields(made)}
        elif is_dataclass(hints[each.name]):
            values[each.name] = _plain(hints[each.name], getattr(parsed, each.name))
        else:
            value = values[each.name] = getattr(parsed, each.name)
            if value != each.default and (value == "" or (isinstance(value, tuple) and "" in value)):
                name = each.name if each.metadata.get("positional") else f"--{each.name.replace('_', '-')}"
                raise InputError(f"{name} is empty; give a value or leave it out.")
    return kind(**values)


def _sentence(framed: str) -> str:
    """The words of an error of tyro's: those above the first rule of its box."""
    words: list[str] = []
    for line in re.sub(r"\x1b\[[\d;]*m", "", framed).splitlines()[1:]:
        inner = line.strip("│| ")
        if re.fullmatch(r"[─╰╯+\-]*", inner) and words:
            break
        words += inner.split()
    return " ".join(words).rstrip(".") or "The arguments cannot be understood"


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command takes.

    Attributes
    ----------
    example : str
        How the command is used, for its help.
    cancelled : str
        What is said when it is interrupted.
    """

    example: ClassVar[str]
    cancelled: ClassVar[str] = "Cancelled; nothing was written."
    progress: str = option("how progress is shown", "auto", choices=lambda: progress_modes())
    debug: bool = option("show the traceback of an error", False)


@dataclass(frozen=True, kw_only=True)
class Writing(Common):
    """What commands take that write a result."""

    overwrite: bool = option("replace outputs that exist", False)


def progress_modes() -> Iterable[str]:
    """How progress can be shown."""
    from ..progress import MODES

    return MODES


def maps() -> Iterable[str]:
    """Names of the registered maps."""
    from ..microstructure import map_names

    return map_names()


def map_options() -> Iterable[type]:
    """The options of the registered map models."""
    from ..microstructure import map_models

    return dict.fromkeys(model.options for model in map_models() if fields(model.options))


def degradations() -> Iterable[str]:
    """Names of the registered degradations."""
    from ..resampling.degradation import DEGRADATIONS

    return DEGRADATIONS


def upsamplers() -> Iterable[str]:
    """Names of the registered upsamplers."""
    from ..resampling.upsamplers import UPSAMPLERS

    return UPSAMPLERS


def image_formats() -> Iterable[str]:
    """Suffixes of the registered file formats, without their first dot."""
    from ..io import FORMATS

    return [suffix.removeprefix(".") for suffix in FORMATS]
