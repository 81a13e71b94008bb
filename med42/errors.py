"""The one error that people are meant to read."""


class Med42Error(Exception):
    """Something a person gave us, or a service answered, that a person can mend.

    Every message has the same four parts, in this order: where it is (file, row or key), what
    was found there, what was expected, and what to do about it.
    """

    def __init__(self, where: object, found: str, expected: str, remedy: str) -> None:
        self.where, self.found, self.expected, self.remedy = str(where), found, expected, remedy
        super().__init__(f"{where}: found {found}; expected {expected}. {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        """Come whole out of a worker process; by default an exception is made again from its message alone."""
        return type(self), (self.where, self.found, self.expected, self.remedy)

    @classmethod
    def retold(cls, stage: str, message: str) -> "Med42Error":
        """The same error as another process told it, led by the stage that met it."""
        error = cls(stage, "a failed stage", "success", message)
        error.args = (f"stage {stage}: {message}",)
        return error
