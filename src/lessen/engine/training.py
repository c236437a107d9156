"""One stage in motion: order of the data, steps, snapshots, looks at the validation split."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.ahead import Part, ahead
from lessen.core.data import Batch, Data, Examples
from lessen.core.errors import DataError, LessenError, RunError
from lessen.core.seeds import derive, generator
from lessen.engine.advice import SLOWER, diverged, ended
from lessen.engine.averaging import Averages
from lessen.engine.batching import batch_size
from lessen.engine.cache import use_cache
from lessen.engine.checkpoint import Saved
from lessen.engine.evaluate import Figures, better, evaluate, state_of
from lessen.engine.home import Home
from lessen.engine.log import Log, Position
from lessen.engine.moving import choose_kernels, move, rates_of
from lessen.engine.synchronise import release, synchronise
from lessen.graph.flow import Flow, Passed
from lessen.graph.followed import followed
from lessen.graph.owners import Owner
from lessen.graph.stage import Stage, sparsified
from lessen.graph.teacher_file import ByIndex
from lessen.sparsify.contract import Sparsifier

LARGEST = 1e36
"""Beyond this a figure of the validation split is no figure: a step later the network returns NaN."""


class Training:
    """A stage that can be run step by step, stopped anywhere, and continued.

    Args:
        stage: What runs.
        number: Its number among the stages.
        data: To learn from, and to choose the best epoch by.
        seed: For the order of examples, views, dropout, initial weights of bridges.
        device: Where to compute; None: what accelerate finds.
        log: The file of the log, or None.
        folder: Of the run, for caches that name none of their own.
    """

    def __init__(
        self,
        stage: Stage,
        number: int,
        data: Data,
        *,
        seed: int,
        device: torch.device | str | None,
        log: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        self.stage, self.number, self.data, self.seed = stage, number, data, seed
        self.home = Home(device=device, precision=stage.fit.precision)
        for node in stage.graph.nodes:
            network: object = node.network
            if isinstance(network, ByIndex):
                network.check(data)
        self.examples: Examples = data.train
        self._plan_batches()
        self.stage = stage = followed(stage, self.steps, epoch_steps=self.epoch_steps)
        with self.home.inside():
            dry = data.train.fetch(torch.arange(min(4, len(data.train))))
            # Before the flow, so that snapshots of a network are copied with its masks.
            started = {name: how.start(module) for name, (how, module) in sparsified(stage).items()}
            self._dry = dry.to(self.home.device)
            self.flow = Flow(
                stage,
                dry,
                augment=data.augment,
                seed=derive(seed, "stage", number),
                device=self.home.device,
                task=data.facts,
            )
            self.sparsifiers = self._own(started)
            for unit in self.flow.units.values():
                if unit.module is not None:
                    self.home.share([*unit.module.parameters(), *unit.module.buffers()])
            self.flow.set_mode(training=True)
            if stage.fit.channels_last:
                self._lay_out(torch.channels_last)
            for unit in self.flow.units.values():
                if unit.cache is not None:
                    use_cache(unit, data.train, self.home, folder=folder)
            alone = self.home.processes == 1
            self._synchronised = synchronise(self.flow.learning) if stage.fit.sync_batchnorm and not alone else []
            self.wrapped = self.home.wrap(
                self.flow, all_used=not self.home.distributed or self.flow.uses_all(self._dry)
            )
        # The way of a call through its hooks is left out where nothing is wrapped.
        self._forward: Callable[..., Passed] = self.flow.forward if self.wrapped is self.flow else self.wrapped
        self.optimizers = {name: owner.build() for name, owner in self.flow.owners.items() if owner.named}
        for optimizer in self.optimizers.values():
            choose_kernels(optimizer, self.home.device)
        self._rates = {name: rates_of(optimizer) for name, optimizer in self.optimizers.items()}
        self.followers = [unit for unit in self.flow.units.values() if unit.follows]
        self.averages = self._average()
        self.log = Log(self.flow, number, self.home, log)
        self.step = 0
        self.best: dict[str, dict[str, float]] = {}
        self.best_states: dict[str, dict[str, Tensor]] = {}
        self.best_files: dict[str, str] = {}
        self.start: Figures = {}
        self.latest: Figures = {}
        self.begun, self.restarts = False, 0
        self.good: Saved | None = None
        self.good_file: str | None = None
        self.waited = 0
        self._batches: Generator[Batch, None, None] | None = None
        self._others: dict[str, Generator[Batch, None, None]] = {}
        for name, examples in self.flow.others.items():
            if len(examples) < self.batch:
                raise DataError(
                    f"The node {name!r} has {len(examples)} examples, fewer than a batch of {self.batch}. Give it "
                    "more, or make Fit(batch=...) smaller."
                )
        self._view_seed = (-1, 0)
        self._draw_seed = derive(seed, "draw", number)

    def _own(self, started: Mapping[str, Sparsifier]) -> dict[str, Sparsifier]:
        """Let what makes networks sparse learn with them; by the name of the node."""
        found = {}
        for name, sparsifier in started.items():
            if name not in self.flow.owners:
                sparsifier.close()
                continue
            found[name] = sparsifier.to(self.home.device)
            self.flow.learning.append(sparsifier)
            mine = f"{name}.sparsity"
            self.flow.owners[mine] = Owner(
                mine, {mine: sparsifier}, sparsifier.optimizer, sparsifier.schedule, dict(sparsifier.named_parameters())
            )
        return found

    def _average(self) -> Averages | None:
        how = self.stage.fit.average
        if how is None:
            return None
        parts = self.networks().items()
        return Averages(how, {f"{n}/{part}": m for n, own in parts for part, m in own.items() if part != "sparsity"})

    def _as_shipped(self) -> AbstractContextManager[None]:
        """A block in which the networks are what the stage would ship: their averages, where it makes some."""
        return nullcontext() if self.averages is None else self.averages.in_place()

    def _plan_batches(self) -> None:
        count = len(self.examples)
        self.batch = batch_size(self.stage.fit, count, processes=self.home.processes)
        self.epoch_steps = count // self.batch
        stage = self.stage
        self.steps = stage.steps if stage.steps is not None else self.epoch_steps * (stage.epochs or 0)

    def _lay_out(self, layout: torch.memory_format) -> None:
        """Order the weights of convolutions in memory; the maps that they compute take the order of the weights."""
        for module in [*self.flow.learning, *(unit.module for unit in self.flow.units.values())]:
            if module is not None:
                module.to(memory_format=layout)

    # Position

    @property
    def epoch(self) -> int:
        """The pass over the data that the next step belongs to."""
        return self.step // self.epoch_steps

    @property
    def place(self) -> Position:
        """How far the stage has come."""
        return Position(self.number, self.step, begun=self.begun, restarts=self.restarts)

    @property
    def waiting(self) -> frozenset[str]:
        """The nodes that do not move at the next step."""
        return frozenset() if self.stage.turns is None else self.stage.turns.waiting(self.step)

    @property
    def at_end_of_epoch(self) -> bool:
        """Whether the last step ended a pass over the data, or the stage."""
        return self.step > 0 and (self.step % self.epoch_steps == 0 or self.step == self.steps)

    @property
    def at_look(self) -> bool:
        """Whether the last step ended a pass over the data or the stage, or is one after which to look."""
        every = self.stage.fit.validate_steps
        ended = self.step % self.epoch_steps == 0 or self.step == self.steps
        return self.step > 0 and (ended or (every is not None and self.step % every == 0))

    @property
    def done(self) -> bool:
        """Whether all steps are made, or patience has ended."""
        patience = self.stage.fit.patience
        return self.step >= self.steps or (patience is not None and self.waited >= patience)

    # Steps

    def advance(self) -> None:
        """Make one optimizer step.

        Raises:
            LessenError: a loss cannot be computed, or is not finite; the text names stage, step and edge.
        """
        start = time.perf_counter()
        progress = self.step / self.steps
        try:
            passed = self._gradients(progress)
            rates = self._move(progress)
        except LessenError as error:
            self.stop_fetching()
            if self.home.processes == 1:  # the others are not here to take a mean with
                self.log.flush()
            raise type(error)(f"Stage {self.stage.name!r}, step {self.step}: {error}") from error
        finally:
            self.flow.forget()
        seconds = time.perf_counter() - start
        self.log.step(self.epoch, self.step, progress=progress, parts=passed, rates=rates, seconds=seconds)
        self.step += 1

    def _gradients(self, progress: float) -> list[Passed]:
        home, accumulate = self.home, self.stage.fit.accumulate
        passed = []
        if self._batches is None:
            self._batches = ahead(self.examples, self._parts(self.step))
            self._others = {
                name: ahead(examples, self._parts(self.step, len(examples), name))
                for name, examples in self.flow.others.items()
            }
        if self._view_seed[0] != self.epoch:
            self._view_seed = (self.epoch, derive(self.seed, "view", self.number, self.epoch))
        for part in range(accumulate):
            batch, draw = next(self._batches), self._draw(self.step, part)
            if home.processes == 1 or part == accumulate - 1:
                passed.append(self._pass(batch, progress, draw))
            else:
                with home.apart(self.wrapped):
                    passed.append(self._pass(batch, progress, draw))
        return passed

    def _pass(self, batch: Batch, progress: float, draw: int) -> Passed:
        """One forward and backward pass."""
        accumulate = self.stage.fit.accumulate
        if self.home.device.type != "cpu":
            batch = batch.to(self.home.device)
        more: dict[str, Any] = {} if self.stage.turns is None else {"waiting": self.waiting}
        if self._others:
            more["others"] = {name: next(batches).to(self.home.device) for name, batches in self._others.items()}
        if self.home.scaler is not None:
            more["scale"] = self.home.scaler.scale(torch.ones((), device=self.home.device))
        passed = self._forward(batch, progress, draw=draw, view_seed=self._view_seed[1], **more)
        if passed.total.requires_grad:
            self.home.backward(passed.total if accumulate == 1 else passed.total / accumulate)
        passed.total = passed.total.detach()
        return passed

    def _move(self, progress: float) -> dict[str, float]:
        rates = {}
        for unit in self.followers:
            unit.before_step()
        waiting = frozenset() if self.stage.turns is None else self.waiting
        for name, optimizer in self.optimizers.items():
            owner = self.flow.owners[name]
            if name.removesuffix(".sparsity") in waiting:
                for parameter in owner.parameters:
                    parameter.grad = None
                continue
            factor = owner.schedule.at(progress)
            if self.step == 0 and not factor:  # a warm-up that begins at 0 would waste the step, or a stage of one
                factor = owner.schedule.at(0.5 / self.steps)
            factor *= SLOWER**self.restarts
            rate = rates[name] = owner.optimizer.rate * factor
            sparsifier = self.sparsifiers.get(name)
            move(
                self.home.scaler,
                optimizer,
                owner.parameters,
                rates=self._rates[name],
                factor=factor,
                clip=self.stage.fit.clip,
                before=None if sparsifier is None else partial(sparsifier.before_step, progress, rate),
            )
        if self.home.scaler is not None:
            self.home.scaler.update()
        for name, sparsifier in self.sparsifiers.items():
            if name in waiting:
                continue
            sparsifier.after_step((self.step + 1) / self.steps, rates.get(name, 0.0))
        for unit in self.followers:
            unit.after_step()
        if self.averages is not None:
            self.averages.after_step(self.step)
        return rates

    def _draw(self, step: int, part: int) -> int:
        """The seed of what is drawn in one pass: each part of each process at each step draws its own numbers."""
        # Close seeds are far apart in the generator.
        return self._draw_seed + (step * self.home.processes + self.home.rank) * self.stage.fit.accumulate + part

    def _parts(self, first: int, count: int | None = None, *name: str) -> Iterator[Part]:
        """The seeds and numbers of this process's examples in all steps from `first` on, part by part.

        Args:
            first: The first step.
            count: How many examples there are. None: those of the stage's data.
            name: Of the node of other data whose examples they are.
        """
        accumulate, processes = self.stage.fit.accumulate, self.home.processes
        count = len(self.examples) if count is None else count
        for step in range(first, self.steps):
            epoch, place = divmod(step, count // self.batch)
            if step == first or place == 0:
                drawn = generator(self.seed, "order", self.number, epoch, *name)
                shares = torch.randperm(count, generator=drawn).split(self.batch // processes)
            index_N = shares[place * processes + self.home.rank]
            if accumulate == 1:
                yield self._draw(step, 0), index_N
                continue
            for part, some_N in enumerate(index_N.chunk(accumulate)):
                yield self._draw(step, part), some_N

    # Ends of epochs

    def begin(self) -> dict[str, Any]:
        """Look at the validation split before the first step, which may turn out to be the best; the look as logged.

        What is not a finite number there is left out: the first step will tell why.
        """
        figures = self.home.decide(lambda: self._look(strict=False))
        self.start, self.latest, self.begun = figures, figures, True
        aimed = {name: found for name, found in figures.items() if self._aimed_at(name, found)}
        with self._as_shipped():
            improved = self._remember(aimed)
        return self.log.validation(0, 0, figures, improved)

    def _aimed_at(self, name: str, figures: Mapping[str, float]) -> bool:
        """Whether the stage trains what the figures of a node judge: its loss, or its output.

        Hints train layers in the middle; what the output was before says nothing for or against that.
        """
        return "loss" in figures or self.flow.teaches_output(name)

    def pause(self) -> dict[str, object] | None:
        """Take snapshots at the end of an epoch, and look at the validation split where it is time.

        Returns:
            The look as in the log, or None.

        Raises:
            DataError: a weight or a figure is not finite.
        """
        epoch, fit = (self.step - 1) // self.epoch_steps, self.stage.fit
        ended = self.step % self.epoch_steps == 0 or self.step == self.steps
        if (every := fit.validate_steps) is not None:
            look = self.step % every == 0 or self.step >= self.steps
        else:
            look = ended and ((epoch + 1) % fit.validate_every == 0 or self.step >= self.steps)
        followers = self.followers if ended else []
        if look or followers:
            self.log.flush()
            self.check_weights()
        for unit in followers:
            unit.after_epoch()
        if not look:
            return None
        self.home.share(self._buffers())
        with self._as_shipped():
            figures = self.latest = self.home.decide(self._look)
            improved = self._remember(figures)
        settled = [sparsifier.settled(self.step / self.steps) for sparsifier in self.sparsifiers.values()]
        # Where nothing can be judged, nothing is said against going on.
        self.waited = 0 if improved or not figures or not all(settled) else self.waited + 1
        return self.log.validation(epoch, self.step, figures, improved)

    def _look(self, *, strict: bool = True) -> Figures:
        """The figures on the validation split.

        Args:
            strict: Whether a figure that is not finite is an error; else its node is left out.

        Raises:
            DivergedError: one is not finite.
        """
        with self.home.inside():
            figures = evaluate(self.flow, self.data, self.home.device)
            self.flow.set_mode(training=True)
        bad = [(n, f) for n, found in figures.items() for f, value in found.items() if not abs(value) < LARGEST]
        if bad and strict:
            node, figure = bad[0]
            what = f"the {figure} of {node!r} on the validation split"
            raise diverged(self.flow, self.step - 1, what, node, self.log.trail)
        return {name: found for name, found in figures.items() if name not in dict(bad)}

    def _buffers(self) -> list[Tensor]:
        """What moves with the batches of each process by itself: running statistics, and what follows them."""
        modules = [*self.flow.learning, *(unit.module for unit in self.followers if unit.module is not None)]
        averages = [] if self.averages is None else self.averages.buffers
        return [*{id(value): value for module in modules for value in module.buffers()}.values(), *averages]

    def check_weights(self) -> None:
        """Look for weights that are not finite; the loss that they give would be seen in the next step only.

        Raises:
            DataError: naming the step and the weight.
        """
        for name, owner in self.flow.owners.items():
            finite = [parameter.isfinite().all() for parameter in owner.named.values()]
            if finite and not bool(torch.stack(finite).all()):
                worst = next(path for path, good in zip(owner.named, finite, strict=True) if not bool(good))
                what = f"after the step, the weight {worst!r} of {name!r}"
                raise diverged(self.flow, self.step - 1, what, name.removesuffix(".sparsity"), self.log.trail)

    def gives(self) -> dict[str, float]:
        """What each edge gives on a few training examples, without a trace: it tells this run from another."""
        with self.home.inside():
            return self.flow.gives(self._dry)

    def compare(self, before: Mapping[str, float]) -> None:
        """Whether the edges give what they gave when the checkpoint was written, up to rounding on another machine.

        An edge that gives something else each time (its teacher is a service that samples) is not judged.

        Raises:
            RunError: they do not; something is other than before that no setting tells.
        """
        now, again = self.gives(), None
        for name, value in before.items():
            found = now.get(name, math.nan)
            if math.isclose(value, found, rel_tol=1e-2, abs_tol=1e-5):
                continue
            again = again or self.gives()
            if name not in now or again[name] == found:
                raise RunError(
                    f"This run cannot be resumed: at the same weights, the edge {name} of stage {self.stage.name!r} "
                    f"gave {value:.6g} on the first examples, and gives {found:.6g} now. Its loss, its teacher or the "
                    "data has changed. Resume with the same ones, or choose another folder."
                )

    def _remember(self, figures: Figures) -> list[str]:
        """Keep the states of the networks that are better than ever; their names."""
        improved = []
        for name, parts in self.networks().items():
            sparsifier = self.sparsifiers.get(name)
            if sparsifier is not None and not sparsifier.settled(self.step / self.steps):
                continue
            if name in figures and better(figures[name], self.best.get(name), self.data.task):
                self.best[name] = figures[name]
                improved.append(name)
                if self.stage.fit.keep_best:
                    self.best_files.pop(name, None)
                    self.best_states[name] = {
                        f"{part}.{key}": value
                        for part, module in parts.items()
                        for key, value in state_of(module).items()
                    }
        return improved

    def networks(self) -> dict[str, dict[str, nn.Module]]:
        """The learning networks by node, each with the heads of its branches and with what makes it sparse."""
        found: dict[str, dict[str, nn.Module]] = {}
        for name, unit in self.flow.units.items():
            if unit.learns and unit.network is not None:
                found[name] = {"network": unit.network}
        for name, unit in self.flow.units.items():
            own = unit.module if unit.learns and unit.network is None else None
            if own is not None and (root := self.flow.root(name)) in found:
                found[root][f"{unit.kind}:{name}"] = own
        for name, sparsifier in self.sparsifiers.items():
            found[name]["sparsity"] = sparsifier
        return found

    def finish(self) -> list[dict[str, Any]]:
        """Put the averages and the best states in place, leave all networks in eval mode, and take the hooks away.

        Returns:
            What a person must know of how it ended, as in the log.
        """
        self.log.flush()
        self.home.share(self._buffers())
        if self.averages is not None:
            self.averages.settle()
        for name, parts in self.networks().items():
            if name in self.best_states:
                for part, module in parts.items():
                    mine = {
                        k.removeprefix(f"{part}."): v
                        for k, v in self.best_states[name].items()
                        if k.startswith(f"{part}.")
                    }
                    module.load_state_dict(mine)
        said = [self.log.warning(self.epoch, self.step, found) for found in self._ended()]
        for sparsifier in self.sparsifiers.values():
            sparsifier.close()
        self.flow.set_mode(training=False)
        self.close()
        return said

    def _ended(self) -> Iterator[dict[str, Any]]:
        """Of each network that ends no better on the validation split than it began, what to say of it."""
        for name in self.networks():
            start, last = self.start.get(name), self.latest.get(name)
            if not start or not last or not self._aimed_at(name, start):
                continue
            end = self.best.get(name, last) if name in self.best_states else last
            task = self.data.task
            if better(start, end, task) or (end == start and better(start, last, task)):
                yield ended(self.flow, name, start=start, end=end, last=last, trail=self.log.trail,
                            sparse=name in self.sparsifiers)  # fmt: skip

    def close(self) -> None:
        """Stop fetching, take the hooks away, and lay weights out in memory as other code expects them."""
        self.stop_fetching()
        if self.stage.fit.channels_last:
            self._lay_out(torch.contiguous_format)
        release(self._synchronised)
        self.flow.close()

    def stop_fetching(self) -> None:
        """Let go of the batches that were fetched ahead."""
        if self._batches is not None:
            for batches in (self._batches, *self._others.values()):
                batches.close()
            self._batches, self._others = None, {}
