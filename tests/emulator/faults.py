"""How the emulator stops."""


class FaultError(Exception):
    """What a GPU would answer with an error, or silently get wrong."""


class UnsupportedError(Exception):
    """A gap of the emulator: something it does not know. Its text names the instruction."""
