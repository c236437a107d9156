"""What is fed with damaged and forged files: each target makes one file or one command, and gives it to lessen.

A target is called with a generator and an empty folder to stand in, and the folder of what was made beforehand
(`Ground`). It returns or raises `SystemExit`, `LessenError` or nothing else; `fuzz.py` judges.
"""

import io
import json
import os
import pickle
import random
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutate
import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

MARK = "EXECUTED"
RECIPE = """
network:
  build: zoo:mlp
  arguments: {inputs: 6, hidden: [8], classes: 3}
data:
  Arrays: {file: data.npz, validation: 0.25, test: 0.25}
steps:
  - PruneWeights: {keep: 0.5}
  - PruneChannels: {keep: 0.5}
  - Offline:
      knowledge:
        - At: {objective: {SoftTargets: {temperature: 4.0}}}
      epochs: 2
      cache: {}
      fit: {batch: 8}
deploy: {runtimes: [], rounds: 6}
measuring: {repeats: 6}
targets: {accuracy_drop: 90.0}
seed: 0
"""
Target = Callable[[random.Random, Path, Path], None]


class Stop(BaseException):
    """Stops a run where a kill would."""


class Payload:
    """A pickle of this leaves a mark when it is loaded without care."""

    def __reduce__(self) -> Any:
        return os.mkdir, (MARK,)


def command(*words: str) -> None:
    """Run `lessen` with these words, as the console script does."""
    from lessen.cli import main

    main(list(words))


def ground(folder: Path) -> None:
    """What all tries start from: data, a finished run and one that was stopped, files of every kind."""
    from lessen.core import files
    from lessen.deploy import export_onnx, export_pt2
    from lessen.pipeline import compress
    from lessen.recipe import as_data, pack, read_recipe
    from lessen.zoo import build

    os.chdir(folder)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 6)).astype("f4")
    np.savez("data.npz", x=x, y=(x[:, 0] > 0).astype("i8") + (x[:, 1] > 0))
    Path("recipe.yaml").write_text(RECIPE)
    asked = read_recipe("recipe.yaml")
    compress(**asked.arguments(), run="whole", asked=as_data(asked), progress=False)
    replace, written = files.write_whole, 0

    def stopping(path: Path, write: Any) -> None:
        nonlocal written
        replace(path, write)
        written += "checkpoint-" in path.name
        if written == 1:
            raise Stop

    files.write_whole = stopping
    try:
        compress(**asked.arguments(), run="stopped", asked=as_data(asked), progress=False)
    except Stop:
        pass
    finally:
        files.write_whole = replace
    pack("whole", out="packed.safetensors")
    network = build("zoo:mlp", inputs=6, hidden=[8], classes=3).eval()
    export_onnx(network, torch.zeros(2, 6), "model.onnx")
    export_pt2(network, torch.zeros(2, 6), "model.pt2")
    save_file(network.state_dict(), "weights.safetensors")
    torch.save(network.state_dict(), "weights.pt")
    from PIL import Image

    for label in ("cat", "dog"):
        for number in range(4):
            place = folder / "images" / label / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (6, 6, 3)).astype("u1")).save(place)


def recipes(rng: random.Random, here: Path, made: Path) -> None:
    """A recipe, altered as text, as bytes or as data: read, and its network built and its data loaded."""
    from lessen.recipe import check_imports, read_recipe, write_recipe

    file = here / "r.yaml"
    (here / "data.npz").symlink_to(made / "data.npz")
    how = rng.random()
    if how < 0.4:
        file.write_text(mutate.text(rng, RECIPE), errors="surrogatepass")
    elif how < 0.5:
        file.write_bytes(mutate.content(rng, RECIPE.encode()))
    else:
        try:
            file.write_text(yaml.safe_dump(mutate.tree(rng, yaml.safe_load(RECIPE))), errors="surrogatepass")
        except RecursionError:
            file.write_text("[" * 3000)
    if rng.random() < 0.02:
        command("run", "r.yaml", "--run", "out", "--quiet")
    recipe = read_recipe(file)
    check_imports(recipe, file, allow_import=False)
    write_recipe(recipe, here / "again.yaml")
    if _small(recipe.network.arguments) and _small(recipe.student.arguments if recipe.student else {}):
        recipe.arguments()


