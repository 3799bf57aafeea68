"""Another clock for a process: what a revision reads of the time shows when its text is rendered twice.

Put in place after the libraries are loaded and before the service's revisions are; those that look at the time are
given one that is off by more than a year, another hour and another weekday.
"""

from __future__ import annotations

import datetime
import time
from typing import Any

_OFF_S = 400 * 86_400 + 5 * 3_600 + 7 * 60 + 11


def shift() -> None:
    """Shift the clock that Python code in this process sees. There is no way back."""
    _shift_time()
    _shift_datetime()


def _shift_time() -> None:
    now, now_ns = time.time, time.time_ns
    localtime, gmtime, ctime, strftime = time.localtime, time.gmtime, time.ctime, time.strftime
    time.time = lambda: now() + _OFF_S
    time.time_ns = lambda: now_ns() + _OFF_S * 10**9
    time.localtime = lambda seconds=None: localtime(time.time() if seconds is None else seconds)
    time.gmtime = lambda seconds=None: gmtime(time.time() if seconds is None else seconds)
    time.ctime = lambda seconds=None: ctime(time.time() if seconds is None else seconds)
    time.strftime = lambda form, when=None: strftime(form, time.localtime() if when is None else when)


def _shift_datetime() -> None:
    off = datetime.timedelta(seconds=_OFF_S)
    real_datetime, real_date = datetime.datetime, datetime.date

    class Shifted(type):
        """Classes that stand for a real one: what they make, and know as theirs, is of the real one."""

        def __call__(cls: Any, *args: Any, **options: Any) -> Any:
            if cls in stand_ins:
                return cls.__mro__[1](*args, **options)
            return super().__call__(*args, **options)  # of a class that was made from one of these

        def __instancecheck__(cls: Any, instance: Any) -> bool:
            return isinstance(instance, cls.__mro__[1]) if cls in stand_ins else super().__instancecheck__(instance)

        def __subclasscheck__(cls: Any, other: Any) -> bool:
            return issubclass(other, cls.__mro__[1]) if cls in stand_ins else super().__subclasscheck__(other)

    class ShiftedDatetime(real_datetime, metaclass=Shifted):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real_datetime.now(tz) + off

        @classmethod
        def utcnow(cls) -> Any:
            return real_datetime.now(datetime.UTC).replace(tzinfo=None) + off

        @classmethod
        def today(cls) -> Any:
            return real_datetime.now() + off  # as datetime.today() does

    class ShiftedDate(real_date, metaclass=Shifted):  # type: ignore[misc, valid-type]
        @classmethod
        def today(cls) -> Any:
            return real_date.today() + off  # as date.today() does

    stand_ins = {ShiftedDatetime, ShiftedDate}
    datetime.datetime = ShiftedDatetime  # type: ignore[misc]
    datetime.date = ShiftedDate  # type: ignore[misc]
