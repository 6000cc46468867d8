"""Named things of one kind: whoever adds one registers it where it is written, and everybody finds it here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from .errors import InputError

T = TypeVar("T")


class Registry(dict[str, T], Generic[T]):
    """Things by name, in the order in which they were registered.

    Parameters
    ----------
    kind : str
        What they are, for messages: "interpolation", "degradation".

    Examples
    --------
    >>> shapes = Registry("shape")
    >>> shapes.register("square")(4)
    4
    >>> list(shapes), shapes.find("square")
    (['square'], 4)
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator, or a function of the thing: keep it under `name`."""

        def add(thing: T) -> T:
            self[name] = thing
            return thing

        return add

    def find(self, name: str) -> T:
        """The thing of that name; InputError, with the names there are, if there is none."""
        if name not in self:
            raise InputError(f"The {self.kind} is {name!r}; expected one of {', '.join(self)}.")
        return self[name]