def _small(arguments: Any) -> bool:
    """Whether a network of this size is no more than what a person may ask for on this machine."""
    numbers = [abs(each) for each in np.atleast_1d(np.array(_numbers(arguments), float))]
    return float(np.prod([max(1.0, each) for each in numbers], initial=1.0)) < 1e7


def _numbers(data: Any) -> list[float]:
    if isinstance(data, dict | list):
        return [each for item in (data.values() if isinstance(data, dict) else data) for each in _numbers(item)]
    return [float(min(abs(data), 1e30))] if isinstance(data, int | float) else []


def packed(rng: random.Random, here: Path, made: Path) -> None:
    """A packed file: bytes altered, or the index altered with all checksums made right."""
    from lessen.recipe import load

    old = (made / "packed.safetensors").read_bytes()
    file = here / "p.safetensors"
    if rng.random() < 0.2:
        file.write_bytes(mutate.content(rng, old))
    else:
        size = int.from_bytes(old[:8], "little")
        header = json.loads(old[8 : 8 + size])
        index = json.loads(header["__metadata__"]["index"])
        if rng.random() < 0.6:
            index["tensors"] = mutate.tree(rng, index["tensors"])
        else:
            index = mutate.tree(rng, index)
        body = mutate.content(rng, old[8 + size :]) if rng.random() < 0.2 else old[8 + size :]
        if isinstance(index, dict) and isinstance(index.get("tensors"), dict):
            _seal(index["tensors"], body)
        try:
            text = json.dumps(index)
        except (RecursionError, ValueError):
            text = "[" * 5000
        header["__metadata__"] |= {"index": text, "checksum": str(zlib.crc32(text.encode(errors="replace")))}
        header["packed"]["shape"], header["packed"]["data_offsets"] = [len(body)], [0, len(body)]
        top = json.dumps(header).encode()
        file.write_bytes(len(top).to_bytes(8, "little") + top + body)
    load(file)


def _seal(forms: dict[str, Any], body: bytes) -> None:
    at = 0
    for form in forms.values():
        if isinstance(form, dict) and isinstance(form.get("bytes"), int) and 0 <= form["bytes"] <= len(body):
            form["checksum"] = zlib.crc32(body[at : at + form["bytes"]])
            at += form["bytes"]


def folders(rng: random.Random, here: Path, made: Path) -> None:
    """A file of a finished run, altered (with its seal made right where it has one), then load, report or pack."""
    shutil.copytree(made / "whole", here / "run")
    (here / "data.npz").symlink_to(made / "data.npz")
    _alter(rng, here / "run")
    command(*rng.choice((("load", "run"), ("report", "run"), ("pack", "run"), ("load", "run"), ("resume", "run"))))


def resumed(rng: random.Random, here: Path, made: Path) -> None:
    """A file of a stopped run, altered, then resume: refused, or ended with the bits of the whole run."""
    shutil.copytree(made / "stopped", here / "run")
    (here / "data.npz").symlink_to(made / "data.npz")
    altered = _alter(rng, here / "run", forge=False)
    try:
        command("resume", "run", "--quiet")
    except SystemExit as left:
        whole, now = load_file(made / "whole" / "weights.safetensors"), here / "run" / "weights.safetensors"
        if left.code == 0 and not (now.is_file() and _equal(whole, load_file(now))):
            raise AssertionError(f"other bits after {altered} was altered") from None
        raise


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def _alter(rng: random.Random, run: Path, *, forge: bool = True) -> str:
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name not in {".lock", "report.html"})
    file = rng.choice(files)
    old, how = file.read_bytes(), rng.random()
    if how < 0.1:
        file.unlink()
        kind = rng.randrange(4)
        if kind == 0:
            os.mkfifo(file)
        elif kind == 1:
            file.mkdir()
        elif kind == 2:
            file.symlink_to(rng.choice(("/dev/zero", "/etc/passwd", run.parent / "nowhere", run)))
    elif how < 0.4 or file.suffix not in {".json", ".jsonl", ".yaml"}:
        file.write_bytes(mutate.content(rng, old))
    elif file.suffix == ".yaml":
        file.write_text(mutate.text(rng, old.decode()), errors="surrogatepass")
    elif file.suffix == ".jsonl":
        lines = old.decode().splitlines() or ["{}"]
        at = rng.randrange(len(lines))
        lines[at] = _dumped(mutate.tree(rng, json.loads(lines[at])))
        file.write_text("\n".join(lines) + "\n")
    else:
        _forge(rng, file, json.loads(old), forge)
    return str(file.relative_to(run))


