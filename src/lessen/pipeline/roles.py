"""A scheme as a step, with networks for the roles that a run does not have by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from lessen.core.card import Card
from lessen.core.errors import LessenError, SettingError
from lessen.core.seeds import derive
from lessen.core.settings import settings
from lessen.core.usable import usable
from lessen.graph import Stage
from lessen.operations.reinitialize import redrawn
from lessen.pipeline.networks import freeze, own_copy
from lessen.schemes import Cast, Scheme, role
from lessen.surgery.copying import copy_network
from lessen.zoo import Build

Player = Build | nn.Module


@settings
class Roles:
    """A scheme with more networks than the teacher and the student of a run.

    The network that goes on to the next step is the student of the run, which is the first of its `students`. A number
    makes copies of this student. Networks that are given are copied for each training and never changed.

    Args:
        scheme: Who teaches whom.
        students: How many students learn, that of the run included; or which others learn with it.
        assistants: How many networks are between teacher and student, or which, from large to small.
        teachers: Which networks teach in addition to the original one.
        copies: The weights of copies: "fresh" draws them from the seed, for each copy anew; "copied" are the student's.
    """

    scheme: Scheme
    students: Annotated[int, Field(ge=1)] | tuple[Player, ...] = 1
    assistants: Annotated[int, Field(ge=0)] | tuple[Player, ...] = 0
    teachers: tuple[Player, ...] = ()
    copies: Literal["fresh", "copied"] = "fresh"

    card: ClassVar[Card] = Card(
        row="schemes / roles",
        paper="folklore",
        says="A scheme gets several students, assistants or further teachers as a step of a run.",
        costs="Each further network is computed at every step, and trained if it learns; nothing in the shipped model.",
        fails_when="Modules of a network cannot draw their weights again: fresh copies keep these weights.",
    )

    def stages(self, cast: Cast, /) -> list[Stage]:
        """The stages of the scheme, with copies drawn from the seed 0; a run draws them from its own."""
        return self.played(self.cast(cast, seed=0))

    def cast(self, own: Cast, /, *, seed: int) -> Cast:
        """The networks for all roles.

        Args:
            own: Those of the run.
            seed: From which fresh weights are drawn.

        Raises:
            LessenError: a network cannot be had; the text names its role.
        """
        student = role(own, "student", self)
        students = self.students - 1 if isinstance(self.students, int) else self.students
        cast = {
            **own,
            "students": [student, *self._networks("students", students, student, seed)],
            "teachers": [*own.get("teachers", ()), *self._networks("teachers", self.teachers, student, seed)],
        }
        if assistants := list(self._networks("assistants", self.assistants, student, seed)):
            cast["assistants"] = assistants
        return cast

    def played(self, cast: Cast, /) -> list[Stage]:
        """The stages of the scheme with this cast.

        Raises:
            SettingError: a role is missing, or networks were given for one that the scheme does not have.
        """
        asked = _Asked(cast)
        stages = self.scheme.stages(asked)
        given = {"students": self.students not in (1, ()), "assistants": bool(self.assistants)}
        for name, is_given in {**given, "teachers": bool(self.teachers)}.items():
            if is_given and name not in asked.names:
                raise SettingError(
                    f"Roles: {name}: {type(self.scheme).__name__} has no such role; it has "
                    f"{', '.join(sorted(asked.names & cast.keys()))}. Leave {name} out, or choose another scheme."
                )
        return stages

    def _networks(
        self, name: str, given: int | tuple[Player, ...], student: nn.Module, seed: int
    ) -> Iterator[nn.Module]:
        for number, player in enumerate((None,) * given if isinstance(given, int) else given):
            draw = derive(seed, "roles", name, number)
            try:
                yield self._copy(student, draw) if player is None else _made(player, draw, learns=name != "teachers")
            except LessenError as error:
                raise type(error)(f"Roles: {name}[{number}]: {error}") from error

    def _copy(self, student: nn.Module, seed: int) -> nn.Module:
        if self.copies == "copied":
            return copy_network(student)
        return freeze(redrawn(student, seed=seed), ())


def _made(player: Player, seed: int, *, learns: bool) -> nn.Module:
    network = player.make(seed=seed) if isinstance(player, Build) else player
    return own_copy(network, what="The network") if learns else copy_network(usable(network, what="The network"))


class _Asked(dict[str, Any]):
    """A cast that remembers which roles were asked for."""

    def __init__(self, cast: Cast) -> None:
        super().__init__(cast)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None, /) -> Any:
        self.names.add(name)
        return super().get(name, default)
