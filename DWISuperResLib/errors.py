"""Errors a user can act on: each carries one sentence saying what was found, what was expected, what to do."""


class DWISuperResError(Exception):
    """Base of every error this library raises on purpose; the command line exits with `exit_code`.

    Examples
    --------
    >>> [kind.__name__ for kind in DWISuperResError.__subclasses__()][:2]
    ['InputError', 'ProcessingError']
    """

    exit_code = 1


class InputError(DWISuperResError, ValueError):
    """Bad input: a file, an option or an argument that cannot be used as given.

    Examples
    --------
    >>> InputError("The scale is 9; expected at most 5.").exit_code
    2
    """

    exit_code = 2


class MissingDependencyError(InputError):
    """An optional package is needed for what was asked; the message says how to install it."""


class ProcessingError(DWISuperResError, RuntimeError):
    """A failure while running on input that was accepted.

    Examples
    --------
    >>> ProcessingError("There is not enough memory.").exit_code
    1
    """


class Cancelled(DWISuperResError):
    """The user cancelled; nothing was written."""
