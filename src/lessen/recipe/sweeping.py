"""One recipe with several settings and seeds: a folder of runs that can be killed and resumed, and one table.

Each run is a normal run folder. `sweep.json` holds what was asked, `trials.log` what optuna was asked and told. One
process hands runs out to workers; a worker whose parent dies ends with it, so nobody holds a run afterwards.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
import yaml

from lessen import pipeline
from lessen.core.errors import LessenError, RunError, SettingError, did_you_mean
from lessen.core.files import read_json, write_json
from lessen.core.identity import differences
from lessen.core.telling import tell
from lessen.engine.home import as_device
from lessen.engine.stopping import Stopped
from lessen.engine.track import as_trackers
from lessen.pipeline import RunFolder
from lessen.pipeline.folder import lock
from lessen.recipe.reader import plain_value
from lessen.recipe.recipe import Recipe, as_data, parse_recipe, read_recipe
from lessen.recipe.runs import check_imports
from lessen.recipe.runs import resume as resume_run
from lessen.report import Comparison, compare, write_comparison
from lessen.report.outcome import flat, read_outcome
from lessen.search import Range, Study, Values
from lessen.search.study import combinations

_FILE = "sweep.json"
_LONGEST = 100
"""Characters of the name of a run."""


@dataclass(frozen=True, repr=False)
class Sweep:
    """What came of a sweep.

    Args:
        folder: Of the sweep; each run is a folder in it.
        runs: The folders of the runs that came to their end.
        failed: What the others failed with, by the name of their folder.
        comparison: The runs in one table.
        notes: Which combination is best on the validation split.
    """

    folder: Path
    runs: tuple[Path, ...]
    failed: dict[str, str]
    comparison: Comparison | None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        table = "No run came to its end." if self.comparison is None else str(self.comparison)
        failed = [f"! {name} failed: {said}" for name, said in self.failed.items()]
        return "\n".join([table, *self.notes, *failed])

    def __repr__(self) -> str:
        return f"Sweep(folder={str(self.folder)!r}, {len(self.runs)} runs, {len(self.failed)} failed)"

    def frame(self) -> Any:
        """One line a run, as a pandas DataFrame.

        Raises:
            MissingExtraError: pandas is not installed.
            RunError: no run came to its end.
        """
        if self.comparison is None:
            raise RunError(f"No run of {self.folder} came to its end, so there is no table.")
        return self.comparison.frame()

    def _repr_html_(self) -> str:
        return f"<pre>{self}</pre>" if self.comparison is None else self.comparison._repr_html_()


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a sweep does: all that `sweep.json` holds."""

    recipe: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    seeds: list[int]
    sampler: str
    trials: int | None
    goal: str | None
    source: str
    paths: dict[str, str] = field(default_factory=dict)

    def space(self) -> dict[str, Values | Range]:
        return {name: _space(told) for name, told in self.settings.items()}

    def recipe_of(self, chosen: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """The recipe of one run."""
        data: dict[str, Any] = json.loads(json.dumps(self.recipe))
        for name, value in chosen.items():
            assign(data, self.paths[name], value)
        return {**data, "seed": seed}


def sweep(
    recipe: str | Path,
    settings: Mapping[str, Any],
    *,
    seeds: int | Sequence[int] = 1,
    workers: int = 1,
    run: str | Path | None = None,
    sampler: str = "Grid",
    trials: int | None = None,
    goal: str | None = None,
    allow_import: bool = False,
    device: str | None = None,
    keep_state: bool = False,
    track: Sequence[str] = (),
    progress: bool = True,
) -> Sweep:
    """Carry a recipe out with several settings and seeds, and compare what comes of it.

    Called again with the same folder and the same arguments, it goes on where it was stopped, in the middle of a run if
    need be, and ends with the same table.

    Args:
        recipe: The path of a recipe.
        settings: The values of each setting: a sequence, or for a sampler other than "Grid" also a text as "1..8" or
            "1e-4..1e-1 log". A setting is named by its path in the recipe, `steps.1.fit.batch`, or by an end of
            it that only one has, `batch`. The name of an object stands for the object: `objective`.
        seeds: How many, from the seed of the recipe on, or which. Each combination runs with each.
        workers: Runs at a time, each in a process of its own; 1: in this process.
        run: The folder; None: `runs/<recipe>-sweep`.
        sampler: The name of one of optuna's samplers: "Grid" tries every combination.
        trials: How many combinations; None: all of a grid.
        goal: The figure that a sampler other than "Grid" makes better; None: the first of the last validation. Figures
            of the test split are for the report: choosing by them makes them too good.
        allow_import: Whether a `module:factory` that the recipe names may be imported, which executes that module.
        device: Where each run trains, as of `compress`; None: as the recipe says.
        keep_state: Whether finished runs keep checkpoints and caches of training.
        track: Trackers that get parameters, logs and measurements of each run, next to those of the recipe, by name.
        progress: Whether to print one line a run to the standard error stream.

    Raises:
        RecipeError, SettingError: a setting or a value is wrong; before anything starts.
        MissingExtraError: optuna is not installed.
        RunError: the folder holds another sweep, or another process works on it.
    """
    how = _How(allow_import=allow_import, device=device, keep_state=keep_state, track=track)
    path = Path(recipe)
    asked = read_recipe(path, allow_import=allow_import)
    check_imports(asked, path, allow_import=allow_import)
    folder = Path(run) if run is not None else Path("runs") / f"{path.stem}-sweep"
    plan = _planned(asked, settings, seeds=seeds, sampler=sampler, trials=trials, goal=goal, source=str(path))
    if (folder / _FILE).exists():
        differs = list(differences(read_json(folder / _FILE), vars(plan)))
        if differs:
            raise RunError(
                f"{folder} contains another sweep. Before and now: {'; '.join(differs[:6])}. Choose another folder, or "
                "give the same settings to go on with it."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} already exists and is not empty. Choose another folder for the sweep.")
    return _carry_out(plan, folder, how, workers=workers, progress=progress)


def resume_sweep(
    folder: str | Path,
    *,
    workers: int = 1,
    allow_import: bool = False,
    device: str | None = None,
    keep_state: bool = False,
    track: Sequence[str] = (),
    progress: bool = True,
) -> Sweep:
    """Go on with a sweep that was stopped; arguments as of `sweep`.

    Raises:
        RunError: the folder holds no sweep, or another process works on it.
        RecipeError: the recipe names a `module:factory`, and that was not allowed.
    """
    folder = Path(folder)
    if not (folder / _FILE).is_file():
        raise RunError(f"{folder} is not the folder of a sweep: it has no {_FILE}.")
    try:
        plan = _Plan(**read_json(folder / _FILE))
    except TypeError as error:
        raise RunError(f"{folder / _FILE} is damaged, or was written by another version: {error}.") from error
    check_imports(_read(plan.recipe, folder / _FILE, allow_import=allow_import), folder, allow_import=allow_import)
    how = _How(allow_import=allow_import, device=device, keep_state=keep_state, track=track)
    return _carry_out(plan, folder, how, workers=workers, progress=progress)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / _FILE).is_file()


