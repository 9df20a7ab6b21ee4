"""The key file of a client: where a box listens, whom one finds there, and who the client is."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

#: In the run directory of a box that listens on TCP.
CLIENT_KEY = "client.key"


#: How an address begins; people need not say it.
TCP = "tcp://"


def with_scheme(address: str) -> str:
    """Return ``HOST:PORT`` as ZeroMQ takes it."""
    return address if "://" in address else f"{TCP}{address}"


class KeyFileError(OSError):
    """A file is no key; the text says which."""


@dataclass(frozen=True, slots=True)
class ClientKey:
    """What a client needs: where to go, whom it will find there, and who it is."""

    control: str
    observers: str
    server_key: str
    public_key: str
    secret_key: str

    def write(self, path: Path) -> None:
        """Write the file anew: only its owner may read it, and nobody has it open."""
        path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            json.dump(asdict(self), file, indent=2)
            file.write("\n")

    @classmethod
    def read(cls, path: Path) -> ClientKey:
        """Return what a file holds; raise KeyFileError for one that is no key."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            key = cls(**found)
        except (OSError, ValueError, TypeError) as error:
            raise KeyFileError(f"{path} is not the {CLIENT_KEY} of a run: {error}") from error
        if not all(isinstance(value, str) for value in found.values()):
            raise KeyFileError(f"{path} is not the {CLIENT_KEY} of a run: all its values are text")
        return key
