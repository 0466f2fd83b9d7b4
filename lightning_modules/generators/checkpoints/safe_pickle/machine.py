"""Interpreting a pickle without `pickle`: opcodes become plain containers, globals stay names, nothing is ever called.

The standard library's `pickletools.genops` cuts the stream into opcodes and their plain arguments. This machine gives
them meaning. A global is never imported: it is a `PickledGlobal`, two strings. What a file may do with one is decided
by a table of names (`globals.py`), so the only functions that run are functions of this package.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, cast

from lightning_modules.generators.checkpoints.stored import CheckpointError

MAX_NESTING = 10_000
Readable = mmap.mmap | io.BytesIO
"""Streams of bytes, which never give more than there are."""
LITERALS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
SKIPPED = frozenset(("PROTO", "FRAME"))


@dataclass(frozen=True)
class PickledGlobal:
    """The name of a class or function that a pickle mentions; only the name, nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class PickledObject:
    """An object of a class that is not loaded, as the file describes it."""

    class_name: str  # with the module where the file gives one
    arguments: tuple[Any, ...] = field(default=(), repr=False)  # of its constructor
    state: Any = field(default_factory=dict, repr=False)  # its attributes, mostly a dict
    items: dict[Any, Any] = field(default_factory=dict, repr=False)  # of a kind of dict
    elements: list[Any] = field(default_factory=list, repr=False)  # of a kind of list


def shown(value: Any) -> str:
    """A value for a message: shortened, since what a small file describes can be endless when it is written out."""
    return _SHORT.repr(value)[:200]


class CorruptPickleError(ValueError):
    """A stream of opcodes that no pickler writes."""


class Vocabulary(Protocol):
    """The globals a file may mention, and what they mean; each method raises CheckpointError to refuse."""

    def resolve(self, name: PickledGlobal) -> Any:
        """Return the plain value that stands for a global."""

    def construct(self, target: Any, arguments: tuple[Any, ...]) -> Any:
        """Return the value of a global called with arguments."""

    def fill(self, target: Any, state: Any) -> None:
        """Set the attributes of a value that `construct` gave."""


