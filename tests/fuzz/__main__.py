"""Fuzz one target under atheris: ``python -m tests.fuzz TARGET FOLDER [libFuzzer's options]``.

FOLDER keeps the inputs that reached new code, and those that failed (``crash-*``).
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

from tests.fuzz.seeds import list_seeds

FUZZED = ("wirebell.websocket", "wirebell.protocol", "wirebell.session")


def main(target: str, folder: str, *options: str) -> None:
    """Fuzz until an input fails or the options' time is over."""
    atheris = importlib.import_module("atheris")
    # Seeds import the modules too, before they could be instrumented.
    for name in [name for name in sys.modules if name.startswith(FUZZED)]:
        del sys.modules[name]
    with atheris.instrument_imports(include=list(FUZZED)):
        targets = importlib.import_module("tests.fuzz.targets")
    corpus = Path(folder) / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in list_seeds(target):
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    arguments = [sys.argv[0], f"-artifact_prefix={folder}/", *options, str(corpus)]
    atheris.Setup(arguments, targets.TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
