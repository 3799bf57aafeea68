"""What every step stands in: it is noted, carried out where the route's sessions live, and checked afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar

from sqlalchemy.orm import Session

from mt_paas_db.errors import ServerUnavailableError, TenancyError
from mt_paas_db.isolation.client import ANSWERS
from mt_paas_db.isolation.machine.faults import AstrayError, LeakError
from mt_paas_db.isolation.machine.model import Life
from mt_paas_db.isolation.machine.pool import CONNECTIONS, Pool
from mt_paas_db.isolation.machine.script import Step
from mt_paas_db.isolation.machine.tenants import Tenants
from mt_paas_db.isolation.machine.visit import Visit
from mt_paas_db.isolation.machine.watch import Watch
from mt_paas_db.isolation.observer import Observer
from mt_paas_db.isolation.route import Route

P = ParamSpec("P")
FrameT = TypeVar("FrameT", bound="Frame")
T = TypeVar("T")


class Failure(NamedTuple):
    """What ended a sequence, and the steps up to there."""

    error: Exception
    steps: tuple[Step, ...]


def step(method: Callable[Concatenate[FrameT, P], None]) -> Callable[Concatenate[FrameT, P], None]:
    """Make a method a step: a line of the script, followed by the checks. Raises `MachineError`."""

    @wraps(method)
    def performed(self: FrameT, *args: P.args, **kwargs: P.kwargs) -> None:
        self.history.append(Step(method.__name__, args))
        self.steps += 1
        with self.noted():
            self.pool.run(lambda: self._checked(args, lambda: method(self, *args, **kwargs)))

    return performed  # type: ignore[return-value]  # what `wraps` returns has its first argument by name


class Frame:
    """The tenants, the connections, the open sessions, and what must be true of them after each step.

    Use it by ``with``; `begin` and `end` stand around each sequence of steps. Raises `NoRouteError` where the route
    cannot be taken.

    Attributes:
        visits: The open sessions, by a number.
        history: The steps since `begin`.
        failure: What ended the sequence; None while nothing did.
        failures: What has ended sequences since it was made.
        steps: How many steps were carried out since it was made.
        lacking: Which of `means` there are not, and why; their steps are left out.
        watch_rest: Whether connections at rest are looked at. Off only to see that other checks find a fault too.
    """

    def __init__(self, tenants: Tenants, route: Route, *, pooler: str | None = None, watch_rest: bool = True) -> None:
        self.tenants = tenants
        self.ground = ground = tenants.ground
        self.route = route
        self.watch_rest = watch_rest
        self.pool = Pool(ground, route, pooler=pooler)
        self.watch = Watch(ground.manager, pooler=pooler)
        self.lacking = {name: why for name, why in self.watch.lacking.items() if name in self.means}
        self.observer = Observer(self.tenants.canaries)
        self.visits: dict[int, Visit] = {}
        self.history: list[Step] = []
        self.failure: Failure | None = None
        self.failures: list[Failure] = []
        self.steps = 0
        self._drawn = 0
        self._losses = False

    @property
    def means(self) -> set[str]:
        """What some steps need on this route: the right to terminate backends, a pooler that can be told things."""
        return {"terminate", "reconnect"} if self.route.pooled else {"terminate"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()
        self.pool.close()
        self.watch.close()

    def begin(self) -> None:
        """Begin a sequence: everything as at first, on new connections."""
        self.abandon()
        doubted = self.failure is not None
        self.history, self.failure, self._drawn, self._losses = [], None, 0, False
        self.observer = Observer(self.tenants.canaries)
        self.pool.renew()
        self.tenants.reset(doubted=doubted)

    def end(self) -> None:
        """End a sequence: sessions are rolled back, and every active tenant must still read what it wrote.

        Raises `MachineError`.
        """
        with self.noted():
            self.pool.run(self._leave_all)
            self.pool.run(lambda: self._checked((), self._read_all_at_last))

    def _read_all_at_last(self) -> None:
        for life in self.tenants.living:
            if life.state == "active":
                self.read_at_last(life)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep an error with the steps that led to it, and let it go on."""
        try:
            yield
        except Exception as error:
            self.failure = Failure(error, tuple(self.history))
            self.failures.append(self.failure)
            raise

    def abandon(self) -> None:
        """Leave a sequence where it is: close its sessions, whatever comes of it."""
        self.pool.run(self._leave_all)

    # -- what steps are made of

    def number(self) -> int:
        """Return a number that no step of this sequence has used before."""
        self._drawn += 1
        return self._drawn

    def enter(self, life: Life) -> Visit:
        """Open a session of a tenant, at its id; it may turn out to be a former tenant's of that id."""
        door = self.pool.manager.get_session(life.tenant_id, statement_timeout_s=10)
        opened: Any = self.pool.wait(door.__aenter__()) if self.route.is_async else door.__enter__()
        session: Session = opened.sync_session if self.route.is_async else opened
        generation = session._pin.generation  # type: ignore[attr-defined]
        found = next((known for known in self.tenants.all if known.generation == generation), None)
        if found is None or found.color != life.color:
            raise LeakError(f"the session of {life} belongs to the tenant of generation {generation}: {found}")
        return Visit(found, door, session, opened if self.route.is_async else None)

    def leave(self, visit: Visit, error: BaseException | None = None) -> None:
        """Let a session's block end, with an exception or without."""
        told = (type(error), error, None) if error is not None else (None, None, None)
        self.pool.wait(visit.door.__aexit__(*told)) if self.route.is_async else visit.door.__exit__(*told)

    def begun(self, visit: Visit) -> bool:
        """Begin the session's transaction if there is none; return whether there is one now.

        Only an active tenant's can; a connection that was lost at rest is noticed here, and costs another try.
        """
        if visit.busy:
            return True
        for _ in range(CONNECTIONS + 2):
            try:
                visit.session.connection()
            except ANSWERS as error:
                self.observer.show_error(visit.life.label, error)
                visit.session.rollback()
                if _is_loss(error) and self._losses:
                    continue
                if visit.life.state != "active" and isinstance(error, TenancyError):
                    return False
                raise AstrayError(f"{visit.life} cannot begin a transaction: {_line(error)}") from error
            visit.busy = True
            if visit.life.state != "active":
                raise LeakError(f"{visit.life} was served")
            return True
        raise AstrayError(f"{visit.life} finds no connection that works")

    def said(self, visit: Visit, what: str, act: Callable[[], T]) -> T | None:
        """Return what `act` returns, or None where the session is in no state to be served and was not."""
        try:
            return act()
        except ANSWERS as error:
            self.observer.show_error(visit.life.label, error)
            if visit.sound:
                raise AstrayError(f"{visit.life}: {what} was refused: {_line(error)}") from error
            visit.failed = True
            return None

    def rolled_back(self, visit: Visit) -> None:
        """Roll the session's transaction back; one whose connection is lost may hear so for each savepoint too."""
        for left in reversed(range(len(visit.nested) + 2)):
            try:
                visit.session.rollback()
                break
            except ANSWERS as error:
                self.observer.show_error(visit.life.label, error)
                if not (visit.lost and left):
                    raise AstrayError(f"{visit.life} cannot roll back: {_line(error)}") from error
        visit.ended(committed=False)

    # -- checks

    def _checked(self, arguments: Iterable[object], act: Callable[[], None]) -> None:
        viewer = next((self.visits[n].life.label for n in arguments if isinstance(n, int) and n in self.visits), "")
        with self.observer.reading_logs(viewer):
            act()
        if self.observer.foreign:
            raise LeakError("\n".join(dict.fromkeys(map(str, self.observer.foreign))))
        self._check_rest()
        self._check_truth()

    def _check_rest(self) -> None:
        if not self.watch_rest:
            return
        resting = list(self.pool.rest())
        borne = [
            f"the connection to backend {one.pid} is at rest with {what}" for one in resting for what in one.residue
        ]
        if not self.route.pooled:  # behind a pooler, the backend may serve another client by now
            borne += self.watch.unquiet([one.pid for one in resting])
        if borne:
            raise LeakError("\n".join(borne))

    def _check_truth(self) -> None:
        living = self.tenants.living
        found = self.tenants.truth(living)
        for life in living:
            self.compare(life, found[life.schema], life.rows, "has in its schema")

    def compare(self, life: Life, found: dict[int, Any], wrote: dict[int, Any], what: str) -> None:
        """Raise `LeakError` unless what was found is what was written."""
        if found != wrote:
            lines = [
                f"{life} {what} under {key}: {found.get(key)}; it wrote {wrote.get(key)}"
                for key in sorted(found.keys() | wrote.keys())
                if found.get(key) != wrote.get(key)
            ]
            raise LeakError("\n".join(lines))

    def read_at_last(self, life: Life) -> None:
        """Let a tenant read its rows in a session of its own."""
        raise NotImplementedError

    def _leave_all(self) -> None:
        visits, self.visits = list(self.visits.values()), {}
        for visit in visits:
            with suppress(*ANSWERS):
                visit.session.rollback()
            with suppress(*ANSWERS):
                self.leave(visit, ConnectionAbortedError())
            visit.ended(committed=False)


def _is_loss(error: BaseException) -> bool:
    return isinstance(error, ServerUnavailableError) or not isinstance(error, TenancyError)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