def settings_of(words: Sequence[str]) -> dict[str, Any]:
    """Settings as a person writes them, `name=value,value` or `name=low..high`.

    Raises:
        SettingError: one is not of that form, or is given twice.
        RecipeError: the values are not YAML.

    >>> settings_of(["temperature=1,4", "rate=1e-3..1e-1 log"])
    {'temperature': [1, 4], 'rate': '1e-3..1e-1 log'}
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.strip() or not text.strip():
            raise SettingError(f"--set {word!r} names no values; expected name=value,value, as temperature=1,2,4.")
        if name in found:
            raise SettingError(f"--set {name} is given twice; give all its values at once, separated by commas.")
        values = plain_value(f"[{text}]", f"--set {name}")
        found[name] = text.strip() if _as_range(text) else values
    return found


def assign(data: dict[str, Any], path: str, value: Any) -> None:
    """Set what is at a path of a recipe, in place; names of classes are not part of a path.

    >>> recipe = {"steps": [{"Offline": {"epochs": 3}}]}
    >>> assign(recipe, "steps.0.epochs", 5)
    >>> recipe
    {'steps': [{'Offline': {'epochs': 5}}]}
    """
    parts = path.split(".")
    place: Any = data
    for part in parts[:-1]:
        place = _fields(place[int(part)] if isinstance(place, list) else place[part])
    if isinstance(place, list):
        place[int(parts[-1])] = value
    else:
        place[parts[-1]] = value


def _fields(value: Any) -> Any:
    """What an object holds, without its class."""
    if isinstance(value, dict) and len(value) == 1 and (name := next(iter(value)))[:1].isupper():
        return value[name]
    return value


def _planned(
    asked: Recipe, settings: Mapping[str, Any], *, seeds: int | Sequence[int], source: str, **how: Any
) -> _Plan:
    """The plan of a sweep, checked: every name, every value, and for a grid every combination."""
    data = as_data(asked)
    known = [path for path, _ in flat(data) if path != "seed"]
    paths = {name: _path(name, known) for name in settings}
    twice = [name for name, path in paths.items() if list(paths.values()).count(path) > 1]
    if twice:
        raise SettingError(f"{' and '.join(twice)} are the same setting, {paths[twice[0]]}. Give it once.")
    count = range(asked.seed, asked.seed + seeds) if isinstance(seeds, int) else seeds
    if not len(count):
        raise SettingError(f"seeds is {seeds!r}, but at least one was expected.")
    told = {name: _told(name, values) for name, values in settings.items()}
    plan = _Plan(recipe=data, settings=told, seeds=list(count), paths=paths, source=source, **how)
    for name, options in plan.space().items():
        for value in options.values if isinstance(options, Values) else (options.low, options.high):
            changed = plan.recipe_of({name: value}, plan.seeds[0])
            try:
                _read(changed, Path(source))
            except LessenError as error:
                said = re.sub(r"^.*?, line \d+: ", "", str(error))
                raise type(error)(f"{name}={value}: {said}") from error
    if plan.sampler.lower() != "grid" and plan.trials is None:
        raise SettingError(f"The sampler {plan.sampler} has no end of its own; say how many combinations with trials.")
    if plan.trials is not None and plan.trials < 1:
        raise SettingError(f"trials is {plan.trials}, but at least 1 was expected.")
    return plan


def _path(name: str, known: Sequence[str]) -> str:
    """The path of a setting that is meant by an end of it."""
    if name == "seed":
        raise SettingError(
            "Seeds are not a setting of a sweep; say how many with seeds (on the command line, --seeds)."
        )
    wanted = name.split(".")
    fits = [path for path in known if path.split(".")[-len(wanted) :] == wanted]
    exact = [path for path in fits if path == name]
    if len(exact or fits) == 1:
        return (exact or fits)[0]
    if fits:
        raise SettingError(f"{name!r} could be any of {', '.join(fits[:6])}. Give enough of its path to tell which.")
    ends = {end for path in known for end in (path, path.rpartition(".")[2]) if not end.isdigit()}
    raise SettingError(f"The recipe has no setting {name!r}: {did_you_mean(name, sorted(ends))}")


_RANGE = re.compile(r"\s*([-+.\deE]+?)\.\.([-+.\deE]+)\s*(log)?\s*")


def _as_range(text: str) -> Range | None:
    found = _RANGE.fullmatch(text)
    if found is None:
        return None
    try:
        low, high = float(found[1]), float(found[2])
    except ValueError:
        return None
    whole = all(re.fullmatch(r"[-+]?\d+", found[place]) for place in (1, 2))
    return Range(low, high, whole=whole, logarithmic=found[3] is not None)


def _told(name: str, values: Any) -> dict[str, Any]:
    if isinstance(values, str):
        found = _as_range(values)
        if found is None:
            values = [values]
        elif not found.low < found.high or (found.logarithmic and found.low <= 0):
            raise SettingError(f"{name}={values} is no range: expected low..high, with low above 0 for log.")
        else:
            return vars(found)
    listed = list(values) if isinstance(values, Sequence) else [values]
    if not listed:
        raise SettingError(f"{name} has no values; expected some, as {name}=1,2,4.")
    unique = [value for number, value in enumerate(listed) if value not in listed[:number]]
    return {"values": unique}


def _space(told: Mapping[str, Any]) -> Values | Range:
    return Values(tuple(told["values"])) if "values" in told else Range(**told)


def _read(data: Mapping[str, Any], source: Path, *, allow_import: bool = False) -> Recipe:
    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=120)
    return parse_recipe(text, source, allow_import=allow_import)


# Carrying it out


@dataclass(frozen=True, kw_only=True)
class _How:
    """How each run is carried out; not what it computes, so it may change when a sweep is gone on with."""

    allow_import: bool
    device: str | None
    keep_state: bool
    track: Sequence[str]

    def arguments(self, recipe: Recipe) -> dict[str, Any]:
        """These arguments of `compress`, with what the recipe says."""
        device = recipe.device if self.device is None else self.device
        return {"keep_state": self.keep_state, "device": device, "track": [*recipe.arguments()["track"], *self.track]}


def _carry_out(plan: _Plan, folder: Path, how: _How, *, workers: int, progress: bool) -> Sweep:
    if workers < 1:
        raise SettingError(f"workers is {workers}, but at least 1 was expected.")
    as_device(how.device)  # a slip in either is said now, and not by every run
    as_trackers(how.track)
    with ExitStack() as held:
        held.enter_context(lock(folder, folder))
        write_json(folder / _FILE, vars(plan))
        study = Study(folder / "trials.log", plan.space(), sampler=plan.sampler, higher=_higher(plan.goal))
        hands = _Hands(workers, how)
        held.callback(hands.close)
        try:
            finished, failed = _work(plan, study, folder, hands, progress=progress)
        except (Stopped, KeyboardInterrupt):
            tell(f"Continue the whole sweep with: lessen resume {folder}")
            raise
    order = _in_order(plan, finished)
    made = compare(*(folder / name for name in order)) if order else None
    if made is not None:
        for name in ("table.csv", "table.json", "table.svg"):
            write_comparison(made, folder / name)
    return Sweep(folder, tuple(folder / name for name in order), failed, made, tuple(_ends(plan, made)))


def _work(
    plan: _Plan, study: Study, folder: Path, hands: _Hands, *, progress: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Ask, run and tell until all trials are told; the settings of each finished run, and what failed."""
    finished = {
        _name(plan, chosen, seed): chosen
        for _, chosen in study.told()
        for seed in plan.seeds
        if _is_finished(folder / _name(plan, chosen, seed))
    }
    failed: dict[str, str] = {}
    total = plan.trials if plan.trials is not None else study.size or 0
    total = min(total, study.size or total) if study.sampler == "Grid" else total
    again = study.open()
    left = total - len(study.told()) - len(again)
    waiting: dict[int, set[str]] = {}
    doing: dict[Future[float], tuple[int, str, dict[str, Any]]] = {}
    queue: list[tuple[int, dict[str, Any], int]] = []
    while True:
        while len(doing) < hands.count and (queue or again or left > 0):
            if not queue:
                if again:
                    number, chosen = again.pop(0)
                else:
                    number, chosen = study.ask()
                    left -= 1
                queue = [(number, chosen, seed) for seed in plan.seeds]
                waiting[number] = {_name(plan, chosen, seed) for seed in plan.seeds}
            number, chosen, seed = queue.pop(0)
            name = _name(plan, chosen, seed)
            doing[hands.start(plan.recipe_of(chosen, seed), folder / name)] = (number, name, chosen)
        if not doing:
            return finished, failed
        for future in wait(doing, return_when=FIRST_COMPLETED).done:
            number, name, chosen = doing.pop(future)
            try:
                seconds = future.result()
                finished[name] = chosen
                says = f"{len(finished)} of {total * len(plan.seeds)} runs: {name} ({seconds:.0f} s)"
            except LessenError as error:
                failed[name] = str(error)
                says = f"! {name} failed: {error}"
            if progress:
                print(says, file=sys.stderr, flush=True)
            waiting[number].discard(name)
            if not waiting[number]:
                study.tell(number, _reached(plan, folder, [_name(plan, chosen, seed) for seed in plan.seeds], failed))