def _forge(rng: random.Random, file: Path, data: Any, forge: bool) -> None:
    """JSON that was altered; a file with a seal is sealed again by its own writer."""
    from lessen.core import sealed

    if isinstance(data, dict) and "content" in data and forge and hasattr(sealed, "write_sealed"):
        try:
            sealed.write_sealed(file, mutate.tree(rng, data["content"]))
            return
        except (RecursionError, ValueError, TypeError):
            pass
    file.write_text(_dumped(mutate.tree(rng, data)))


def _dumped(data: Any) -> str:
    try:
        return json.dumps(data)
    except (RecursionError, ValueError):
        return "[" * 5000


def npz(rng: random.Random, here: Path, made: Path) -> None:
    """An archive of arrays: bytes altered, headers that lie, arrays of other types, shapes and numbers, pickles."""
    from lessen.data import Arrays

    file, how = here / "d.npz", rng.random()
    old = (made / "data.npz").read_bytes()
    if how < 0.4:
        file.write_bytes(mutate.content(rng, old))
    elif how < 0.6:
        with zipfile.ZipFile(io.BytesIO(old)) as given, zipfile.ZipFile(file, "w") as new:
            for name in given.namelist():
                content = given.read(name)
                lie = content.replace(b"(32,", f"({rng.choice((2**40, -1, 0, 33, 10**30))},".encode())
                new.writestr(name, rng.choice((lie, mutate.content(rng, content), pickle.dumps(Payload()), lie)))
    else:
        shapes = ((), (0,), (32,), (32, 6), (32, 0), (31, 6), (32, 2, 2), (1, 6))
        kinds = ("f4", "f8", "i8", "u1", "?", "c8", "U3", "S2", "f2", "M8[s]", "O", "u8", "i1", "V4")

        def array() -> Any:
            numbers = np.random.default_rng(rng.randrange(99)).normal(size=rng.choice(shapes)) * rng.choice((1, 1e30))
            numbers = numbers * np.nan if rng.random() < 0.05 else numbers
            kind = rng.choice(kinds)
            with np.errstate(all="ignore"):
                return numbers.astype("i8").astype(kind) if kind in {"M8[s]", "O", "V4"} else numbers.astype(kind)

        x = np.load(made / "data.npz")["x"] if rng.random() < 0.5 else array()
        large = np.full(32, rng.choice((2**40, 2**62, -1, 10**6, 5))) + np.arange(32)
        names = rng.choice((("x", "y"), ("x_train", "y_train"), ("x", "labels"), ("x_train", "y_test"), ("a", "b")))
        np.savez(file, **{names[0]: x, names[1]: rng.choice((large, array()))})
    Arrays(file=file).load()


def onnx(rng: random.Random, here: Path, made: Path) -> None:
    """An ONNX file: bytes altered, or another graph; measured with data and without."""
    file, how = here / "m.onnx", rng.random()
    old = (made / "model.onnx").read_bytes()
    (here / "data.npz").symlink_to(made / "data.npz")
    if how < 0.6:
        file.write_bytes(mutate.content(rng, old))
    else:
        _graph(rng, file)
    data = ("--data", "data.npz") if rng.random() < 0.7 else ()
    command("measure", rng.choice(("m.onnx", "m.onnx", "m.onnx", "m.xml")), *data)


