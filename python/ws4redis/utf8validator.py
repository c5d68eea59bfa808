"""A validator of UTF-8 that arrives in parts, with the interface of the one in django-websocket-redis."""

from __future__ import annotations

import codecs


class Utf8Validator:
    """Validate the parts of a text. Deprecated: the gateway validates the messages of browsers."""

    def __init__(self) -> None:
        """Begin a text."""
        self.reset()

    def reset(self) -> None:
        """Begin another text."""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._total = 0

    def validate(self, part: bytes | bytearray) -> tuple[bool, bool, int, int]:
        """Validate the next part.

        Returns:
            Whether the text is valid so far, whether it ends with a whole character, and the valid bytes of this part and
            of all parts.
        """
        held = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(bytes(part))
        except UnicodeDecodeError as error:
            valid = max(error.start - held, 0)
            return False, False, valid, self._total + valid
        self._total += len(part)
        return True, not self._decoder.getstate()[0], len(part), self._total