def _reached(plan: _Plan, folder: Path, names: Sequence[str], failed: Mapping[str, str]) -> float | None:
    """What a combination came to: the mean of the goal over seeds; None if a run failed.

    Raises:
        SettingError: there is no such figure, and the sampler needs it.
    """
    if any(name in failed for name in names):
        return None
    found = [read_outcome(folder / name).figures for name in names]
    looks = [name for name in found[0] if name.startswith("validation ")]
    goal = plan.goal or next(iter(looks), None)
    if plan.sampler.lower() == "grid" and (goal is None or goal not in found[0]):
        return 0.0  # a grid asks for nothing
    if goal is None or any(goal not in figures for figures in found):
        known = did_you_mean(goal or "", list(found[0]))
        raise SettingError(f"The sampler {plan.sampler} needs a figure to improve, and there is no {goal!r}: {known}")
    value = math.fsum(figures[goal] for figures in found) / len(found)
    return value if math.isfinite(value) else None


_LOWER = ("nll", "loss", "error", "bytes", "latency", "parameters", "rmse", "mae", "adds")


def _higher(goal: str | None) -> bool:
    return goal is None or not goal.endswith(_LOWER)


def _in_order(plan: _Plan, finished: Mapping[str, dict[str, Any]]) -> list[str]:
    """The runs in the order of the grid, or of their first trial; those of the recipe as it is written come first."""
    if plan.sampler.lower() == "grid":
        grid = combinations({name: told["values"] for name, told in plan.settings.items()})
    else:
        grid = [
            chosen for number, chosen in enumerate(finished.values()) if chosen not in list(finished.values())[:number]
        ]
    here = dict(flat(plan.recipe))
    grid.sort(key=lambda chosen: any(here.get(plan.paths[name]) != value for name, value in chosen.items()))
    names = [_name(plan, chosen, seed) for chosen in grid for seed in plan.seeds]
    return [name for name in names if name in finished]


