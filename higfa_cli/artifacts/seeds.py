"""Random seeds that depend on what is drawn, never on its position or on the batch."""

from __future__ import annotations

import hashlib

from higfa_cli.artifacts.fingerprint import canonical_json


def seed_for(*parts: object) -> int:
    """A seed in [0, 2^63): the leading 63 bits of sha256 over the canonical JSON of `parts`.

    Raises TypeError for parts that JSON does not know.
    """
    digest = hashlib.sha256(canonical_json(list(parts)).encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
