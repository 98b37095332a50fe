"""Cold start: how long a fresh process takes to answer.

Beside each other in one run, interleaved: `lianlu --help` against `lm_eval --help`, and a process that loads
SmolLM2-135M-Instruct and generates its first token, lianlu against transformers. Prints medians and ratios and keeps them in
bench/results/cold_start.json. Run: python bench/cold_start.py
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from lianlu.model.pull import pull

ROUNDS = 5
OURS = """
from lianlu.client.base import ChatRequest, Sampling
from lianlu.engine.connect import connect
from lianlu.formats.messages import Message
client = connect({path!r})
reply = client.chat([ChatRequest([Message(role="user", content="Hi")], sampling=Sampling(max_tokens=1))])
print(reply[0].completion_tokens)
"""
PEER = """
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, file = {folder!r}, {file!r}
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file)
messages = [dict(role="user", content="Hi")]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(model.generate(**inputs, max_new_tokens=1, do_sample=False).shape)
"""


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Run the pairs and keep the figures."""
    path = pull("smollm2-135m-instruct")
    scripts = Path(sys.executable).parent
    first_token = [sys.executable, "-c", OURS.format(path=str(path))]
    peer_first_token = [sys.executable, "-c", PEER.format(folder=str(path.parent), file=path.name)]
    pairs = {
        "help": ([str(scripts / "lianlu"), "--help"], [str(scripts / "lm_eval"), "--help"], "lm_eval --help"),
        "first_token": (first_token, peer_first_token, "transformers, the same GGUF"),
    }
    result: dict[str, object] = {"machine": platform.platform(), "rounds": ROUNDS}
    for name, (ours, peer, label) in pairs.items():
        rows = [(seconds(ours), seconds(peer)) for _ in range(ROUNDS + 1)][1:]
        mine, theirs = (statistics.median(column) for column in zip(*rows, strict=True))
        result[name] = {"lianlu_s": mine, "peer_s": theirs, "peer": label, "ratio": theirs / mine, "rounds": rows}
        print(f"{name}: lianlu {mine:.2f} s, {label} {theirs:.2f} s, {theirs / mine:.1f} times as fast")
    target = Path(__file__).parent / "results" / "cold_start.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