def _ends(plan: _Plan, made: Comparison | None) -> Iterator[str]:
    """Which combination is best on the validation split, and whether it is at an end of what was tried."""
    if made is None or len(made.rows) < 2:
        return
    goal = plan.goal or next(
        (name for row in made.rows for name in row.figures if name.startswith("validation ")), None
    )
    rows = [row for row in made.rows if goal is not None and goal in row.figures]
    if goal is None or not rows:
        return
    best = (max if _higher(goal) else min)(rows, key=lambda row: row.figures[goal].mean)
    yield f"Best {goal}: {made.label(best)}."
    for name, told in plan.settings.items():
        numbers = [value for value in told.get("values", []) if isinstance(value, int | float)]
        mine = dict(flat(plan.recipe)) | {made.varied[short]: value for short, value in best.settings.items()}
        value = mine.get(plan.paths[name])
        if len(numbers) > 2 and value in (min(numbers), max(numbers)):
            yield f"{name} {value} is at the end of the values that were tried; a better one may lie beyond it."


def _name(plan: _Plan, chosen: Mapping[str, Any], seed: int) -> str:
    """The name of a run, which follows from its settings alone."""
    parts = [f"{name.rpartition('.')[2]}-{_word(value)}" for name, value in chosen.items()]
    name = "_".join([*parts, f"seed-{seed}"])
    if len(name) > _LONGEST or len({name.rpartition(".")[2] for name in chosen}) < len(chosen) or _unclear(plan):
        from lessen.core.identity import identity

        name = f"{name[: _LONGEST - 20]}_{identity([dict(chosen), seed])[:8]}"
    return name


