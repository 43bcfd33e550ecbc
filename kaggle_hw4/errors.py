"""What can go wrong for a user, and the exit code of each."""

EXIT_CODES = (
    "Exit codes: 0 done · 1 a bug · 2 usage · 3 bad input or data · 4 Kaggle refused (credentials, rules, quota, no "
    "such competition) · 5 Kaggle or the network unavailable · 6 still pending when the time was up · 130 interrupted."
)


class HW4Error(Exception):
    """A problem the user can mend. `cause` says what is wrong, `remedy` what to do about it.

    The base of those below, whose exit codes are those of the commands.
    """

    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause}\n  {self.remedy}" if self.remedy else self.cause

    def __reduce__(self) -> tuple[type["HW4Error"], tuple[str, str]]:
        # Errors cross process borders: by default pickle would drop the remedy.
        return type(self), (self.cause, self.remedy)


class UsageError(HW4Error):
    """The command line asks for something that does not exist or contradicts itself. Exit code 2."""

    exit_code = 2


class DataError(HW4Error):
    """An input, an artefact or the workspace itself cannot be used. Exit code 3."""

    exit_code = 3


class RefusedError(HW4Error):
    """Kaggle answered no: credentials, rules, quota, no such competition. Exit code 4."""

    exit_code = 4


class UnavailableError(HW4Error):
    """Kaggle or the network could not be reached, or its answer made no sense. Exit code 5."""

    exit_code = 5


class PendingError(HW4Error):
    """Not finished when the time was up; the message names what to continue with. Exit code 6."""

    exit_code = 6


def first_line(error: BaseException) -> str:
    """The first line of what an error of a library says, or its kind."""
    return (str(error).splitlines() or [type(error).__name__])[0]