def _graph(rng: random.Random, file: Path) -> None:
    import onnx as package
    from onnx import TensorProto, helper

    kind = rng.choice((TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.FLOAT16, TensorProto.BOOL))
    shape = rng.choice(([], ["n", 6], ["n", 5], [1, 6], ["n", 3, 6], None))
    x = helper.make_tensor_value_info("x", kind, shape)
    out = rng.choice((TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT64, kind))
    y = helper.make_tensor_value_info("y", out, rng.choice((None, [], ["n", 3])))
    op = rng.choice(("Identity", "ReduceSum", "SequenceConstruct", "Shape", "Relu", "Nothing", "Flatten", "Size"))
    nodes = [helper.make_node(op, ["x"], ["y"])]
    initial = []
    if rng.random() < 0.3:
        nodes = [helper.make_node("ConstantOfShape", ["s"], ["y"])]
        initial = [helper.make_tensor("s", TensorProto.INT64, [2], [rng.choice((1, 2**40, -1)), 3])]
    graph = helper.make_graph(nodes, "g", [x] * rng.choice((1, 1, 2, 0)), [y] * rng.choice((1, 1, 0)), initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", rng.choice((17, 1, 99)))], ir_version=8)
    if rng.random() < 0.3:
        weight = model.graph.initializer.add()
        weight.name, weight.data_type, weight.data_location = "w", TensorProto.FLOAT, TensorProto.EXTERNAL
        weight.dims.append(4)
        entry = weight.external_data.add()
        entry.key, entry.value = "location", rng.choice(("/etc/passwd", "../../x", "w.bin", "\x00", "/dev/zero", "."))
    file.write_bytes(model.SerializeToString())
    del package


def pt2(rng: random.Random, here: Path, made: Path) -> None:
    """A torch.export program with altered members, which nobody allowed to be run."""
    file, how = here / "m.pt2", rng.random()
    (here / "data.npz").symlink_to(made / "data.npz")
    old = (made / "model.pt2").read_bytes()
    if how < 0.3:
        file.write_bytes(mutate.content(rng, old))
    else:
        evil = rng.choice((pickle.dumps(Payload()), _saved(Payload())))
        with zipfile.ZipFile(io.BytesIO(old)) as given, zipfile.ZipFile(file, "w") as new:
            chosen = rng.choice(given.namelist())
            for name in given.namelist():
                content = given.read(name)
                if name.endswith("model.json") and how > 0.7:
                    content = _evaluated(rng, content)
                elif name == chosen or ("sample_inputs" in name and how < 0.5):
                    content = evil
                new.writestr(name, content)
            if how > 0.9:
                new.writestr(given.namelist()[0].split("/")[0] + "/data/aotinductor/model/x.so", b"\x7fELF")
    command("measure", "m.pt2", *rng.choice((("--data", "data.npz"), ("--data", "data.npz"), ())))


def _evaluated(rng: random.Random, content: bytes) -> bytes:
    """Places of the graph that torch evaluates as Python."""
    graph = json.loads(content)
    code = f"__import__('os').mkdir('{MARK}')"
    if rng.random() < 0.5:
        graph["guards_code"] = [code]
    else:
        graph["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.mkdir"
        graph["range_constraints"] = {code: {"min_val": 2, "max_val": None}}
    return json.dumps(graph).encode()


def _saved(thing: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def weights(rng: random.Random, here: Path, made: Path) -> None:
    """A file of weights, safetensors or a checkpoint: bytes altered, a forged header, pickles, other objects."""
    from lessen.zoo import load_weights, mlp

    network = mlp(inputs=6, hidden=(8,), classes=3)
    if rng.random() < 0.5:
        file, old = here / "w.safetensors", (made / "weights.safetensors").read_bytes()
        if rng.random() < 0.5:
            file.write_bytes(mutate.content(rng, old))
        else:
            size = int.from_bytes(old[:8], "little")
            top = _dumped(mutate.tree(rng, json.loads(old[8 : 8 + size]))).encode()
            file.write_bytes(len(top).to_bytes(8, "little") + top + old[8 + size :])
    else:
        file, old = here / "w.pt", (made / "weights.pt").read_bytes()
        how = rng.randrange(4)
        state = network.state_dict()
        name = rng.choice(list(state))
        strange = (Payload(), None, 1, torch.zeros(2).to_sparse(), torch.empty(3, device="meta"), [state], {}, b"x",
                   torch.zeros(3, dtype=torch.complex64), torch.nn.Linear(1, 1), state[name].double())  # fmt: skip
        if how == 0:
            file.write_bytes(mutate.content(rng, old))
        elif how == 1:
            file.write_bytes(rng.choice((pickle.dumps(Payload()), _saved(Payload()), pickle.dumps({"a": Payload()}))))
        elif how == 2:
            file.write_bytes(_saved({**state, name: rng.choice(strange)}))
        else:
            file.write_bytes(_saved(rng.choice((*strange, {"state_dict": rng.choice(strange)}))))
    load_weights(network, file)


def images(rng: random.Random, here: Path, made: Path) -> None:
    """A folder of images: files altered, empty, of other kinds, pipes, devices, links, loops; odd folders."""
    from lessen.core.data import batches
    from lessen.data import ImageFolder

    folder = here / "images"
    shutil.copytree(made / "images", folder)
    for _ in range(rng.choice((1, 2, 4))):
        files = [path for path in sorted(folder.rglob("*.png")) if path.is_file()]
        if not files:
            break
        file, how = rng.choice(files), rng.randrange(12)
        old = file.read_bytes()
        if how < 4:
            file.write_bytes(mutate.content(rng, old))
        elif how == 4:
            file.write_bytes(
                rng.choice(
                    (
                        b"",
                        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\n",
                        b"GIF89a",
                        b"BM",
                        b"P6 99999 99999 255\n",
                        b"P5 1 1 1\n",
                        b"\xff\xd8\xff",
                    )
                )
            )
        elif how == 5:
            file.unlink()
            instead = rng.choice(("pipe", "folder", "/dev/zero", str(file), "nowhere"))
            if instead in {"pipe", "folder"}:
                (os.mkfifo if instead == "pipe" else os.mkdir)(file)
            else:
                file.symlink_to(instead)
        elif how == 6:
            shutil.rmtree(file.parent)
        elif how == 7:
            file.rename(file.with_suffix(rng.choice((".jpg", ".tiff", ".txt", ".webp", ".pgm"))))
        elif how == 8:
            (folder / rng.choice(("train", "test", "x\nq", ".hidden", "\u202e"))).mkdir(exist_ok=True)
        elif how == 9:
            (folder / rng.choice(("cat", "loop"))).with_name("loop").symlink_to(folder, target_is_directory=True)
            break
        elif how == 10:
            head = (
                b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\x0dIHDR" + rng.choice((2**31 - 1, 40000)).to_bytes(4, "big") * 2
            )
            body = head + b"\x08\x02\x00\x00\x00"
            file.write_bytes(body + zlib.crc32(body[12:]).to_bytes(4, "big"))
        else:
            file.write_bytes(mutate.content(rng, mutate.content(rng, old)))
    size = rng.choice((None, None, (6, 6), (3, 9)))
    data = ImageFolder(folder=folder, size=size, channels=rng.choice((1, 3))).load()
    for split in (data.train, data.validation, data.test):
        for _ in batches(split, size=64) if split is not None else ():
            pass


def words(rng: random.Random, here: Path, made: Path) -> None:
    """A command line of odd words."""
    (here / "data.npz").symlink_to(made / "data.npz")
    (here / "file").write_text("x")
    os.mkfifo(here / "pipe")
    for name in ("model.onnx", "weights.safetensors", "weights.pt", "recipe.yaml"):
        shutil.copy(made / name, here / name)
    shutil.copytree(made / "whole", here / "run")
    odd = ("", "x", "file/below", "/proc/x/y", "a" * 300,
           "a/" * 3000, "pipe", "/dev/null", "/dev/zero", ".", "/", "~nobody/x",
           "\udcff", "-1", "0", "²", "9" * 30, "file", "run", "run/weights.safetensors", "\x1b[31m", "[red]", "nowhere",
           "zoo:mlp", "zoo:x", "timm:x", "os:mkdir", ":", "trained:x", "digits", "huggingface:/")  # fmt: skip
    networks = ("zoo:mlp", "zoo:residual", "model.onnx", "torchvision:alexnet", "zoo:lenet5", "zoo:mlp", "zoo:mlp")
    odd_pairs = ("hidden=[", "hidden=!!python/object/apply:os.mkdir [EXECUTED]", "weights=x", "seed=1", "=", "x",
                 "a.b=1", "inputs=6", "classes=-1", "classes=0", "hidden=[8]", "hidden=[-1]", "width=x", "depth=7",
                 "inputs=\udcff", 'inputs="\\uD800"', "classes=1.5", "inputs={a: *a}", "inputs=1e400")  # fmt: skip

    def maybe(*options: tuple[str, tuple[str, ...]]) -> list[str]:
        return [part for name, values in options if rng.random() < 0.4 for part in (name, rng.choice(values))]

    chosen = rng.choice(
        ("run", "resume", "load", "pack", "report", "methods", "measure", "explain", "schema", "docs", "x")
    )
    shapes = ("6", "1,8,8", "99999999999,9", "²", "-1", "0", "", "6,,", "1e3", "٣", "9" * 400, "3,6")
    given: dict[str, list[str]] = {
        "run": [rng.choice((*odd, "recipe.yaml"))] + maybe(("--run", odd)),
        "resume": [rng.choice(odd)],
        "load": [rng.choice(odd)] + maybe(("--out", odd)),
        "pack": [rng.choice(odd)] + maybe(("--out", odd)),
        "report": [rng.choice(odd)],
        "methods": maybe(("--find", odd)) + ([rng.choice(odd)] if rng.random() < 0.7 else []),
        "measure": [rng.choice((*odd, *networks))] + maybe(("--data", (*odd, "data.npz")), ("--weights", odd),
                   ("--set", odd_pairs), ("--set", odd_pairs), ("--batch", ("0", "-1", "x", "1")),
                   ("--threads", ("0", "-1", "1", "9" * 20))),
        "explain": [rng.choice((*odd, *networks))] + maybe(("--shape", shapes), ("--data", (*odd, "data.npz")),
                   ("--set", odd_pairs), ("--set", odd_pairs), ("--weights", odd)),
        "schema": maybe(("--out", odd)),
        "docs": ["--out", rng.choice([each for each in odd if each not in {".", "/"}]), *maybe(("--evidence", odd))],
        "x": [rng.choice(odd)],
    }  # fmt: skip
    command(chosen, *given[chosen])


TARGETS: dict[str, tuple[Target, int]] = {
    "recipes": (recipes, 30),
    "packed files, forged": (packed, 25),
    "run folders, then load, report, pack": (folders, 12),
    "stopped runs, then resume": (resumed, 2),
    "npz": (npz, 8),
    "ONNX": (onnx, 5),
    "pt2": (pt2, 3),
    "weights": (weights, 8),
    "image folders": (images, 4),
    "command lines": (words, 3),
}
"""Each target, and its share of all tries in percent."""


# These are bad on purpose: each oracle is seen to fail.


def executes(rng: random.Random, here: Path, made: Path) -> None:
    torch.load(io.BytesIO(_saved(Payload())), weights_only=False)


def raises(rng: random.Random, here: Path, made: Path) -> None:
    raise KeyError("reference")


def exits(rng: random.Random, here: Path, made: Path) -> None:
    raise SystemExit(1)


def spins(rng: random.Random, here: Path, made: Path) -> None:
    while True:
        pass


def blocks(rng: random.Random, here: Path, made: Path) -> None:
    os.mkfifo(here / "x")
    (here / "x").read_text()


def fills(rng: random.Random, here: Path, made: Path) -> None:
    np.ones(280_000_000)


def differs(rng: random.Random, here: Path, made: Path) -> None:
    raise AssertionError("other bits")


def dies(rng: random.Random, here: Path, made: Path) -> None:
    os.kill(os.getpid(), 9)


BAD: dict[str, tuple[Target, int]] = {
    f"bad: {each.__name__}": (each, 1) for each in (executes, raises, exits, spins, blocks, fills, differs, dies)
}
