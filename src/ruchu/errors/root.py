"""The root of the error tree."""

from typing import ClassVar


class RuchuError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    retry: ClassVar[bool] = False
    hint: ClassVar[str] = ""

    def __init__(self, detail: str = "", *, hint: str = "") -> None:
        message = (type(self).__doc__ or "").splitlines()[0]
        super().__init__(f"{message} {detail}".strip())
        self.detail = detail
        self.advice = hint or type(self).hint