def _unclear(plan: _Plan) -> bool:
    """Whether two values of a setting are one word."""
    for told in plan.settings.values():
        words = [_word(value) for value in told.get("values", [])]
        if len({word.lower() for word in words}) < len(words):
            return True
    return any("values" not in told for told in plan.settings.values())


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")[:40] or "empty"


def _is_finished(folder: Path) -> bool:
    return (folder / "checkpoints" / "state.json").is_file() and RunFolder(folder).open().finished


def _one_run(recipe: dict[str, Any], folder: Path, how: _How) -> float:
    """Carry one run out, or what is left of it; how many seconds it took."""
    start = time.monotonic()
    # The sweep has read this recipe: what it uses was allowed there, and a worker must import it again.
    run, asked = RunFolder(folder), _read(recipe, folder / "recipe.yaml", allow_import=True)
    if run.state.exists():
        if not run.open().finished:
            resume_run(folder, allow_import=how.allow_import, progress=False, **how.arguments(asked))
    else:
        told = {**asked.arguments(), **how.arguments(asked)}
        pipeline.compress(**told, run=folder, asked=as_data(asked), progress=False)
    return time.monotonic() - start


class _Hands:
    """What runs are given to: some processes, or this one.

    Args:
        count: How many.
        how: How each run is carried out.
    """

    def __init__(self, count: int, how: _How) -> None:
        self.count, self._how = count, how
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            threads = max(1, torch.get_num_threads() // count)
            self._pool = ProcessPoolExecutor(
                count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(threads,),
            )

    def start(self, recipe: dict[str, Any], folder: Path) -> Future[float]:
        """Carry a run out."""
        if self._pool is not None:
            return self._pool.submit(_one_run, recipe, folder, self._how)
        future: Future[float] = Future()
        try:
            future.set_result(_one_run(recipe, folder, self._how))
        except Stopped:
            raise  # the sweep is meant, and not this run alone
        except LessenError as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Wait for nobody: runs that are not done are gone on with another time."""
        if self._pool is not None:
            running = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()


def _begin(threads: int) -> None:
    """Prepare a worker: its share of the cores, and an end when its parent ends."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
