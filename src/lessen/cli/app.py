"""The commands: each reads what a person wrote, calls one function of the library, and says where the result is."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lessen.cli.screen import say

app = typer.Typer(
    name="lessen",
    help="Make a trained network smaller, and ship the evidence with the file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunOption = Annotated[Path | None, typer.Option("--run", help="Output folder; it must not exist yet.")]
PackedArgument = Annotated[
    Path, typer.Argument(help="The folder of a run, as runs/mine, or a file that `lessen pack` made.")
]
RunArgument = Annotated[Path, typer.Argument(help="The folder of a run, as runs/mine.")]
Imports = Annotated[
    bool,
    typer.Option(
        "--allow-import",
        help="Allow running the Python modules that the recipe or the plan names, or the program in a .pt2 file. Only "
        "for files you trust.",
    ),
]
Device = Annotated[
    str | None, typer.Option(help='Where to train: "cpu", "cuda" or "mps"; by default, the recipe decides.')
]
KeepState = Annotated[
    bool, typer.Option("--keep-state", help="Keep checkpoints and caches of training when the run is finished.")
]
Track = Annotated[
    list[str] | None,
    typer.Option(help="Send parameters, logs and measurements to a tracker as well: tensorboard, mlflow, wandb, ..."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing on the way: no progress bars, no lines.")]


def _version(asked: bool) -> None:
    if asked:
        import lessen

        say(f"lessen {lessen.__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Options of every command; `--debug` is read by `entry.run`."""
    del debug, version


@app.command()
def demo(run: RunOption = None, *, quiet: Quiet = False) -> None:
    """The main job on data that comes with the installation: under three minutes on two cores."""
    from lessen.recipe import shipped

    _start(shipped("digits"), run if run is not None else _free(Path("runs/demo")), allow_import=False, quiet=quiet)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, as recipes/digits.yaml.")],
    run: RunOption = None,
    *,
    allow_import: Imports = False,
    device: Device = None,
    keep_state: KeepState = False,
    track: Track = None,
    quiet: Quiet = False,
) -> None:
    """Do what a recipe says."""
    folder = run if run is not None else Path("runs") / recipe.stem
    _start(
        recipe,
        folder,
        allow_import=allow_import,
        quiet=quiet,
        device=device,
        keep_state=keep_state,
        track=track,
    )


@app.command()
def sweep(
    recipe: Annotated[Path, typer.Argument(help="A recipe, as recipes/digits.yaml.")],
    setting: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="A setting and its values, as temperature=1,2,4 or steps.1.fit.batch=32,64; for a sampler also a "
            "range, as rate=1e-4..1e-1 log. May be given several times.",
        ),
    ],
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder of the sweep; the same command continues what is there.")
    ] = None,
    *,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds for each combination.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    sampler: Annotated[str, typer.Option(help="One of optuna's samplers, as Grid, Random, TPE.")] = "Grid",
    trials: Annotated[int | None, typer.Option(min=1, help="Combinations to try; by default all of a grid.")] = None,
    goal: Annotated[
        str | None, typer.Option(help="What a sampler improves; by default the first validation figure.")
    ] = None,
    allow_import: Imports = False,
    device: Device = None,
    keep_state: KeepState = False,
    track: Track = None,
    quiet: Quiet = False,
) -> None:
    """Do what a recipe says with several settings and seeds, and compare the runs."""
    from lessen.recipe import settings_of, sweep

    made = sweep(
        recipe,
        settings_of(setting),
        seeds=seeds,
        workers=workers,
        run=run,
        sampler=sampler,
        trials=trials,
        goal=goal,
        allow_import=allow_import,
        device=device,
        keep_state=keep_state,
        track=track or (),
        progress=not quiet,
    )
    say(str(made))
    say(f"\nRuns and table: {made.folder}")


