"""Methods with options on the command line: ``ours:lr=0.002,max_steps=3000``."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Iterable
from typing import Any

PREPARATION = ("scale_by", "n_top_features")
"""Options of preprocessing: they say what a method gets, and are not its own."""


def parse(method: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Split into the name, options of preprocessing, and options of the method."""
    name, _, text = method.partition(":")
    pairs = dict(pair.split("=", 1) for pair in text.split(",") if pair)
    options = {key: _value(value) for key, value in pairs.items()}
    preparation = {key: options.pop(key) for key in PREPARATION if key in options}
    return name, preparation, options


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def one_of(methods: Iterable[str]) -> Callable[[str], str]:
    """Return a type for argparse: a method of these, with options or without."""
    allowed = list(methods)

    def method(text: str) -> str:
        if parse(text)[0] not in allowed:
            msg = f"{text!r} is none of {', '.join(allowed)}, with options or without."
            raise argparse.ArgumentTypeError(msg)
        return text

    return method