class PickleMachine:
    """One run over one pickle.

    Args:
        stream: positioned at the pickle; afterwards behind its last opcode.
        vocabulary: the globals that are known, and what they mean.
        load_persistent: gives the value of a persistent id (a storage), or refuses it.
        file: name for messages.
    """

    def __init__(
        self, stream: Readable, vocabulary: Vocabulary, load_persistent: Callable[[Any], Any], file: str
    ) -> None:
        self._stream = stream
        self._vocabulary = vocabulary
        self._load_persistent = load_persistent
        self._file = file
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Interpret the pickle and return its value; refuse one that is damaged, or asks for what is no data."""
        position: int | None = 0
        try:
            for opcode, argument, position in pickletools.genops(cast(IO[bytes], self._stream)):  # noqa: B007
                name = opcode.name
                if name in LITERALS:
                    self._stack.append(argument)
                elif name in CONSTANTS:
                    self._stack.append(CONSTANTS[name])
                elif name not in SKIPPED:
                    handler = getattr(self, f"_op_{name.lower()}", None)
                    if handler is None:
                        raise CorruptPickleError(f"the opcode {name} has no place in a checkpoint")
                    handler(argument)
            return self._pop()
        except CheckpointError:
            raise
        except Exception as error:  # whatever it is, no pickler writes what leads to it
            raise CheckpointError(
                f"{self._file}: the pickle is truncated or damaged near byte {position} "
                f"({type(error).__name__}: {str(error)[:200]}); fetch the file again and compare its size or hash"
            ) from error

    # --- stack

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _top(self) -> Any:
        if not self._stack or (self._marks and len(self._stack) <= self._marks[-1]):
            raise CorruptPickleError("a value is used that was never put")
        return self._stack[-1]

    def _op_mark(self, _: Any) -> None:
        if len(self._marks) >= MAX_NESTING:
            raise CorruptPickleError(f"more than {MAX_NESTING} containers inside one another")
        self._marks.append(len(self._stack))

    def _op_pop_mark(self, _: Any) -> None:
        self._pop_to_mark()

    def _op_pop(self, _: Any) -> None:
        if self._marks and len(self._stack) == self._marks[-1]:
            self._marks.pop()
        else:
            self._pop()

    def _op_dup(self, _: Any) -> None:
        self._stack.append(self._top())

    def _op_stop(self, _: Any) -> None:
        if len(self._stack) != 1 or self._marks:
            raise CorruptPickleError("the pickle ends with values left over")

    # --- memo

    def _op_put(self, key: int) -> None:
        self._memo[key] = self._top()

    _op_binput = _op_long_binput = _op_put

    def _op_memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _op_get(self, key: int) -> None:
        self._stack.append(self._memo[key])

    _op_binget = _op_long_binget = _op_get

    # --- containers

    def _op_empty_tuple(self, _: Any) -> None:
        self._stack.append(())

    def _op_tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _op_tuple1(self, _: Any) -> None:
        self._stack.append((self._pop(),))

    def _op_tuple2(self, _: Any) -> None:
        second, first = self._pop(), self._pop()
        self._stack.append((first, second))

    def _op_tuple3(self, _: Any) -> None:
        third, second, first = self._pop(), self._pop(), self._pop()
        self._stack.append((first, second, third))

    def _op_empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _op_list(self, _: Any) -> None:
        self._stack.append(self._pop_to_mark())

    def _op_append(self, _: Any) -> None:
        value = self._pop()
        self._extend(self._top(), [value])

    def _op_appends(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._extend(self._top(), values)

    def _extend(self, target: Any, values: list[Any]) -> None:
        if isinstance(target, PickledObject):
            target = target.elements
        if type(target) is not list:
            raise CorruptPickleError(f"elements are appended to a {type(target).__name__}")
        target.extend(values)

    def _op_empty_set(self, _: Any) -> None:
        self._stack.append(set())

    def _op_additems(self, _: Any) -> None:
        values, target = self._pop_to_mark(), self._top()
        if type(target) is not set:
            raise CorruptPickleError(f"members are added to a {type(target).__name__}")
        target.update(map(as_key, values))

    def _op_frozenset(self, _: Any) -> None:
        self._stack.append(frozenset(map(as_key, self._pop_to_mark())))

    def _op_empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _op_dict(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._stack.append({})
        self._fill(self._stack[-1], values)

    def _op_setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._fill(self._top(), [key, value])

    def _op_setitems(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._fill(self._top(), values)

    def _fill(self, target: Any, values: list[Any]) -> None:
        if isinstance(target, PickledObject):
            target = target.items
        if type(target) is not dict or len(values) % 2:
            raise CorruptPickleError(f"items are set on a {type(target).__name__}")
        for i in range(0, len(values), 2):
            target[as_key(values[i])] = values[i + 1]

    # --- globals, objects, persistent ids

    def _op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")  # genops joins the two lines of this opcode by a space
        self._stack.append(self._vocabulary.resolve(PickledGlobal(module, name)))

    def _op_stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise CorruptPickleError("a global is named by something that is no text")
        self._stack.append(self._vocabulary.resolve(PickledGlobal(module, name)))

    def _op_ext1(self, code: int) -> None:
        raise CheckpointError(
            f"{self._file}: the file asks for extension code {code} of a registry outside it; refused"
        )

    _op_ext2 = _op_ext4 = _op_ext1

    def _op_reduce(self, _: Any) -> None:
        arguments, target = self._pop(), self._pop()
        if type(arguments) is not tuple:
            raise CorruptPickleError(f"something is called with a {type(arguments).__name__} as its arguments")
        self._stack.append(self._vocabulary.construct(target, arguments))

    _op_newobj = _op_reduce

    def _op_newobj_ex(self, _: Any) -> None:
        keywords, arguments, target = self._pop(), self._pop(), self._pop()
        if keywords:
            raise CorruptPickleError("an object is made with keyword arguments")
        self._stack.append(self._vocabulary.construct(target, tuple(arguments)))

    def _op_inst(self, argument: str) -> None:
        arguments = tuple(self._pop_to_mark())
        self._op_global(argument)
        self._stack.append(self._vocabulary.construct(self._pop(), arguments))

    def _op_obj(self, _: Any) -> None:
        target, *arguments = self._pop_to_mark()
        self._stack.append(self._vocabulary.construct(target, tuple(arguments)))

    def _op_build(self, _: Any) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, PickledObject):
            target.state = state
        elif type(target) is not dict:  # attributes of a dict, such as the `_metadata` of a state dict, are not kept
            self._vocabulary.fill(target, state)

    def _op_persid(self, argument: Any) -> None:
        self._stack.append(self._load_persistent(argument))

    def _op_binpersid(self, _: Any) -> None:
        self._stack.append(self._load_persistent(self._pop()))


def as_key(value: Any) -> Any:
    """Return a dict key or set member unchanged, if it is one whose hash is cheap: a scalar or a flat tuple of them.

    Anything else is refused: the hash of nested tuples can take for ever or exhaust the stack.
    """
    members = value if type(value) is tuple else (value,)
    for member in members:
        if not isinstance(member, (str, bytes, int, float, complex, type(None), PickledGlobal)) and not _is_dtype(
            member
        ):
            raise CorruptPickleError(f"a {type(member).__name__} is used as a key")
    return value


def _is_dtype(value: Any) -> bool:
    return type(value).__module__ == "torch" and type(value).__name__ == "dtype"