@app.command()
def resume(
    run: RunArgument,
    *,
    allow_import: Imports = False,
    device: Device = None,
    keep_state: KeepState = False,
    track: Track = None,
    workers: Annotated[int, typer.Option(min=1, help="For a sweep: runs at a time.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Continue a run that was interrupted; it ends with the same numbers as one that was not."""
    from lessen.pipeline import RunFolder
    from lessen.recipe import is_sweep, resume, resume_sweep

    if is_sweep(run):
        how: Any = {"device": device, "keep_state": keep_state, "track": track or ()}
        say(str(resume_sweep(run, workers=workers, allow_import=allow_import, progress=not quiet, **how)))
        return
    complete = RunFolder(run).open().finished
    made = resume(
        run,
        allow_import=allow_import,
        progress=not quiet,
        device=device,
        keep_state=keep_state,
        track=track,
    )
    if complete:
        say(f"{run} is complete; there was nothing to do.")
    _finish(made)


@app.command()
def load(
    run: PackedArgument,
    out: Annotated[Path | None, typer.Option(help="Export the network to this path as a .pt2 program.")] = None,
    *,
    allow_import: Imports = False,
) -> None:
    """Rebuild the network of a run from its plan and its weights, and say what it is."""
    from lessen.core.errors import RunError
    from lessen.measure import count_nonzero_parameters, count_parameters
    from lessen.recipe import load, read_run

    target = None if out is None else _new_file(out)
    if target is not None and run.is_file():
        raise RunError(f"--out needs example inputs, which {run} does not hold. Give the folder of the run.")
    made = load(run, allow_import=allow_import)
    console = Console(soft_wrap=True, highlight=False)
    say(str(made))
    console.print(f"{count_parameters(made):,} parameters, {count_nonzero_parameters(made):,} of them not zero.")
    if target is not None:
        from lessen.deploy import export_pt2

        console.print(f"Written: {export_pt2(made, read_run(run).data.load().example(2), target)}", markup=False)
    console.print(f'In Python: lessen.load("{run}")', markup=False)


@app.command()
def pack(
    run: RunArgument,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; by default packed.safetensors in the folder of the run.")
    ] = None,
    *,
    allow_import: Imports = False,
) -> None:
    """Write the network of a run to one compressed file, from which it comes back bit for bit."""
    from lessen.pipeline import RunFolder
    from lessen.recipe import pack

    made = pack(run, out=out, allow_import=allow_import)
    before = (RunFolder(run).step(0) / "network.safetensors").stat().st_size
    say(f"Packed: {made.path}")
    say(f"{made.bytes:,} bytes; the original network has {before:,}, {before / made.bytes:.1f} times as many.")
    say(f'In Python: lessen.load("{made.path}")')


@app.command()
def report(run: RunArgument) -> None:
    """Write the report of a run again, from the files in its folder; also of one that `engine.run` made."""
    from lessen.pipeline import RunFolder
    from lessen.report import write_report

    folder = RunFolder(run)
    if folder.state.exists() or not folder.log.is_file():
        folder.open()
    say(f"Report: {write_report(run)}")


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs, or a folder that holds runs, as that of `lessen sweep`.")
    ],
    figure: Annotated[
        list[str] | None, typer.Option(help="A figure to show, as accuracy; may be given several times.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="The run that the others are compared with; by default the first.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write every run and figure to this file: .csv, .json or .svg.")
    ] = None,
) -> None:
    """Compare runs: one table with the settings that differ, figures over seeds, and paired differences."""
    from lessen.report import compare, write_comparison

    made = compare(*runs, figures=figure, baseline=baseline)
    if out is not None:
        write_comparison(made, _new_file(out))
    say(str(made))
    if out is not None:
        say(f"\nWritten: {out}")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Show the card and the settings of one method.")] = None,
    text: Annotated[str | None, typer.Option("--find", help="Only methods whose card contains this text.")] = None,
) -> None:
    """List every method: objectives, bridges, operations, schemes."""
    from lessen.cli.cards import show_all, show_one

    console = Console(highlight=False)
    if name is not None:
        show_one(name, console)
    else:
        show_all(text, console)


