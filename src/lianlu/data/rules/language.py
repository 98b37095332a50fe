"""Which language a text is written in, by py3langid: a naive Bayes model over byte n-grams inside the wheel, no network.

Source: Lui and Baldwin 2012 (langid.py); probabilities are normalised over the 90-odd languages of the model. Short or
mixed texts (tables, code samples) get low probabilities; the caller decides what to make of them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

SAMPLE_CHARS = 1000


@cache
def _identifier() -> Any:
    from py3langid import langid

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def identify(text: str) -> tuple[str, float]:
    """ISO 639-1 code and probability (0..1) of the language of a text, judged by its beginning."""
    lang, probability = _identifier().classify(text[:SAMPLE_CHARS])
    return str(lang), float(probability)
