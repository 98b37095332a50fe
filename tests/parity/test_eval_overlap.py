"""ROUGE-L beside the rouge_score package, on docstrings of the standard library."""

from __future__ import annotations

import inspect
import string
import textwrap

import pytest

from lianlu.eval.overlap import rouge_l

rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")


def test_rouge_l_is_the_same():
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    texts = [inspect.getdoc(value) or "" for value in vars(textwrap.TextWrapper).values()][:12]
    texts += [inspect.getdoc(str) or "", "", "\u00dcn\u00efcode 42!", string.printable]
    for reference in texts:
        for text in texts:
            assert rouge_l(text, reference) == pytest.approx(scorer.score(reference, text)["rougeL"].fmeasure)