@app.command()
def measure(  # noqa: PLR0917
    model: Annotated[str, typer.Argument(help="A network, as zoo:residual, or a file, as runs/mine/model.onnx.")],
    data: Annotated[
        str | None, typer.Option(help="digits, mnist1d, emoji ..., huggingface:NAME, a folder, a .npz or .npy file.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A safetensors file or a checkpoint of plain tensors.")] = None,
    argument: Annotated[
        list[str] | None, typer.Option("--set", help="An argument of the network, as width=32.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Batch size to time at; may be given several times.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; by default OMP_NUM_THREADS or all cores.")] = None,
    *,
    task: Annotated[
        str | None, typer.Option(help="single_label, multi_label, binary, dense, regression, ...; otherwise guessed.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="The name of the output that is judged, if the network has several.")
    ] = None,
    allow_import: Imports = False,
) -> None:
    """Measure a network or a file: bytes, parameters, time, accuracy."""
    from lessen.cli.measuring import measured, show_records

    batches = tuple(batch or [1])
    rows = measured(
        model,
        data,
        weights=weights,
        pairs=argument or [],
        batches=batches,
        threads=threads,
        task=task,
        output=output,
        allow_import=allow_import,
    )
    show_records(rows, Console(highlight=False))


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="A network, as zoo:residual or timm:mobilenetv3_small_100.")],
    data: Annotated[str | None, typer.Option(help="A data set with inputs of the right shape, as digits.")] = None,
    shape: Annotated[str | None, typer.Option(help="Alternatively, the shape of one example, as 3,224,224.")] = None,
    weights: Annotated[Path | None, typer.Option(help="A safetensors file or a checkpoint of plain tensors.")] = None,
    argument: Annotated[
        list[str] | None, typer.Option("--set", help="An argument of the network, as width=32.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the complete result as JSON.")] = False,
) -> None:
    """Say which channels of a network can be pruned, what goes with each, and what cannot and why."""
    from lessen.cli.explaining import explained, show_explanation

    found = explained(model, data, shape, weights=weights, pairs=argument or [])
    if as_json:
        say(json.dumps(found, indent=1))
    else:
        show_explanation(found, Console(highlight=False))


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="The file to write; by default the schema is printed.")] = None,
) -> None:
    """The JSON schema of recipes, for editors."""
    from lessen.core.files import write_json
    from lessen.recipe import schema

    made = schema()
    if out is None:
        say(json.dumps(made, indent=1))
    else:
        write_json(out, made)


EVIDENCE = Path("benchmarks/knowledge/table.json")


@app.command()
def docs(
    out: Annotated[Path, typer.Option(help="The folder for the pages, as docs/methods.")],
    evidence: Annotated[
        Path | None, typer.Option(help=f"The table of evidence; by default {EVIDENCE}, if it exists.")
    ] = None,
) -> None:
    """Write a page for each method: its card, its settings, an example that runs, what was seen of it."""
    from lessen.recipe import read_evidence, write_pages

    table = evidence if evidence is not None else EVIDENCE if EVIDENCE.is_file() else None
    made = write_pages(out, None if table is None else read_evidence(table))
    say(f"{len(made)} pages: {out}")


def _start(
    recipe: Path,
    folder: Path,
    *,
    allow_import: bool,
    quiet: bool,
    device: str | None = None,
    track: list[str] | None = None,
    keep_state: bool = False,
) -> None:
    from lessen.pipeline import compress
    from lessen.recipe import as_data, check_imports, read_recipe

    asked = read_recipe(recipe, allow_import=allow_import)
    asked = asked if device is None else dataclasses.replace(asked, device=device)
    check_imports(asked, recipe, allow_import=allow_import)
    given = asked.arguments()
    given["track"] = [*given["track"], *(track or [])]
    _finish(compress(**given, run=folder, asked=as_data(asked), progress=not quiet, keep_state=keep_state))


def _finish(made: Any) -> None:
    if os.environ.get("RANK", "0") != "0":  # torchrun started several processes: one of them says it
        return
    say(str(made))
    for record in made.records:
        if record.figure.startswith("target_") and record.value:  # the table's warnings name those that were missed
            name, told = record.figure.removeprefix("target_").replace("_", " "), record.detail
            say(f"Target met: {name}, required {told['asked']:g}, measured {told['found']:.3g}")
    say(f"\nReport: {made.report}")
    verified = [record.file for record in made.records if record.figure == "verified" and record.value == 1]
    shipped = [made.run / file for file in verified if file is not None and Path(file).parent == Path()]
    say(f"Files:  {' '.join(map(str, shipped)) or 'none passed verification; the report says why'}")
    if made.file is not None:
        say(f"Recommended: {made.file}")


def _free(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3 … that does not exist: the demo may be run again."""
    number, path = 1, folder
    while path.exists():
        number += 1
        path = folder.with_name(f"{folder.name}-{number}")
    return path


def _new_file(path: Path) -> Path:
    from lessen.core.errors import ExportError

    if path.exists():
        raise ExportError(f"{path} already exists. Choose another name with --out.")
    return path
